"""A human study: what raters hear, on a page that goes to them, and the key to it, which does not.

STUDY/page/index.html        the page
STUDY/page/audio/<clip>.wav  what it plays; names say nothing
STUDY/page/mturk.csv         input of a batch on MTurk, a task a line
STUDY/key.csv                clip, set, item, system, anchor_score
STUDY/study.json             settings, models and fingerprints; written last
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from model.lm.sampling_config import SamplingConfig
from pipeline.audio.read import Span
from pipeline.errors import TwistError
from pipeline.evaluation.mmos.page import make_page
from pipeline.evaluation.mmos.recordings import draw_recordings
from pipeline.evaluation.mmos.systems import ANCHOR, ORIGINAL, RESYNTHESIS, Speaker, originals
from pipeline.files import foreign_json, storage
from pipeline.files.checksums import sha256_of
from pipeline.records import SAMPLE_RATE_HZ
from pipeline.speaking.spoken import write_wav
from pipeline.speaking.wav import read_clip

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from model.device import Device
    from pipeline.corpora.source import CorpusConfig
    from pipeline.evaluation.mmos.anchors import Anchor
    from pipeline.evaluation.mmos.recordings import Drawn
    from pipeline.evaluation.mmos.systems import Model
    from pipeline.progress import ReportProgress

FORMAT_VERSION = 1
STUDY, KEY = "study.json", "key.csv"
# What tables call all sets together.
ALL_SETS = "all"
KEY_COLUMNS = ("clip", "set", "item", "system", "anchor_score")
# All clips are equally loud, so that raters do not judge levels; ITU-T P.56 and its kin listen at this one.
LEVEL_DBFS = -26.0


@dataclass(frozen=True)
class StudyConfig:
    """What a study holds.

    Args:
        num_clips: Recordings of each set.
        prompt_s: Seconds of each that models continue.
        continuation_s: Seconds of the continuation.
        min_s: Seconds that a recording must have to be drawn.
        clips_per_part: Clips that a rater does at a time, anchors apart.
        seed: Seed of all that is drawn.
    """

    num_clips: int = 50
    prompt_s: float = 3.0
    continuation_s: float = 10.0
    min_s: float = 6.0
    clips_per_part: int = 20
    seed: int = 0

    def __post_init__(self) -> None:
        for name, holds, rule in (
            ("num_clips", self.num_clips >= 1, "at least 1"),
            ("prompt_s", 0 < self.prompt_s < math.inf, "above 0"),
            ("continuation_s", 0 < self.continuation_s < math.inf, "above 0"),
            ("min_s", self.prompt_s <= self.min_s <= self.max_s, "at least the prompt's, at most the whole clip's"),
            ("clips_per_part", self.clips_per_part >= 1, "at least 1"),
            ("seed", self.seed >= 0, "at least 0"),
        ):
            if not holds:
                raise TwistError(f"{name} is {getattr(self, name)!r}; it must be {rule}")

    @property
    def max_s(self) -> float:
        """Seconds of a clip."""
        return self.prompt_s + self.continuation_s


@dataclass(frozen=True)
class KeyRow:
    """What a clip is: of which set, item and system, and for an anchor its known score."""

    clip: str
    set: str
    item: str
    system: str
    anchor_score: float | None = None


@dataclass(frozen=True)
class _System:
    """What is compared: its name, the wav [S] and rate of each recording, and of a model what study.json says of it."""

    name: str
    wavs: Iterator[tuple[NDArray[np.float32], int]]
    description: dict[str, Any] | None = None


def prepare_study(
    folder: Path,
    config: StudyConfig,
    sets: Sequence[CorpusConfig],
    models: Sequence[Model],
    anchors: Sequence[Anchor],
    sampling: SamplingConfig,
    *,
    vocoder: str | None,
    device: Device,
    report: ReportProgress,
) -> dict[str, Any]:
    """Makes a study; returns what its study.json says.

    Args:
        folder: Where to; it must not hold a study yet.
        config: Its settings.
        sets: Where recordings are drawn.
        models: What continues them. The first one's tokenizer and voice make the resynthesis too.
        anchors: Clips of known score.
        sampling: How models draw units; lengths are the study's.
        vocoder: The voice of all models; None: of each its own.
        device: Where models run.
        report: Takes the number of clips that are made.

    Raises:
        TwistError: there is a study in the folder, a set has too few recordings or is called ALL_SETS, a model cannot
            be loaded, or names repeat.
    """
    if (folder / STUDY).exists() or (folder / "page").exists():
        raise TwistError(f"{folder} holds a study already; name another folder, or delete it")
    _refuse_repeated([corpus.label for corpus in sets], "sets")
    _refuse_repeated([model.name for model in models], "models")
    if ALL_SETS in (corpus.label for corpus in sets):
        raise TwistError(f"a set cannot be called {ALL_SETS!r}, as tables call all sets together; give NAME=FOLDER")
    span_s = {"prompt_s": config.prompt_s, "min_s": config.min_s, "max_s": config.max_s}
    drawn = [one for corpus in sets for one in draw_recordings(corpus, config.num_clips, seed=config.seed, **span_s)]
    rng = np.random.default_rng(config.seed)
    num_clips = len(drawn) * (len(models) + 2) + len(anchors)
    ids = _clip_ids(num_clips, rng)
    key: list[KeyRow] = []
    audio = hashlib.sha256()

    def add(row: KeyRow, wav: NDArray[np.float32], rate_hz: int) -> None:
        path = folder / "page" / "audio" / f"{row.clip}.wav"
        write_wav(path, at_level(wav), rate_hz)
        audio.update(f"{row.clip} {sha256_of(str(path))}\n".encode())
        key.append(row)
        report(len(key), num_clips, "clips", row.system)

    told = []
    for system in _systems(drawn, config, models, sampling, vocoder, device):
        for one, (wav, rate_hz) in zip(drawn, system.wavs, strict=True):
            add(KeyRow(next(ids), one.set_name, one.item, system.name), wav, rate_hz)
        told += [system.description] if system.description else []
    for anchor in anchors:
        wav = read_clip(Span(anchor.path, None, 0.0, math.inf), anchor.path)
        add(KeyRow(next(ids), "", Path(anchor.path).name, ANCHOR, anchor.score), wav, SAMPLE_RATE_HZ)

    parts = _parts(key, config.clips_per_part, rng)
    fingerprint = hashlib.sha256(audio.digest() + json.dumps(parts).encode()).hexdigest()[:16]
    _write_text(folder / "page" / "index.html", make_page(fingerprint, parts, config.prompt_s))
    rows = [["part", "audio_base"], *([str(number), ""] for number in range(1, len(parts) + 1))]
    _write_text(folder / "page" / "mturk.csv", _csv(rows))
    _write_text(
        folder / KEY, _csv([KEY_COLUMNS, *(["" if v is None else str(v) for v in _values(row)] for row in key)])
    )
    study = {
        "format_version": FORMAT_VERSION,
        "fingerprint": fingerprint,
        "settings": {**asdict(config), "level_dbfs": LEVEL_DBFS, "sampling": asdict(sampling)},
        "sets": [{"name": corpus.label, "root": storage.absolute(corpus.root)} for corpus in sets],
        "systems": [ORIGINAL, RESYNTHESIS, *(model.name for model in models)],
        "models": told,
        "anchors": [asdict(anchor) for anchor in anchors],
        "num_clips": num_clips,
        "num_parts": len(parts),
    }
    _write_text(folder / STUDY, json.dumps(study, indent=2) + "\n")
    return study


def read_key(folder: Path) -> tuple[str, dict[str, KeyRow]]:
    """The fingerprint of a study, and what each of its clips is.

    Raises:
        TwistError: the folder holds no study, or it is damaged.
    """
    try:
        study = foreign_json.parse((folder / STUDY).read_text())
        rows = csv.DictReader(io.StringIO((folder / KEY).read_text()))
        key = {
            row["clip"]: KeyRow(
                row["clip"],
                row["set"],
                row["item"],
                row["system"],
                float(row["anchor_score"]) if row["anchor_score"] else None,
            )
            for row in rows
        }
        return str(study["fingerprint"]), key
    except FileNotFoundError as error:
        raise TwistError(f"{folder} holds no study ({Path(error.filename).name} is missing)") from None
    except (ValueError, KeyError, TypeError) as error:
        raise TwistError(f"the study in {folder} is damaged: {error!r}; prepare it again") from error


def at_level(wav: NDArray[np.float32]) -> NDArray[np.float32]:
    """A clip [S] at LEVEL_DBFS, or as near to it as its peaks allow."""
    rms, peak = float(np.sqrt(np.mean(np.square(wav, dtype=np.float64)))), float(np.abs(wav).max())
    if rms == 0:
        return wav
    return (wav * min(10 ** (LEVEL_DBFS / 20) / rms, 0.99 / peak)).astype(np.float32)


def _systems(
    drawn: Sequence[Drawn],
    config: StudyConfig,
    models: Sequence[Model],
    sampling: SamplingConfig,
    vocoder: str | None,
    device: Device,
) -> Iterator[_System]:
    """One model is in memory at a time."""
    yield _System(ORIGINAL, originals(drawn))
    for number, model in enumerate(models):
        speaker = Speaker(model, vocoder, device)
        if number == 0:
            yield _System(RESYNTHESIS, speaker.resyntheses(drawn))
        wavs = speaker.continuations(drawn, config.prompt_s, config.max_s, sampling)
        yield _System(model.name, wavs, speaker.describe())


def _clip_ids(num_clips: int, rng: np.random.Generator) -> Iterator[str]:
    ids = dict.fromkeys(rng.bytes(5).hex() for _ in range(2 * num_clips + 8))
    assert len(ids) >= num_clips
    return iter(ids)


def _parts(key: Sequence[KeyRow], clips_per_part: int, rng: np.random.Generator) -> list[list[str]]:
    """The clips of each part: all anchors in each, the others dealt out at random, evenly."""
    anchors = [row.clip for row in key if row.system == ANCHOR]
    others = [row.clip for row in key if row.system != ANCHOR]
    mixed = [others[place] for place in rng.permutation(len(others)).tolist()]
    num_parts = -(-len(mixed) // clips_per_part)
    # Sorted, since the order in which clips were made tells systems apart.
    return [sorted([*mixed[number::num_parts], *anchors]) for number in range(num_parts)]


def _refuse_repeated(names: Sequence[str], what: str) -> None:
    if repeated := next((name for name in names if names.count(name) > 1), None):
        raise TwistError(f"two {what} are called {repeated!r}; name them, as in NAME=FOLDER")


def _values(row: KeyRow) -> list[Any]:
    return [getattr(row, column) for column in KEY_COLUMNS]


def _csv(rows: Sequence[Sequence[str]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def _write_text(path: Path, text: str) -> None:
    storage.write_bytes(str(path), text.encode())
