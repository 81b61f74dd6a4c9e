"""Units of a benchmark's audio: tokenized as the pipeline does it, on Ray, once for all later evaluations.

    <folder>/units/<key>/part-*.parquet    a row an item (SCHEMA)

The key is a hash of the codebook, the items' names, and the names, sizes and ages of their files; for an expressive
model also of its models of pitch and style, whose codes stand beside the units.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import torch

from pipeline.audio.read import AudioError, Clip, probe
from pipeline.errors import TwistError
from pipeline.evaluation.results import LeftOut
from pipeline.files import audio_uri, parquet, storage
from pipeline.runs import part_files
from pipeline.speaking.code_models import load_code_models
from pipeline.stage import digest
from pipeline.units.encode import UnitEncoder, as_tensors, run_lengths
from pipeline.work import dataflow
from pipeline.work.plan import WorkPlan, name_chunks
from pipeline.work.retry import parts_to_retry

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from model.code_model import CodeModel
    from model.device import Device
    from model.encoder.config import EncoderConfig
    from model.pitch.model_config import Extractor
    from pipeline.progress import ReportProgress
    from pipeline.units.codebook import Codebook
    from pipeline.work.cluster import ClusterConfig
    from pipeline.work.plan import Chunk

    RunLengths = tuple[NDArray[np.uint16], NDArray[np.uint16]]

SCHEMA = pa.schema(
    [
        pa.field("item_id", pa.string(), nullable=False),
        pa.field("duration_s", pa.float64(), nullable=False),
        pa.field("units", pa.list_(pa.uint16())),
        pa.field("durations", pa.list_(pa.uint16())),
        pa.field("drop_reason", pa.string()),
        pa.field("drop_detail", pa.string()),
    ]
)
WITH_CODES = pa.schema([*SCHEMA, pa.field("pitch", pa.list_(pa.uint16())), pa.field("style", pa.list_(pa.uint16()))])
# Seconds of audio that an actor encodes together.
CHUNK_S = 300.0
# Benchmarks state no lengths. What a header says too little is read on for this long.
READS_ON_S = 60.0
# An item is read and encoded as a whole: of half an hour, in 700 MB. A FLAC of a day of nothing is a small file.
MOST_ITEM_S = 1800.0
# Headers that are read at once; on S3 each takes a round trip.
HEADERS_AT_ONCE = 32


@dataclass(frozen=True)
class AudioItem:
    """A file of a benchmark, or the stretch of one from `start_s` to `end_s` (None: to its end).

    `channel` None means all channels, downmixed.
    """

    item_id: str
    uri: str
    start_s: float = 0.0
    end_s: float | None = None
    channel: int | None = None


@dataclass(frozen=True)
class CodeSource:
    """The models of pitch and style that an expressive speech LM hears with: a folder or a name, and a fingerprint.

    F0 comes from `extractor`; None: from what the model of pitch was trained on.
    """

    pitch: str
    style: str
    fingerprints: tuple[str, str]
    extractor: Extractor | None = None

    def load(self, device: Device) -> dict[str, CodeModel]:
        """The models, as `pitch` and `style`."""
        return load_code_models(self.pitch, self.style, device, self.extractor)


@dataclass(frozen=True)
class UnitRow:
    """The units of an item without repeats, uint16 [n], the frames that each lasts, uint16 [n], and its length.

    `pitch` [P] and `style` [Q] are codes at their models' rates, for expressive models.
    """

    units: NDArray[np.uint16]
    durations: NDArray[np.uint16]
    duration_s: float
    pitch: NDArray[np.uint16] | None = None
    style: NDArray[np.uint16] | None = None

    @property
    def frames(self) -> NDArray[np.uint16]:
        """The unit of each frame, [F]."""
        return np.repeat(self.units, self.durations)


@dataclass(frozen=True)
class ItemUnits:
    """Units by item, the items that have none, and fingerprints of the units and of the files that they come from."""

    of: Mapping[str, UnitRow]
    left_out: tuple[LeftOut, ...]
    fingerprint: str
    audio_fingerprint: str


class EncodeItems:
    """Encodes the items of a chunk, in a worker."""

    def __init__(self, encoder: EncoderConfig, codebook: Codebook, codes: CodeSource | None = None) -> None:
        torch.set_num_threads(1)
        self._encode = UnitEncoder(encoder, codebook)
        self._code_models = {} if codes is None else codes.load(encoder.device)

    def __call__(self, chunk: Chunk, clips: Sequence[Clip | AudioError]) -> pa.Table:
        outcomes = [clip if isinstance(clip, AudioError) else self._whole(clip) for clip in clips]
        wavs = [wav for wav in outcomes if not isinstance(wav, AudioError)]
        frames = iter(self._encode(wavs))
        codes = {name: iter(model.codes(as_tensors(wavs)) if wavs else ()) for name, model in self._code_models.items()}
        durations_s = [0.0 if isinstance(clip, AudioError) else clip.duration_s for clip in clips]
        made = [outcome if isinstance(outcome, AudioError) else run_lengths(next(frames)) for outcome in outcomes]
        table = _part(chunk.ids, durations_s, made)
        for name, of_kept in codes.items():
            column = [None if isinstance(one, AudioError) else next(of_kept).numpy().astype(np.uint16) for one in made]
            table = table.append_column(WITH_CODES.field(name), pa.array(column, WITH_CODES.field(name).type))
        return table

    def _whole(self, clip: Clip) -> NDArray[np.float32] | AudioError:
        """The samples of an undamaged clip: half a word is another item."""
        if clip.holes:
            return AudioError(clip.holes[0].reason, clip.holes[0].detail)
        if self._encode.num_frames(len(clip.wav)) == 0:
            return AudioError("too_short", f"{len(clip.wav)} samples give no frame")
        for name, model in self._code_models.items():
            if len(clip.wav) < model.min_samples:
                return AudioError("too_short", f"{len(clip.wav)} samples give no code of {name}")
        return clip.wav


def units_of_items(
    folder: str,
    items: Sequence[AudioItem],
    encoder: EncoderConfig,
    codebook: Codebook,
    cluster: ClusterConfig,
    report: ReportProgress,
    codes: CodeSource | None = None,
) -> ItemUnits:
    """The units of each item: those in `folder` if they were made before, else made now.

    Args:
        folder: Where the units of benchmarks are kept, e.g. RUN/evaluation.
        items: With unique ids.
        encoder: What the codebook was fitted on.
        codebook: The codebook.
        cluster: How much of the cluster to use.
        report: Called after every chunk.
        codes: What gives pitch and style beside units; None: nothing.

    Raises:
        TwistError: two items have one id.
        RunError: a disk or store fails.
    """
    ids = [item.item_id for item in items]
    if len(set(ids)) != len(ids):
        ((twice, _),) = Counter(ids).most_common(1)
        raise TwistError(f"the benchmark has two items that are called {twice}")
    with ThreadPoolExecutor(HEADERS_AT_ONCE) as threads:
        headers = list(threads.map(_look_at, items))
    found = [(item, header) for item, header in zip(items, headers, strict=True) if not isinstance(header, AudioError)]
    left_out = [
        LeftOut(item.item_id, header.reason, header.detail)
        for item, header in zip(items, headers, strict=True)
        if isinstance(header, AudioError)
    ]
    if not found:
        return ItemUnits({}, tuple(left_out), digest(codebook.fingerprint), digest())
    audio = _audio_fingerprint(found)
    heard_with = (codebook.fingerprint, *(codes.fingerprints if codes else ()))
    parts = storage.absolute(storage.join(folder, "units", digest(*heard_with, audio)[:16]))
    for uri in parts_to_retry(parts):
        storage.delete(uri)
    dataflow.run_chunks(
        WorkPlan.of(_plan(found), "item_id"),
        parts,
        EncodeItems,
        {"encoder": encoder, "codebook": codebook, "codes": codes},
        _all_left_out if codes is None else _all_left_out_with_codes,
        cluster,
        report,
    )
    units: dict[str, UnitRow] = {}
    for table in parquet.read_many(part_files(parts)):
        for row in table.to_pylist():
            if row["units"] is None:
                left_out.append(LeftOut(row["item_id"], row["drop_reason"], row["drop_detail"]))
            else:
                of_item, durations, *of_codes = (
                    np.asarray(row[name], np.uint16) for name in ("units", "durations", "pitch", "style") if name in row
                )
                units[row["item_id"]] = UnitRow(of_item, durations, row["duration_s"], *of_codes)
    in_order = {item.item_id: units[item.item_id] for item, _ in found if item.item_id in units}
    content = (part for item_id, row in in_order.items() for part in _content(item_id, row))
    return ItemUnits(in_order, tuple(left_out), digest(*heard_with, *content), audio)


def _content(item_id: str, row: UnitRow) -> list[str | bytes]:
    codes = (each.tobytes() for each in (row.pitch, row.style) if each is not None)
    return [item_id, row.frames.tobytes(), *codes]


def _look_at(item: AudioItem) -> tuple[float, str] | AudioError:
    """Where an item ends, in seconds, by its file's header; and what tells the file from others of its name."""
    try:
        place = audio_uri.parse(item.uri)
        version = storage.version(place.file if place else item.uri)
        duration_s = probe(item.uri).duration_s
    except FileNotFoundError:
        return AudioError("missing", "there is no such file")
    except AudioError as error:
        return error
    end_s = duration_s if item.end_s is None else min(item.end_s, duration_s)
    if end_s <= item.start_s:
        return AudioError("truncated", f"it ends at {duration_s:.2f} s, before the stretch begins")
    if end_s - item.start_s > MOST_ITEM_S:
        return AudioError("too_long", f"{end_s - item.start_s:.0f} s, but an item has at most {MOST_ITEM_S:.0f}")
    return end_s, version


