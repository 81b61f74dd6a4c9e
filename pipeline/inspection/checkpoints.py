"""Checkpoints of what a run trains: speech LM (RUN/checkpoints), vocoder, tokenizers of units and of pitch, and
classifier of languages.

torch, and transformers for speech LMs, are imported where a model is loaded: a run is described without.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from model.training import checkpoint, checkpoint_steps
from model.training.metrics import METRICS, damaged_lines, read_metrics
from pipeline.errors import TwistError
from pipeline.files import foreign_json, parquet, storage

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from torch import nn

Kind = Literal["speech_lm", "tuned_speech_lm", "vocoder", "tokenizer", "pitch_tokenizer", "language_classifier"]
CONFIG = "config.json"
# The figure of a validation by which each trainer knows its best checkpoint.
QUALITY = {
    "speech_lm": "perplexity",
    "tuned_speech_lm": "loss",
    "vocoder": "mel_distance",
    "tokenizer": "masked_loss",
    "pitch_tokenizer": "loss",
    "language_classifier": "loss",
}


def are_at(folder: str) -> bool:
    """Whether a trainer writes its checkpoints to `folder`."""
    return storage.exists(storage.join(folder, METRICS))


def describe_checkpoints(folder: str) -> dict[str, Any]:
    """A trainer's folder: its steps, the best of them, and the curve of its validations.

    Raises:
        TwistError: the newest checkpoint is damaged.
    """
    steps = checkpoint_steps.steps(folder)
    if not steps:
        return {"steps": []}
    progress = checkpoint_steps.load_trainer_state(folder, steps[-1])["progress"]
    kind = _kind_of(checkpoint_steps.step_folder(folder, steps[-1]))
    if "num_pairs_seen" in progress:  # of a model that is otherwise like any other
        kind = "tuned_speech_lm"
    measured = {name: progress.get(name) for name in ("unigram", "initial", "best")}
    return {
        "trains": kind,
        "steps": steps,
        **_seen(progress),
        "best_step": progress["best_step"],
        QUALITY[kind]: {name: _quality(kind, found) for name, found in measured.items()},
        "validation_curve": [
            {"step": line["step"], QUALITY[kind]: _quality(kind, line["validation"])}
            for line in read_metrics(folder)
            if "validation" in line
        ],
    }


def describe_checkpoint(path: str) -> dict[str, Any]:
    """One checkpoint: its model, and how far it was trained (None where it was copied out of its trainer's folder).

    Raises:
        TwistError: it cannot be loaded.
    """
    local = checkpoint.fetch(path)
    kind = _kind_of(path)
    model, facts = _load(kind, local)
    state = _trainer_state(path)
    return {
        "holds": kind,
        **facts,
        "num_parameters": sum(parameter.numel() for parameter in model.parameters()),
        "progress": state and state["progress"],
    }


def verify_checkpoints(folder: str, checksums: bool = True) -> Iterator[str]:
    """Every checkpoint of a trainer: whether its files are what was saved, and its weights are finite.

    So are a tuned model's kept log-probabilities of its reference, whose pages have checksums.
    """
    yield from damaged_lines(folder)
    for name in storage.list_files(folder, ".parquet"):
        yield from _damaged_table(storage.join(folder, name))
    for path in checkpoint_steps.unlisted_steps(folder):
        yield f"{path} is no checkpoint: its {checkpoint.CHECKSUMS} is missing"
    for step in checkpoint_steps.steps(folder):
        yield from verify_checkpoint(checkpoint_steps.step_folder(folder, step), checksums)


def _damaged_table(uri: str) -> Iterator[str]:
    from model.preferences.reference import SCHEMA

    try:
        parquet.read(uri, SCHEMA.names)
    except TwistError as error:
        yield str(error)


def verify_checkpoint(path: str, checksums: bool = True) -> Iterator[str]:
    """The same of one checkpoint; without checksums, only that its model can be loaded and its state read."""
    try:
        # Of the bytes on S3, not of this machine's copy.
        damaged = checkpoint.damaged_files(path) if checksums and checkpoint.is_listed(path) else []
        for name in damaged:
            yield f"{storage.join(path, name)} is not what was saved"
        if damaged:
            return
        model, _ = _load(_kind_of(path), checkpoint.local_copy(path))
        _trainer_state(path)
    except TwistError as error:
        yield str(error)
        return
    for name, parameter in model.named_parameters():
        if not parameter.isfinite().all():
            yield f"{path}: {name} is not finite"


def _kind_of(path: str) -> Kind:
    """What a checkpoint holds, by the configuration of its model."""
    uri = storage.join(path, CONFIG)
    try:
        config = foreign_json.parse(storage.read_bytes(uri))
    except (FileNotFoundError, ValueError) as error:
        raise TwistError(f"{path} is no whole checkpoint: its {CONFIG} is missing or damaged ({error})") from error
    if not isinstance(config, dict):
        raise TwistError(f"{uri} does not describe a model")
    if "languages" in config and "feature_dim" in config:
        return "language_classifier"
    if "model_type" not in config:  # all of transformers' have one
        return "pitch_tokenizer" if "f0_scale_hz" in config else "vocoder"
    return "tokenizer" if config["model_type"] == "hubert" else "speech_lm"


def _load(kind: Kind, folder: Path) -> tuple[nn.Module, dict[str, Any]]:
    """The model, and what is particular to it."""
    if kind == "vocoder":
        from model.vocoder.checkpoint import load_vocoder

        vocoder, fingerprint = load_vocoder(folder)
        return vocoder, {
            "architecture": "hifigan",
            "codebook_size": vocoder.config.num_embeddings,
            "codebook": fingerprint,
            "sample_rate_hz": vocoder.config.sampling_rate,
        }
    if kind == "pitch_tokenizer":
        from model.pitch.checkpoint import load_pitch_model

        pitch = load_pitch_model(folder)
        shape = pitch.config
        return pitch, {
            "architecture": "vqvae",
            "num_codes": shape.num_codes,
            "rate_hz": shape.rate_hz,
            "extractor": shape.extractor,
        }
    if kind == "language_classifier":
        from model.language_id import checkpoint as language_checkpoint

        classifier, labels = language_checkpoint.load(folder)
        return classifier, {"architecture": "pooled", "languages": list(labels)}
    if kind == "tokenizer":
        from model.encoder.hubert_checkpoint import load_hubert

        hubert, normalizes, _ = load_hubert(folder)
        return hubert, {"architecture": "hubert", "normalizes_waveforms": normalizes}
    from transformers.utils import logging

    from model.lm.speech_lm import load_speech_lm

    logging.disable_progress_bar()
    logging.set_verbosity_error()
    speech_lm, vocabulary = load_speech_lm(str(folder))
    return speech_lm, {"architecture": speech_lm.config.model_type, "vocabulary": vocabulary.as_config()}


def _trainer_state(path: str) -> dict[str, Any] | None:
    """What a trainer keeps beside a model; None for a folder that is not a trainer's."""
    folder, _, name = path.rpartition("/")
    is_ours = name.isdigit() and storage.exists(storage.join(path, checkpoint.TRAINER_STATE))
    return checkpoint_steps.load_trainer_state(folder, int(name)) if is_ours else None


def _seen(progress: dict[str, Any]) -> dict[str, int]:
    """How much a model was trained on: units, samples of audio, preference pairs, or frames of pitch."""
    names = ("num_units_seen", "num_samples_seen", "num_pairs_seen", "num_frames_seen")
    return {name: progress[name] for name in names if name in progress}


def _quality(kind: Kind, measured: dict[str, Any] | None) -> float | None:
    """The figure by which validations are compared; None where nothing was measured."""
    if measured is None:
        return None
    figures = measured["mean"] if kind == "speech_lm" else measured
    return float(figures[QUALITY[kind]])
