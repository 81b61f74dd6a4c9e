"""Pairs before they are filtered: their units and texts, or why there are none."""

from __future__ import annotations

import io
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import soundfile

from model.preferences.pair_shards import PARTS
from pipeline.evaluation.item_units import AudioItem, units_of_items
from pipeline.files import storage
from pipeline.preferences.triples import drawn
from pipeline.shards import make_key

if TYPE_CHECKING:
    from collections.abc import Sequence
    from concurrent.futures import Future

    from numpy.typing import NDArray

    from model.encoder.config import EncoderConfig
    from pipeline.evaluation.item_units import ItemUnits
    from pipeline.preferences.triples import Triple
    from pipeline.progress import ReportProgress
    from pipeline.units.codebook import Codebook
    from pipeline.work.cluster import ClusterConfig

    Units = tuple[NDArray[np.uint16], NDArray[np.uint16], NDArray[np.uint16]]

AUDIO = "audio"
# Recordings that are written at once; on S3 each takes a round trip.
WRITTEN_AT_ONCE = 16


@dataclass(frozen=True, eq=False)
class Candidate:
    """A pair that may be kept.

    Attributes:
        pair_id: Unique.
        units: Of prompt, chosen and rejected; None if they cannot be had, for `reason`.
        texts: Of the three; None if they are not known.
        duration_s: Seconds of the three together, as far as they are known.
        split: train or validation, where the source says so.
        facts: What the shards tell of it besides.
        reason, detail: Why there are no units.
    """

    pair_id: str
    units: Units | None
    texts: tuple[str, str, str] | None
    duration_s: float
    split: str | None = None
    facts: dict[str, Any] = field(default_factory=dict)
    reason: str = ""
    detail: str = ""


def speak_texts(
    folder: str, triples: Sequence[Triple], voices: Sequence[str], seed: int, report: ReportProgress
) -> list[Triple]:
    """The triples with audio: those that are only texts are said by a voice, one for the three parts of a row.

    Args:
        folder: Gets the wav files, in `audio`; those that are there are not made again.
        triples: With texts or audio.
        voices: espeak-ng's voices.
        seed: Chooses each row's.
        report: Called after every row.

    Raises:
        TwistError: there is no such voice.
    """
    from pipeline.synthetic.espeak import synthesize

    spoken: list[Triple] = []
    there = set(storage.list_files(storage.join(folder, AUDIO)))
    writing: deque[Future[None]] = deque()
    with ThreadPoolExecutor(WRITTEN_AT_ONCE) as threads:
        for number, triple in enumerate(triples, start=1):
            if triple.audio is not None:
                spoken.append(triple)
                continue
            assert triple.texts is not None
            voice = voices[drawn(seed, "voice", triple.pair_id) % len(voices)]
            names = [f"{make_key(triple.pair_id)}-{part}.wav" for part in PARTS]
            prompt, chosen, rejected = (storage.join(folder, AUDIO, name) for name in names)
            for name, text in zip(names, triple.texts, strict=True):
                if name not in there:
                    buffer = io.BytesIO()
                    soundfile.write(buffer, *synthesize(text, voice), format="WAV")
                    uri = storage.join(folder, AUDIO, name)
                    writing.append(threads.submit(storage.write_bytes, uri, buffer.getvalue()))
            while len(writing) > WRITTEN_AT_ONCE:
                writing.popleft().result()
            spoken.append(type(triple)(triple.pair_id, (prompt, chosen, rejected), triple.texts, triple.split, voice))
            report(number, len(triples), "triples spoken")
        for one in writing:
            one.result()
    return spoken


def tokenize(
    folder: str,
    triples: Sequence[Triple],
    encoder: EncoderConfig,
    codebook: Codebook,
    cluster: ClusterConfig,
    report: ReportProgress,
) -> list[Candidate]:
    """The units of each triple's three parts, each for itself; made on Ray, once, and kept in `folder`.

    Raises:
        RunError: a disk or store fails.
    """
    items = [
        AudioItem(_item_id(triple, part), uri)
        for triple in triples
        for part, uri in zip(PARTS, triple.audio or (), strict=True)
    ]
    units = units_of_items(folder, items, encoder, codebook, cluster, report)
    why = {left_out.item_id: (left_out.reason, left_out.detail) for left_out in units.left_out}
    return [_candidate(triple, units, why) for triple in triples]


def _candidate(triple: Triple, units: ItemUnits, why: dict[str, tuple[str, str]]) -> Candidate:
    rows = [units.of.get(_item_id(triple, part)) for part in PARTS]
    duration_s = sum(row.duration_s for row in rows if row is not None)
    facts = {"speaker": triple.speaker}
    found = [row.units for row in rows if row is not None]
    if len(found) == len(PARTS):
        prompt, chosen, rejected = found
        return Candidate(triple.pair_id, (prompt, chosen, rejected), triple.texts, duration_s, triple.split, facts)
    part = PARTS[next(number for number, row in enumerate(rows) if row is None)]
    reason, detail = why[_item_id(triple, part)]
    return Candidate(triple.pair_id, None, triple.texts, duration_s, triple.split, facts, reason, f"{part}: {detail}")


def _item_id(triple: Triple, part: str) -> str:
    return f"{triple.pair_id}/{part}"
