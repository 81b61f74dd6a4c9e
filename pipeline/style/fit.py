"""Fits a style model to a run: features of its encoder, averaged over each second, to clusters or to labels.

1. Segments are drawn, `max_hours` of them, and their features averaged over each second.
2. Features are scaled to zero mean and unit variance.
3. k-means finds clusters; or a linear layer tells labels apart (multinomial logistic regression).

A tenth of the recordings is held out, of all kinds alike, and tells how good the model is. Unlike the trainings of
networks this is one fit over vectors that fit in memory, 3,600 an hour, and begins anew when it is stopped.
"""

from __future__ import annotations

import csv
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from model.encoder.encoder import load_encoder
from model.style.model import PooledStyle, pooled
from pipeline.audio.read import AudioError, read_clips, whole_wavs
from pipeline.corpora.manifest import iterate_tables
from pipeline.errors import TwistError, brief
from pipeline.units import kmeans
from pipeline.units.codebook_fit import draw_segments
from pipeline.units.encode import as_tensors
from pipeline.work.plan import WorkPlan

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from model.encoder.config import EncoderConfig
    from model.encoder.encoder import Encoder
    from model.style.config import StyleTrainConfig
    from pipeline.progress import ReportProgress

HELD_OUT_SHARE = 0.1
KMEANS_STEPS = 30
LBFGS_STEPS = 200
SPEAKER = "speaker"


@dataclass(frozen=True)
class StyleFit:
    """How well a style model fits.

    Attributes:
        num_codes: Its codes.
        num_seconds: Codes' worth of speech that it was fitted on.
        num_held_out: Of recordings that it was not.
        code_perplexity: exp of the entropy of the held-out codes; `num_codes` where all are equally frequent.
        accuracy: linear: the share of held-out seconds whose label is told right.
        chance: linear: the share of the commonest label among them.
    """

    num_codes: int
    num_seconds: int
    num_held_out: int
    code_perplexity: float
    accuracy: float | None = None
    chance: float | None = None


def fit_style(
    run: str, config: StyleTrainConfig, encoder_config: EncoderConfig, folder: str, report: ReportProgress
) -> StyleFit:
    """Fits a style model on a run's audio and writes it.

    Args:
        run: The run's folder, with segments.
        config: How to fit.
        encoder_config: Whose features.
        folder: Where the model is written.
        report: Called after every chunk of audio.

    Raises:
        TwistError: labels are missing, nothing can be read, or there is too little speech.
    """
    recordings, features = _features(run, config, load_encoder(encoder_config), report)
    is_held_out = np.array([_is_held_out(recording) for recording in recordings])
    if config.labels is not None:
        labels = _labels(run, config.labels)
        is_known = np.array([recording in labels for recording in recordings])
        if not is_known.any():
            raise TwistError(f"train_style.labels {config.labels} name none of the recordings of {run}")
        recordings = [recording for recording, known in zip(recordings, is_known, strict=True) if known]
        features, is_held_out = features[is_known], is_held_out[is_known]
        names = tuple(sorted({labels[recording] for recording in recordings}))
        targets = np.array([names.index(labels[recording]) for recording in recordings])
    fitted = features[~is_held_out]
    if not len(fitted):
        raise TwistError(f"no speech of {run} is left to fit a style model on; give more recordings")
    mean, scale = fitted.mean(axis=0), fitted.std(axis=0)
    weights = {"mean": torch.from_numpy(mean), "scale": torch.from_numpy(np.where(scale > 0, scale, 1).astype("f4"))}
    scaled = (fitted - mean) / weights["scale"].numpy()
    encoder = load_encoder(encoder_config)
    if config.labels is None:
        order = np.random.default_rng(config.seed).permutation(len(scaled))
        centroids, _ = kmeans.fit(scaled[order], config.num_codes, config.seed, KMEANS_STEPS)
        model = PooledStyle(encoder, encoder_config, "kmeans", {**weights, "centroids": torch.from_numpy(centroids)})
    else:
        if len(names) < 2:
            raise TwistError(f"train_style.labels {config.labels} are all {names[0]!r}; give two or more")
        linear = _linear(scaled, targets[~is_held_out], len(names), config.penalty)
        model = PooledStyle(encoder, encoder_config, "linear", {**weights, **linear}, names)
    model.save(Path(folder))
    found = model.codes_of(torch.from_numpy(features[is_held_out])).numpy()
    shares = np.bincount(found, minlength=1) / max(1, len(found))
    shares = shares[shares > 0]
    perplexity = float(np.exp(-(shares * np.log(shares)).sum()))
    if config.labels is None or not len(found):
        return StyleFit(model.num_codes, len(fitted), len(found), perplexity)
    told = targets[is_held_out]
    chance = float(np.bincount(told).max() / len(told))
    return StyleFit(model.num_codes, len(fitted), len(found), perplexity, float((found == told).mean()), chance)


