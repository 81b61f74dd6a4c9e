"""Reading through damage: a file's samples in order, with NaN in place of those that cannot be decoded."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from pipeline.audio.decoders import DECODED_AT_ONCE, pass_over
from pipeline.audio.errors import AudioError

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from pipeline.audio.decoders import Decoder

# Where decoding fails, it is tried in steps of this length, which begin at multiples of it: what is lost depends on the
# file alone, not on where reading began.
STEP_S = 0.1
# A decoder that stops so often, one step after the other, has come to the end: of an mp3, say, that does not say how
# long it is and has pictures behind it.
MOST_STOPS = 100
# The reason of an AudioError that damage in a file gives.
UNDECODABLE = "undecodable"


class MendedStream:
    """A file's samples from a frame on.

    Args:
        begin: Makes a decoder that starts at a frame; ends the one that it made before.
        start: The first frame.

    Attributes:
        start, position: The first frame, and the next one.
        failure: The last error that decoding met; None if there was none.
    """

    def __init__(self, begin: Callable[[int], Decoder], start: int) -> None:
        self.start = self.position = start
        self.failure: AudioError | None = None
        self._begin = begin
        self._decoder = begin(start)
        self._step = max(1, round(STEP_S * self._decoder.sample_rate_hz))
        self._rest = self._none()
        self._steps_left = 0
        """Steps to take before reading goes on as usual; 0 if it does."""
        self._has_ended = False
        self._stops = 0

    def read(self, num_frames: int) -> NDArray[np.float32]:
        """Some of the next samples [S, channels], at most `num_frames`; none at the file's end.

        Raises:
            AudioError: the file's bytes cannot be read.
        """
        if not len(self._rest):
            self._rest = self._next(num_frames)
        samples, self._rest = self._rest[:num_frames], self._rest[num_frames:]
        self.position += len(samples)
        return samples

    def pass_over(self, num_frames: int) -> int:
        """Reads and discards up to `num_frames` frames; returns how many there were."""
        return pass_over(self.read, num_frames)

    def _next(self, num_frames: int) -> NDArray[np.float32]:
        if self._has_ended:
            return self._none()
        if not self._steps_left:
            try:
                samples = self._decoder.read(num_frames)
                if not len(samples):
                    self._raise_if_early()
                if self._decoder.marks_losses and np.isnan(samples).any():
                    self.failure = AudioError(UNDECODABLE, "some of it cannot be decoded")
                return samples
            except AudioError as failure:
                _raise_if_of_the_place(failure)
                if not self._decoder.can_start_anywhere:
                    return self._end(failure)
                self.failure = failure
                # The failed read may have been of good samples first.
                self._steps_left = max(num_frames, DECODED_AT_ONCE) // self._step + 2
        return self._take_step()

    def _take_step(self) -> NDArray[np.float32]:
        """Decodes the step that the next frame lies in, alone."""
        first = self.position // self._step * self._step
        pieces, missing = [], self._step
        try:
            self._decoder = self._begin(first)
            while missing and len(samples := self._decoder.read(missing)):
                pieces.append(samples)
                missing -= len(samples)
            samples = np.concatenate([self._none(), *pieces])[self.position - first :]
            if not len(samples):
                self._raise_if_early()
        except AudioError as failure:
            _raise_if_of_the_place(failure)
            if self._decoder.has_met_the_end():
                return self._end(failure)
            self.failure = failure
            self._steps_left = 1  # the first good one ends the damage
            return np.full((first + self._step - self.position, self._decoder.num_channels), np.nan, np.float32)
        self._steps_left -= 1
        self._stops = 0
        return samples if len(samples) else self._end(self.failure)

    def _raise_if_early(self) -> None:
        """Raises an AudioError if the decoder has stopped where neither the file nor what it states is at its end.

        libmpg123 does so at some damage, without an error.
        """
        decoder = self._decoder
        is_early = decoder.num_frames is not None and self.position + self._step < decoder.num_frames
        if is_early and self._stops < MOST_STOPS and decoder.has_bytes_left():
            self._stops += 1
            raise AudioError(UNDECODABLE, "the decoder stopped in the middle of it")

    def _end(self, failure: AudioError | None) -> NDArray[np.float32]:
        self.failure = failure
        self._has_ended = True
        return self._none()

    def _none(self) -> NDArray[np.float32]:
        return np.zeros((0, self._decoder.num_channels), np.float32)


def _raise_if_of_the_place(failure: AudioError) -> None:
    """Raises failures to read the file's bytes: those are no damage in it."""
    if failure.reason != UNDECODABLE:
        raise failure
