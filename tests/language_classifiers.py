"""Small classifiers of languages with random weights, saved as the official ones are."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import torch
from torch import nn

from model.language_id.calibration import Calibration
from model.language_id.ecapa import EcapaClassifier
from model.language_id.pooled import PooledClassifier
from model.language_id.pooled_config import PooledConfig
from model.language_id.pooled_folder import PooledFacts, write_pooled

if TYPE_CHECKING:
    from pathlib import Path

ECAPA_LABELS = ("ab: Abkhazian", "de: German", "en: English", "fr: French", "iw: Hebrew")
WHISPER_LANGUAGES = ("en", "zh", "de", "jw")


def randomize(module: nn.Module, seed: int) -> None:
    """Random weights, and batch norm statistics like those of a trained network."""
    generator = torch.Generator().manual_seed(seed)
    for child in module.modules():
        if isinstance(child, nn.BatchNorm1d):
            assert child.running_mean is not None and child.running_var is not None
            child.running_mean.normal_(generator=generator)
            child.running_var.uniform_(0.5, 2.0, generator=generator)
            child.weight.data.uniform_(0.5, 2.0, generator=generator)
            child.bias.data.normal_(generator=generator)
        elif isinstance(child, nn.Conv1d | nn.Linear):
            scale = child.weight[0].numel() ** -0.5
            child.weight.data.normal_(0.0, scale, generator=generator)
            assert child.bias is not None
            child.bias.data.normal_(0.0, 0.1, generator=generator)


def write_ecapa(folder: Path, seed: int = 0) -> EcapaClassifier:
    """The three files of SpeechBrain's VoxLingua107 model."""
    model = EcapaClassifier(
        len(ECAPA_LABELS),
        num_mels=60,
        channels=32,
        pooled_channels=48,
        attention_channels=8,
        squeeze_channels=8,
        embedding_dim=16,
        hidden_dim=12,
    )
    randomize(model, seed)
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(model.embedding_model.state_dict(), folder / "embedding_model.ckpt")
    torch.save(model.classifier.state_dict(), folder / "classifier.ckpt")
    lines = [f"'{label}' => {number}" for number, label in enumerate(ECAPA_LABELS)]
    (folder / "label_encoder.txt").write_text("\n".join([*lines, "================", "'starting_index' => 0", ""]))
    (folder / "hyperparams.yaml").write_text("pretrained_path: speechbrain/lang-id-voxlingua107-ecapa\n")
    return model.eval()


def write_whisper(folder: Path, multilingual: bool = True, seed: int = 0) -> None:
    """A Whisper of 30 s windows with a handful of languages."""
    from transformers import WhisperConfig, WhisperFeatureExtractor, WhisperForConditionalGeneration

    torch.manual_seed(seed)
    config = WhisperConfig(
        vocab_size=60, num_mel_bins=80, d_model=16, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=32, decoder_ffn_dim=32, max_source_positions=1500,
        max_target_positions=20, decoder_start_token_id=50, bos_token_id=1, eos_token_id=2, pad_token_id=0,
        init_std=0.5,
    )  # fmt: skip
    model = WhisperForConditionalGeneration(config)
    model.generation_config.decoder_start_token_id = 50
    model.generation_config._from_model_config = False  # as in the files that are published
    if multilingual:
        model.generation_config.lang_to_id = {f"<|{code}|>": 51 + i for i, code in enumerate(WHISPER_LANGUAGES)}
    model.save_pretrained(folder)
    WhisperFeatureExtractor(feature_size=80).save_pretrained(folder)


def write_wav2vec2(folder: Path, labels: tuple[str, ...] = ("eng", "deu", "cmn"), seed: int = 0) -> None:
    """A wav2vec 2.0 for sequence classification, as MMS-LID is one."""
    from transformers import Wav2Vec2Config, Wav2Vec2FeatureExtractor, Wav2Vec2ForSequenceClassification

    torch.manual_seed(seed)
    config = Wav2Vec2Config(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, conv_dim=(8, 8, 8),
        conv_kernel=(10, 4, 4), conv_stride=(20, 4, 4), num_feat_extract_layers=3, num_conv_pos_embeddings=4,
        num_conv_pos_embedding_groups=2, classifier_proj_size=8, feat_extract_norm="layer", do_stable_layer_norm=True,
        conv_bias=True, id2label=dict(enumerate(labels)), label2id={label: i for i, label in enumerate(labels)},
        initializer_range=0.5,
    )  # fmt: skip
    Wav2Vec2ForSequenceClassification(config).save_pretrained(folder)
    Wav2Vec2FeatureExtractor(do_normalize=True, return_attention_mask=True).save_pretrained(folder)


def write_other(folder: Path) -> None:
    """A model that is not a language classifier."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps({"architectures": ["HubertModel"], "model_type": "hubert"}))


def write_pooled_classifier(folder: Path, seed: int = 0, other_below: float = 0.2, wanted_from: float = 0.8) -> None:
    """A small classifier as `twist train-language` writes it, on one layer of the embedded tokenizer."""
    torch.manual_seed(seed)
    config = PooledConfig(channels=8, kernel_size=3, attention_channels=4, hidden_size=8)
    classifier = PooledClassifier(config, 256, 3)
    calibration = Calibration(1.0, 0.5, other_below, wanted_from)
    facts = PooledFacts(config, 1, ("en", "de", "fr"), calibration, "nothing, its weights are random")
    write_pooled(folder, "hubert-tiny-25hz", classifier.state_dict(), facts)
