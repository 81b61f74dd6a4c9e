"""How well a small classifier tells English from other languages by sound alone, by the length of what it hears.

    python benchmarks/language_id.py CLIPS.csv --run RUN [--model language-tiny] [--quick] [--json]

CLIPS.csv has the columns path (relative to the table), language, speaker and source, of speech that the classifier was
not trained on. The clips of a speaker in a language are joined and cut into windows of 3, 10 and 30 s; one that is
shorter than a length has none of it. RUN is the run that the classifier was trained in (`twist train-language`).

    english_lost     share of English windows that the filter would drop, with the classifier's own threshold
    others_found     share of windows in other languages that it would drop
    found_at_10      the same at the threshold that loses a tenth of the English windows of the table
    auc              how often an English window scores higher than another; chance: 0.5

Intervals are of 95%, by a bootstrap over speakers. By chance others_found is english_lost, and found_at_10 0.1. The
phonotactic model beside it is plain: 100 units fitted on the same frames, and two trigrams of these, one of English,
one of the other languages, fitted on the same training speech as it was recorded; a score is the difference of their
log probabilities per unit, and its thresholds come from the same held-out speakers.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
from collections import defaultdict
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import soundfile
import torch
import yaml

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.machine import machine
from jobs.recipe import instantiate
from model.artefacts import local_path
from model.language_id.calibration import calibrate
from model.language_id.frames import LanguageFrames, windows_of
from model.language_id.pooled_folder import load_pooled, probabilities_of, scores_of
from model.lm.ngram import NgramModel
from pipeline.audio.read import AudioError, Span, read_spans
from pipeline.evaluation.measures import Measure, figure
from pipeline.language.train_frames import read_language_frames
from pipeline.records import SAMPLE_RATE_HZ
from pipeline.units import kmeans
from pipeline.units.encode import run_lengths

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    from model.language_id.pooled import PooledClassifier
    from model.language_id.pooled_folder import PooledFacts
    from model.language_id.train_config import LanguageTrainConfig

LENGTHS_S = (3, 10, 30)
NUM_UNITS, ORDER, KMEANS_STEPS, KMEANS_FRAMES = 100, 3, 15, 60_000
QUICK_WINDOWS = 2  # of each speaker


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clips", type=Path, help="the table of clips")
    parser.add_argument("--run", required=True, help="the run that the classifier was trained in")
    parser.add_argument("--model", default="language-tiny", help="the classifier: a name or a folder")
    parser.add_argument("--quick", action="store_true", help="10 s only, two windows of each speaker")
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    lengths = (10,) if arguments.quick else LENGTHS_S
    result = measure(
        arguments.clips, arguments.run, arguments.model, lengths, QUICK_WINDOWS if arguments.quick else None
    )
    if arguments.json:
        print(json.dumps(result))
        return
    print("\n".join(table(result)))


@dataclass(frozen=True)
class Window:
    """A stretch of one speaker: its frames [F, D]."""

    language: str
    speaker: str
    source: str
    length_s: int
    frames: NDArray[np.float32]


def measure(clips: Path, run: str, model: str, lengths_s: Iterable[int], most_windows: int | None) -> dict[str, Any]:
    encoder, classifier, facts = load_pooled(local_path(model), "cpu")
    windows = list(_windows(clips, encoder, lengths_s, most_windows))
    config: LanguageTrainConfig = instantiate(
        {"train_language": yaml.safe_load((Path(run) / "recipe.yaml").read_text())["train_language"]}
    )["train_language"]
    # As they were recorded: copies for training say the same again.
    train, held_out, _ = read_language_frames(
        run, replace(config, views=1), f"{run}/language_training", lambda *_: None
    )
    phonotactic = Phonotactic(train, facts.wanted)
    limits, scores = {}, {}
    tests = [window for window in windows_of(held_out, config.calibrate_window_s) if window[2] in config.calibrate_on]
    held_out_scores = np.array([phonotactic.score(frames.astype(np.float32)) for frames, _, _ in tests])
    is_wanted = np.array([language == facts.wanted for _, language, _ in tests])
    calibration = calibrate(held_out_scores, is_wanted, config.largest_error)
    scores["phonotactic"] = np.array([phonotactic.score(window.frames) for window in windows])
    scores["phonotactic"] = 1 / (1 + np.exp(-(calibration.scale * scores["phonotactic"] + calibration.shift)))
    limits["phonotactic"] = calibration.other_below
    scores["classifier"] = np.array([_probability(classifier, facts, window.frames) for window in windows])
    limits["classifier"] = facts.calibration.other_below
    figures: dict[str, Any] = {}
    for length_s in lengths_s:
        for name in ("classifier", "phonotactic"):
            chosen = np.array([window.length_s == length_s for window in windows])
            of_length = [window for window in windows if window.length_s == length_s]
            figures[f"{name}_{length_s}s"] = _figures(of_length, scores[name][chosen], limits[name], facts.wanted)
    return {
        "ratios": {
            f"{name}_{what}": figures[f"{name}_10s"][what]["value"]
            for name in scores
            for what in ("english_lost", "others_found", "found_at_10")
        },
        "figures": figures,
        "machine": machine(),
    }


def _windows(clips: Path, encoder: Any, lengths_s: Iterable[int], most_windows: int | None) -> Iterable[Window]:
    with clips.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    by_speaker: dict[tuple[str, str, str], list[str]] = defaultdict(list)
    for row in rows:
        by_speaker[row["language"], row["speaker"], row["source"]].append(str(clips.parent / row["path"]))
    for (language, speaker, source), paths in by_speaker.items():
        wavs = []
        for path, wav in zip(paths, read_spans([_whole(path) for path in paths]), strict=True):
            if isinstance(wav, AudioError):
                raise SystemExit(f"{path} cannot be read: {wav}")
            wavs.append(wav)
        joined = np.concatenate(wavs)
        for length_s in lengths_s:
            size = length_s * SAMPLE_RATE_HZ
            starts = range(0, len(joined) - size + 1, size)[:most_windows]
            pieces = [torch.from_numpy(np.ascontiguousarray(joined[start : start + size])) for start in starts]
            for frames in encoder.encode(pieces):
                yield Window(language, speaker, source, length_s, frames.numpy())


def _whole(path: str) -> Span:
    return Span(path, None, 0.0, soundfile.info(path).duration)


class Phonotactic:
    """Two trigrams of units, and the units.

    Args:
        clips: What to fit them on.
        wanted: The language of the first.
    """

    def __init__(self, clips: LanguageFrames, wanted: str) -> None:
        frames = clips.frames[np.random.default_rng(0).permutation(len(clips.frames))[:KMEANS_FRAMES]]
        self._mean, self._scale = frames.astype(np.float32).mean(axis=0), frames.astype(np.float32).std(axis=0)
        self._centroids, _ = kmeans.fit(self._scaled(frames), NUM_UNITS, 0, KMEANS_STEPS)
        sides: tuple[list[NDArray[np.uint16]], list[NDArray[np.uint16]]] = ([], [])
        for index, language in enumerate(clips.languages):
            sides[language == wanted].append(self._units(clips[index]))
        self._others, self._wanted = (NgramModel(side, NUM_UNITS, ORDER) for side in sides)

    def score(self, frames: NDArray[np.float32]) -> float:
        """Log probability of frames [F, D] in the wanted language less that in others, per unit."""
        units = self._units(frames)
        return float((self._others.nll(units)[-1] - self._wanted.nll(units)[-1]).mean())

    def _scaled(self, frames: NDArray[Any]) -> NDArray[np.float32]:
        scaled: NDArray[np.float32] = (frames.astype(np.float32) - self._mean) / self._scale
        return scaled

    def _units(self, frames: NDArray[Any]) -> NDArray[np.uint16]:
        scaled = self._scaled(frames)
        distances = (self._centroids**2).sum(axis=1) - 2 * scaled @ self._centroids.T
        units, _ = run_lengths(distances.argmin(axis=1).astype(np.uint16))
        return units


@torch.inference_mode()
def _probability(classifier: PooledClassifier, facts: PooledFacts, frames: NDArray[np.float32]) -> float:
    logits = classifier(torch.from_numpy(frames)[None], torch.tensor([len(frames)]))
    assert scores_of(logits).isfinite().all()
    return float(probabilities_of(logits, facts.calibration)[0, 0])


def _figures(windows: list[Window], scores: NDArray[np.float64], limit: float, wanted: str) -> dict[str, Any]:
    is_wanted = np.array([window.language == wanted for window in windows])
    tenth = float(np.quantile(scores[is_wanted], 0.1))
    items = pa.table(
        {
            "group": [f"{window.language} {window.speaker}" for window in windows],
            "dropped": scores < limit,
            "below_tenth": scores < tenth,
            "is_wanted": is_wanted,
            "is_other": ~is_wanted,
        }
    )
    items = items.set_column(1, "dropped", items["dropped"].cast(pa.float64()))
    items = items.set_column(2, "below_tenth", items["below_tenth"].cast(pa.float64()))

    def told(numerator: str, where: str, of: pa.Table = items) -> dict[str, Any]:
        found = figure(of, Measure(numerator, numerator, where=where), level=0.95, seed=0)
        return {
            "value": found.value, "low": found.low, "high": found.high,
            "windows": found.num_items, "speakers": found.num_groups,
        }  # fmt: skip

    languages: dict[str, Any] = {}
    for language in sorted({window.language for window in windows} - {wanted}):
        of_language = items.filter(pa.array([window.language == language for window in windows]))
        languages[language] = told("dropped", "is_other", of_language)
    sources: dict[str, Any] = {}
    for source in sorted({window.source for window in windows}):
        of_source = items.filter(pa.array([window.source == source for window in windows]))
        for side, name in (("is_wanted", "english_lost"), ("is_other", "others_found")):
            if any(of_source[side].to_pylist()):
                sources[f"{source} {name}"] = told("dropped", side, of_source)
    above = (scores[is_wanted][:, None] > scores[~is_wanted][None]).mean()
    ties = (scores[is_wanted][:, None] == scores[~is_wanted][None]).mean()
    return {
        "english_lost": told("dropped", "is_wanted"),
        "others_found": told("dropped", "is_other"),
        "found_at_10": told("below_tenth", "is_other"),
        "auc": float(above + ties / 2),
        "by_language": languages,
        "by_source": sources,
    }


def table(result: dict[str, Any]) -> Iterable[str]:
    yield f"{'':22} {'English lost':24} {'others found':24} {'found at a tenth lost':24} AUC"
    for name, figures in result["figures"].items():
        cells = (_cell(figures[what]) for what in ("english_lost", "others_found", "found_at_10"))
        yield f"{name:22} {' '.join(f'{cell:24}' for cell in cells)} {figures['auc']:.3f}"
    yield f"{'by chance':22} {'as many as are found':24} {'as many as are lost':24} {'0.10':24} 0.500"
    for name, figures in result["figures"].items():
        if name.startswith("classifier"):
            yield ""
            for what in ("by_language", "by_source"):
                for key, found in figures[what].items():
                    yield f"{name} {key:28} {_cell(found)} of {found['windows']} windows, {found['speakers']} speakers"


def _cell(found: dict[str, Any]) -> str:
    interval = "" if found["low"] is None else f" [{found['low']:.2f} to {found['high']:.2f}]"
    return f"{found['value']:.2f}{interval}"


if __name__ == "__main__":
    main()
