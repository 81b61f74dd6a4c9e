"""Pitch and style of samples: codes at a fixed rate, from the parts that the stages of a run have written.

1. `codes_of_segments` takes the codes of a batch's segments from a part of RUN/pitch or RUN/style.
2. `codes_of_sample` puts them on the clock of their sample, which counts frames of the encoder: its segments follow
   each other without the pauses between them.

A segment without codes, or with many more or fewer than its units last, has none; nor has a sample with such a segment.
It stays in the shards, for models of units alone.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.errors import TwistError
from pipeline.files import parquet, storage
from pipeline.runs import PITCH, STYLE
from pipeline.sha256sums import SHA256SUMS
from pipeline.stage import checksums, is_finished, read_facts

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

logger = logging.getLogger(__name__)

CODES_TYPE = pa.list_(pa.uint16())
STREAMS = (PITCH, STYLE)
# How much longer or shorter than its units a segment's codes may last, beside one code.
LENGTH_TOLERANCE_S = 0.1


@dataclass(frozen=True)
class Stream:
    """The codes of one stage.

    Attributes:
        name: pitch or style.
        folder: That of its parts.
        rate_hz: Codes a second.
        num_codes: Above every code.
        fingerprint: The model's.
    """

    name: str
    folder: str
    rate_hz: float
    num_codes: int
    fingerprint: str

    def checksums(self) -> dict[str, str]:
        """The sha256 of each part as the stage left it; empty of a stage of a version without.

        Raises:
            TwistError: they are missing.
        """
        try:
            return checksums(self.folder.rpartition("/")[0], self.name)
        except FileNotFoundError:
            raise TwistError(f"{storage.join(self.folder, SHA256SUMS)} is missing; {self.again}") from None

    @property
    def again(self) -> str:
        """What to do where the stage's files are damaged."""
        return f"delete {self.folder} and run `twist {self.name}` again"

    def facts(self) -> dict[str, Any]:
        """What dataset.json says of it."""
        return {"fingerprint": self.fingerprint, "rate_hz": self.rate_hz, "num_codes": self.num_codes}


def streams_of(run: str) -> tuple[Stream, ...]:
    """Pitch and style of a run; none unless it has both."""
    missing = [name for name in STREAMS if not is_finished(run, name)]
    if len(missing) == 1:
        (other,) = set(STREAMS) - set(missing)
        logger.warning("samples carry no %s: %s has no %s beside it (`twist %s`)", other, run, missing[0], missing[0])
    if missing:
        return ()
    streams = []
    for name in STREAMS:
        model = read_facts(run, name)[f"{name}_model"]
        folder = storage.absolute(storage.join(run, name))
        streams.append(
            Stream(name, folder, float(model["rate_hz"]), int(model["num_codes"]), str(model["fingerprint"]))
        )
    return tuple(streams)


def codes_of_segments(segments: pa.Table, part: str, stream: Stream, sums: Mapping[str, str]) -> pa.Array:
    """The codes of segments (CODES_TYPE), null for one without.

    Args:
        segments: `segment_id` of segments with units.
        part: The name of the part of the stream that is about them.
        stream: Whose.
        sums: What `stream.checksums` gives.

    Raises:
        TwistError: the part is missing or damaged, or says nothing of a segment.
    """
    uri = storage.join(stream.folder, part)
    columns = ["segment_id", stream.name]
    try:
        table = parquet.read_unchanged(uri, columns, sums[part]) if part in sums else parquet.read(uri, columns)
    except FileNotFoundError:
        raise TwistError(f"{uri} is missing; {stream.again}") from None
    except parquet.DamagedFileError as error:
        raise TwistError(
            f"{uri} is damaged: it is not as it was when the stage was finished; {stream.again}"
        ) from error
    places = pc.index_in(segments["segment_id"], table["segment_id"])
    if places.null_count:
        missing = segments["segment_id"].filter(pc.is_null(places))[0]
        raise TwistError(f"{uri} says nothing of {missing}; {stream.again}")
    codes = table[stream.name].take(places).combine_chunks()
    if codes.type != CODES_TYPE:
        raise TwistError(f"{uri} holds {codes.type} as {stream.name}, not {CODES_TYPE}; {stream.again}")
    largest = pc.max(pc.list_flatten(codes)).as_py()
    if largest is not None and largest >= stream.num_codes:
        raise TwistError(f"{uri} holds code {largest}, of a model of {stream.num_codes}; {stream.again}")
    return codes


def codes_of_sample(
    codes: Sequence[NDArray[np.uint16] | None], num_frames: Sequence[int], frame_rate_hz: float, stream: Stream
) -> NDArray[np.uint16] | None:
    """The codes of a sample [n] from those of its segments; None unless all of them have codes that fit their length.

    Args:
        codes: Of each segment.
        num_frames: Of each segment's units.
        frame_rate_hz: The encoder's.
        stream: Whose.
    """
    for of_segment, frames in zip(codes, num_frames, strict=True):
        if of_segment is None or not len(of_segment):
            return None
        if abs(len(of_segment) / stream.rate_hz - frames / frame_rate_hz) > 1 / stream.rate_hz + LENGTH_TOLERANCE_S:
            return None
    if len(codes) == 1:
        return codes[0]
    starts = np.cumsum([0, *num_frames[:-1]]) / frame_rate_hz
    end_s = sum(num_frames) / frame_rate_hz
    times_s = np.arange(np.ceil(end_s * stream.rate_hz - 1e-9)) / stream.rate_hz
    found = np.empty(len(times_s), np.uint16)
    of_time = np.searchsorted(starts, times_s, side="right") - 1
    for number, of_segment in enumerate(codes):
        assert of_segment is not None
        is_here = of_time == number
        places = ((times_s[is_here] - starts[number]) * stream.rate_hz + 1e-9).astype(np.int64)
        found[is_here] = of_segment[np.minimum(places, len(of_segment) - 1)]
    return found
