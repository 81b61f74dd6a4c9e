"""What is asked for of a recording (Span), what there is of that (Clip), and how the one becomes the other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import soxr

from pipeline.audio.downmix import ChannelStatistics
from pipeline.audio.errors import AudioError, not_finite, silent
from pipeline.records import SAMPLE_RATE_HZ

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pipeline.audio.decoders import Decoder

# Headers round durations, and lossy decoders pad: a file that ends this much too early or too late is as it should be.
END_TOLERANCE_S = 0.1
# Around samples that are no numbers or cannot be decoded, this much is left out too: it may be damaged unnoticed.
HOLE_MARGIN_S = 0.05
# About -100 dBFS, below the noise of any microphone: a span that never exceeds it holds no recording.
SILENCE_PEAK = 1e-5


@dataclass(frozen=True)
class Span:
    """A stretch of audio; `uri` as in audio_uri.py, `channel` None means all channels, downmixed.

    `reads_on_s` is for the last span of a recording: if the file goes on behind it, up to so many seconds more are
    read, and the rest is counted. None: nothing behind the span is looked at.
    """

    uri: str
    channel: int | None
    start_s: float
    end_s: float
    reads_on_s: float | None = None


@dataclass(frozen=True)
class Hole:
    """A stretch of a clip without audio, in seconds from the clip's start, and why, as in AudioError."""

    start_s: float
    end_s: float
    reason: str
    detail: str


@dataclass(frozen=True)
class Clip:
    """The audio of a span.

    Attributes:
        wav: [S] at 16 kHz; zeros in holes.
        holes: In order and apart. The last may lie behind the wav: the file ends before the span.
        unread_s: Seconds that the file holds behind the wav, if the span reads on.
        remark: What was done to read it, for the counts; None if nothing.
    """

    wav: NDArray[np.float32]
    holes: tuple[Hole, ...] = ()
    unread_s: float = 0.0
    remark: str | None = None

    @property
    def duration_s(self) -> float:
        """The length of the wav in seconds."""
        return len(self.wav) / SAMPLE_RATE_HZ

    @property
    def whole(self) -> slice:
        """The samples of the longest stretch without holes."""
        return max(self.stretches(), key=lambda stretch: stretch.stop - stretch.start)

    def stretches(self) -> list[slice]:
        """The samples of each stretch between holes, in order."""
        edges = [0, *(round(edge_s * SAMPLE_RATE_HZ) for hole in self.holes for edge_s in (hole.start_s, hole.end_s))]
        ends = [*edges[1::2], len(self.wav)]
        return [slice(start, max(start, min(end, len(self.wav)))) for start, end in zip(edges[::2], ends, strict=True)]


