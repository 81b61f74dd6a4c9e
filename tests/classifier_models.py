"""Tiny classifiers of transformers, of random weights: one reads texts, one hears speech."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    PreTrainedTokenizerFast,
    Wav2Vec2Config,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2ForSequenceClassification,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

SENTIMENTS = ("negative", "neutral", "positive")
EMOTIONS = ("angry", "default", "happy", "sad")


def write_text_classifier(folder: Path, texts: Iterable[str], labels: Sequence[str] = SENTIMENTS) -> Path:
    """A BERT over the words of some texts."""
    folder.mkdir(parents=True)
    words = sorted({word.strip(".,").lower() for text in texts for word in text.split()})
    vocabulary = {word: number for number, word in enumerate(["<pad>", "<unk>", *words])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", unk_token="<unk>").save_pretrained(folder)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=40,
        num_labels=len(labels),
        id2label=dict(enumerate(labels)),
        label2id={label: number for number, label in enumerate(labels)},
        initializer_range=0.5,
    )
    BertForSequenceClassification(config).eval().save_pretrained(folder)
    return folder


def write_speech_classifier(folder: Path, labels: Sequence[str] = EMOTIONS) -> Path:
    """A wav2vec 2.0 for the classification of clips."""
    folder.mkdir(parents=True)
    Wav2Vec2FeatureExtractor().save_pretrained(folder)
    torch.manual_seed(0)
    config = Wav2Vec2Config(
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        conv_dim=(16, 16),
        conv_kernel=(80, 20),
        conv_stride=(40, 16),
        num_conv_pos_embeddings=8,
        num_conv_pos_embedding_groups=2,
        classifier_proj_size=8,
        num_labels=len(labels),
        id2label=dict(enumerate(labels)),
        label2id={label: number for number, label in enumerate(labels)},
    )
    model = Wav2Vec2ForSequenceClassification(config).eval()
    with torch.no_grad():  # so that clips differ
        model.classifier.weight *= 100
    model.save_pretrained(folder)
    return folder