def _features(
    run: str, config: StyleTrainConfig, encoder: Encoder, report: ReportProgress
) -> tuple[list[str], NDArray[np.float32]]:
    """The recording of each second of drawn speech, and the features [N, D]; in an order that the seed decides."""
    segments = draw_segments(run, config.max_hours, config.seed)
    recording_of = dict(zip(segments["segment_id"].to_pylist(), segments["recording_id"].to_pylist(), strict=True))
    frames_per_code = encoder.sample_rate_hz // encoder.hop_samples
    plan = WorkPlan.of(segments, "segment_id")
    recordings: list[str] = []
    features: list[NDArray[np.float32]] = []
    for number in range(len(plan)):
        chunk = plan[number]
        heard = [
            (id, wav)
            for id, wav in zip(chunk.ids, whole_wavs(read_clips(chunk.spans)), strict=True)
            if not isinstance(wav, AudioError) and len(wav) >= encoder.min_samples
        ]
        for (id, _), frames in zip(heard, encoder.encode(as_tensors([wav for _, wav in heard])), strict=True):
            means = pooled(frames, frames_per_code).cpu().numpy()
            features.append(means)
            recordings += [recording_of[id]] * len(means)
        report(number + 1, len(plan), "chunks")
    if not features:
        raise TwistError(f"none of the {len(segments)} drawn segments of {run} could be read")
    return recordings, np.concatenate(features)


def _is_held_out(recording: str) -> bool:
    place = int.from_bytes(hashlib.blake2b(recording.encode(), digest_size=8).digest(), "big") / 2**64
    return place < HELD_OUT_SHARE


def _labels(run: str, source: str) -> dict[str, str]:
    """The label of each recording that has one."""
    columns = ["recording_id", "speaker"]
    rows = [row for table in iterate_tables(run, columns) for row in table.to_pylist()]
    if source == SPEAKER:
        return {row["recording_id"]: row["speaker"] for row in rows if row["speaker"] is not None}
    named = _read_labels(source)
    found = {}
    for row in rows:
        parts = row["recording_id"].split("/")
        ends = ("/".join(parts[start:]) for start in range(len(parts)))
        if (label := next((named[end] for end in ends if end in named), None)) is not None:
            found[row["recording_id"]] = label
    return found


def _read_labels(path: str) -> dict[str, str]:
    try:
        with Path(path).open(encoding="utf-8", newline="") as file:
            rows: Sequence[dict[str, str]] = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise TwistError(f"train_style.labels: {path} cannot be read: {brief(error)}") from error
    if not rows or not {"recording", "label"} <= rows[0].keys():
        raise TwistError(f"train_style.labels: {path} has no rows with columns `recording` and `label`")
    return {row["recording"]: row["label"] for row in rows if row["recording"] and row["label"]}


def _linear(
    features: NDArray[np.float32], targets: NDArray[np.int64], num_labels: int, penalty: float
) -> dict[str, torch.Tensor]:
    """Weight [K, D] and bias [K] of multinomial logistic regression, every label with the same share of the loss."""
    inputs, labels = torch.from_numpy(features).double(), torch.from_numpy(targets)
    weight = torch.zeros(num_labels, inputs.shape[1], dtype=torch.float64, requires_grad=True)
    bias = torch.zeros(num_labels, dtype=torch.float64, requires_grad=True)
    counts = torch.bincount(labels, minlength=num_labels).clamp(min=1)
    of_label = len(labels) / (num_labels * counts.double())
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=LBFGS_STEPS, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        value = torch.nn.functional.cross_entropy(inputs @ weight.T + bias, labels, of_label)
        value = value + penalty * weight.square().sum()
        torch.autograd.backward(value)
        return value

    optimizer.step(loss)  # type: ignore[no-untyped-call]
    return {"weight": weight.detach().float(), "bias": bias.detach().float()}