class ClipInTheMaking:
    """A span's samples, downmixed and resampled as they come, so that little of them is in memory.

    Attributes:
        start, stop: The span's frames.
        reads_on: How many frames more are wanted; None if none, even if there are.
        num_beyond, num_unread: Frames read behind the span, and left behind these.
        failure: What the decoder met on the way.
    """

    def __init__(self, span: Span, decoder: Decoder, weights: NDArray[np.float32] | None = None) -> None:
        self._rate_hz = rate_hz = decoder.sample_rate_hz
        self.start, self.stop = (round(edge_s * rate_hz) for edge_s in (span.start_s, span.end_s))
        self.reads_on = None if span.reads_on_s is None else round(span.reads_on_s * rate_hz)
        self.tolerance = round(END_TOLERANCE_S * rate_hz)
        self.block_frames = decoder.block_frames
        self.num_unread = 0
        self.failure: AudioError | None = None
        self._duration_s = span.end_s - span.start_s
        self._channel = span.channel
        self._weights = weights
        self._statistics = None
        if span.channel is None and decoder.num_channels > 1 and weights is None:
            self._statistics = ChannelStatistics(decoder.num_channels, rate_hz)
        is_resampled = rate_hz != SAMPLE_RATE_HZ
        self._resampler = soxr.ResampleStream(rate_hz, SAMPLE_RATE_HZ, 1, "float32") if is_resampled else None
        self._wavs: list[NDArray[np.float32]] = []
        self._num_frames = 0
        self._bad: list[tuple[int, int]] = []
        """Frames from the clip's start that are no numbers, as (first, behind the last)."""

    @property
    def num_beyond(self) -> int:
        return max(0, self._num_frames - (self.stop - self.start))

    def add(self, samples: NDArray[np.float32]) -> None:
        """Adds the next samples [S, channels]."""
        mono = self._mix(samples)
        is_bad = ~np.isfinite(mono)
        if is_bad.any():
            edges = np.flatnonzero(np.diff(is_bad, prepend=False, append=False)).reshape(-1, 2) + self._num_frames
            self._bad.extend((int(first), int(last)) for first, last in edges)
            mono = np.where(is_bad, np.float32(0), mono)
        self._num_frames += len(mono)
        self._wavs.append(mono if self._resampler is None else self._resampler.resample_chunk(mono))

    def _mix(self, samples: NDArray[np.float32]) -> NDArray[np.float32]:
        if self._channel is not None or samples.shape[1] == 1:
            return np.ascontiguousarray(samples[:, self._channel or 0])
        if self._weights is not None:
            taken = self._weights > 0
            mixed: NDArray[np.float32] = samples[:, taken] @ self._weights[taken]
            return mixed
        mean: NDArray[np.float32] = samples.mean(axis=1, dtype=np.float32)
        if self._statistics is not None:
            self._statistics.add(samples, mean)
        return mean

    def better_weights(self) -> NDArray[np.float32] | None:
        """The weights of channels, if the mean that was taken is not what should be; else None."""
        return self._statistics.weights() if self._statistics else None

    def finish(self) -> Clip:
        """The clip.

        Raises:
            AudioError: there is nothing in it.
        """
        if self._resampler is not None:
            self._wavs.append(self._resampler.resample_chunk(np.zeros(0, np.float32), last=True))
        wav = self._wavs[0] if len(self._wavs) == 1 else np.concatenate([np.zeros(0, np.float32), *self._wavs])
        read_s = self._num_frames / self._rate_hz
        holes = self._holes(read_s)
        if read_s == 0 or (holes and holes[0].start_s == 0 and holes[0].end_s >= read_s):
            hole = holes[0] if holes else Hole(0, 0, "truncated", "nothing is there")
            raise AudioError(hole.reason, hole.detail)
        if len(wav) and float(np.abs(wav).max()) < SILENCE_PEAK:
            raise silent()
        return Clip(wav, tuple(holes), self.num_unread / self._rate_hz, self._remark())

    def _remark(self) -> str | None:
        if self._weights is None:
            return None
        channels = ", ".join(map(str, np.flatnonzero(self._weights)))
        return f"only channel {channels} of {len(self._weights)}: the others are dead, damaged or of opposite phase"

    def _holes(self, read_s: float) -> list[Hole]:
        holes: list[Hole] = []
        missing_s = self._duration_s - read_s
        for first, last in self._bad:
            start_s = max(0.0, first / self._rate_hz - HOLE_MARGIN_S)
            end_s = min(read_s, last / self._rate_hz + HOLE_MARGIN_S)
            if holes and start_s <= holes[-1].end_s:
                start_s = holes.pop().start_s
            error = self.failure or not_finite()
            holes.append(Hole(start_s, end_s, error.reason, error.detail))
        if missing_s > END_TOLERANCE_S or read_s == 0:
            error = AudioError("truncated", f"{missing_s:.2f} s missing of {self._duration_s:.2f} s")
            if self.failure is not None:
                error = AudioError("truncated", f"{error.detail} ({self.failure.detail})")
            holes.append(Hole(read_s, self._duration_s, error.reason, error.detail))
        return holes
