"""Folders of models that others made: whatever is in them, no code of theirs runs, and what is refused is a sentence.

A speech LM, a tokenizer and a voice are tried in test_memory.py and where they are loaded.
"""

from __future__ import annotations

import contextlib
import json
import pickle
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import transformers
from tokenizers import Tokenizer
from tokenizers.models import WordLevel

from model.ctc.recognizer import load_recognizer
from model.language_id.classifier import load_language_classifier
from model.lm.text_tokenizer import read_tokenizer
from pipeline.errors import TwistError
from pipeline.evaluation.sentiment.classifier import find_classifier
from pipeline.evaluation.speech.asr import find_asr
from pipeline.evaluation.speech.text_lm import find_text_lm

if TYPE_CHECKING:
    from collections.abc import Callable

WAV2VEC2: dict[str, Any] = {
    "model_type": "wav2vec2",
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "conv_dim": [16],
    "conv_kernel": [10],
    "conv_stride": [5],
    "num_feat_extract_layers": 1,
    "num_conv_pos_embeddings": 4,
    "num_conv_pos_embedding_groups": 2,
    "vocab_size": 32,
    "pad_token_id": 0,
}
LABELS: dict[str, Any] = {"LABEL_0": "negative", "LABEL_1": "positive"}
OPT = {
    "model_type": "opt",
    "vocab_size": 40,
    "hidden_size": 16,
    "ffn_dim": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
}
BERT = {"model_type": "bert", "vocab_size": 40, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
# The config of each kind of model, and what loads one from its folder.
MODELS: dict[str, tuple[dict[str, Any], Callable[[str], object]]] = {
    "text LM": ({**OPT, "architectures": ["OPTForCausalLM"]}, lambda folder: find_text_lm(folder, "cpu").score("a b")),
    "ASR": (
        {**WAV2VEC2, "architectures": ["Wav2Vec2ForCTC"]},
        lambda folder: find_asr(folder, "cpu")(np.ones(16_000, np.float32)),
    ),
    "classifier of text": (
        {**BERT, "architectures": ["BertForSequenceClassification"]},
        lambda folder: find_classifier(folder, "text", LABELS, "cpu").label("a b"),
    ),
    "classifier of speech": (
        {**WAV2VEC2, "architectures": ["Wav2Vec2ForSequenceClassification"]},
        lambda folder: find_classifier(folder, "speech", LABELS, "cpu").label(np.ones(16_000, np.float32)),
    ),
    "aligner": ({**WAV2VEC2, "architectures": ["Wav2Vec2ForCTC"]}, lambda folder: load_recognizer(folder, "cpu")),
    "classifier of languages": (
        {**WAV2VEC2, "architectures": ["Wav2Vec2ForSequenceClassification"]},
        lambda folder: load_language_classifier(folder, "cpu"),
    ),
}
EVIL = "from pathlib import Path\nPath({path!r}).touch()\nclass Evil:\n    pass\n"


class Touches:
    """Unpickled, it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Writes the folder of a model, with code in it that makes the file `ran`."""
    # Whoever sits at a terminal and says yes to everything.
    monkeypatch.setattr("builtins.input", lambda *_: "y")

    def write_folder(config: dict[str, Any], of_tokenizer: dict[str, Any] | None = None) -> str:
        folder = tmp_path / "model"
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps(config))
        (folder / "evil.py").write_text(EVIL.format(path=str(tmp_path / "ran")))
        extractor = {"feature_extractor_type": "Wav2Vec2FeatureExtractor", "sampling_rate": 16_000, "feature_size": 1}
        if "conv_dim" in config:
            (folder / "preprocessor_config.json").write_text(json.dumps({**extractor, **(of_tokenizer or {})}))
        (folder / "tokenizer_config.json").write_text(json.dumps(of_tokenizer or {}))
        Tokenizer(WordLevel({"a": 0, "b": 1}, unk_token="a")).save(str(folder / "tokenizer.json"))
        (folder / "vocab.json").write_text(json.dumps({"a": 1, "|": 2, "<pad>": 0}))
        return str(folder)

    return write_folder


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(
    "settings",
    [
        {"model_type": "mine", "auto_map": {"AutoConfig": "evil.Evil", "AutoModelForCausalLM": "evil.Evil"}},
        {"num_hidden_layers": 2**40},
        {"hidden_size": 2**40},
        {"intermediate_size": {"a": {"vocab_size": 2**60}}},
    ],
    ids=["auto_map", "layers", "size", "inner size"],
)
def test_a_hostile_config(name: str, settings: dict[str, Any], write: Callable[..., str], tmp_path: Path) -> None:
    config, load = MODELS[name]
    folder = write({**config, **settings})
    with pytest.raises(TwistError) as told:
        load(folder)
    assert not (tmp_path / "ran").exists()
    assert "auto_map" in str(told.value) or "at most" in str(told.value), told.value


@pytest.mark.parametrize("name", MODELS)
def test_a_tokenizer_that_brings_code(name: str, write: Callable[..., str], tmp_path: Path) -> None:
    config, load = MODELS[name]
    code = {"AutoTokenizer": ["evil.Evil", "evil.Evil"], "AutoFeatureExtractor": "evil.Evil"}
    folder = write(config, {"auto_map": code, "tokenizer_class": "Evil", "feature_extractor_type": "Evil"})
    # Where tokenizer.json says it all, the code is not needed.
    for read in (load, read_tokenizer):
        with contextlib.suppress(TwistError):
            read(folder)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("name", MODELS)
def test_weights_that_would_run_code(name: str, write: Callable[..., str], tmp_path: Path) -> None:
    config, load = MODELS[name]
    folder = write(config)
    Path(folder, "pytorch_model.bin").write_bytes(pickle.dumps(Touches(tmp_path / "ran")))
    with pytest.raises(TwistError) as told:
        load(folder)
    assert not (tmp_path / "ran").exists()
    assert "weights_only" not in str(told.value), "torch's own advice is to let the file run its code"


@pytest.mark.parametrize("name", MODELS)
def test_weights_that_are_not_finite(name: str, write: Callable[..., str]) -> None:
    """Their answers would be a label, a letter or a figure like any other, or would be left out of a mean."""
    config, load = MODELS[name]
    folder = write(config)
    kind = getattr(transformers, config["architectures"][0])
    model = kind(transformers.AutoConfig.for_model(**config))
    next(model.parameters()).data.view(-1)[0] = float("nan")
    model.save_pretrained(folder)
    with pytest.raises(TwistError, match=r"holds values in .* that are not finite"):
        load(folder)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("content", ["[]", '"a"', "[" * 200_000, "{", '{"architectures": 3}', '{"architectures": [3]}'])
def test_a_config_that_is_none(name: str, content: str, write: Callable[..., str]) -> None:
    folder = write({})
    Path(folder, "config.json").write_text(content)
    with pytest.raises(TwistError):
        MODELS[name][1](folder)