def _audio_fingerprint(found: Sequence[tuple[AudioItem, tuple[float, str]]]) -> str:
    total = hashlib.sha256()
    for item, (_, version) in found:
        # Not the whole path: a benchmark that was moved is the same.
        name = item.uri.rpartition("/")[2]
        total.update(f"\n{item.item_id}\t{name}\t{version}\t{item.start_s}\t{item.end_s}\t{item.channel}".encode())
    return total.hexdigest()


def _plan(found: Sequence[tuple[AudioItem, tuple[float, str]]]) -> pa.Table:
    ends_s = [end_s for _, (end_s, _) in found]
    durations_s = [end_s - item.start_s for item, (end_s, _) in found]
    return pa.table(
        {
            "work_unit": name_chunks(["items"] * len(found), durations_s, CHUNK_S),
            "item_id": [item.item_id for item, _ in found],
            "uri": [item.uri for item, _ in found],
            "channel": pa.array([item.channel for item, _ in found], pa.int16()),
            "start_s": [item.start_s for item, _ in found],
            "end_s": ends_s,
            "reads_on_s": pa.array([READS_ON_S if item.end_s is None else None for item, _ in found], pa.float64()),
        }
    )


def _all_left_out(chunk: Chunk, error: AudioError) -> pa.Table:
    return _part(chunk.ids, [0.0] * len(chunk.ids), [error] * len(chunk.ids))


def _all_left_out_with_codes(chunk: Chunk, error: AudioError) -> pa.Table:
    none = pa.nulls(len(chunk.ids), WITH_CODES.field("pitch").type)
    table = _all_left_out(chunk, error)
    for name in ("pitch", "style"):
        table = table.append_column(WITH_CODES.field(name), none)
    return table


def _part(ids: Sequence[str], durations_s: Sequence[float], made: Sequence[RunLengths | AudioError]) -> pa.Table:
    units = [None if isinstance(one, AudioError) else one for one in made]
    errors = [one if isinstance(one, AudioError) else None for one in made]
    return pa.table(
        {
            "item_id": list(ids),
            "duration_s": list(durations_s),
            "units": [one and one[0] for one in units],
            "durations": [one and one[1] for one in units],
            "drop_reason": [error and error.reason for error in errors],
            "drop_detail": [error and error.detail for error in errors],
        },
        schema=SCHEMA,
    )
