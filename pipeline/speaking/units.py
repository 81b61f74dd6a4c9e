"""The units of one clip, with their durations and times."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Self

import numpy as np

from pipeline.errors import TwistError
from pipeline.units.encode import run_lengths

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    # Codes of `pitch` and `style` of a clip, at their own rates; see expression.py.
    Codes = Mapping[str, NDArray[np.uint16]]


@dataclass(frozen=True, eq=False)
class Units:
    """Units of one clip. Equal neighbours are one unit that lasts longer.

    `units[2:5]` are the units from the third to the fifth, `a + b` those of `b` after those of `a`.

    Attributes:
        values: The units, uint16 [n].
        durations: Frames that each lasts, uint16 [n]; None where nothing says, as after a speech LM.
        frame_rate_hz: Frames per second.
        codebook_fingerprint: The codebook that the units come from; None where it is not known.

    Raises:
        TwistError: there are more or fewer durations than units, or a duration of 0.
    """

    values: NDArray[np.uint16]
    durations: NDArray[np.uint16] | None = None
    frame_rate_hz: float = 25.0
    codebook_fingerprint: str | None = None

    def __post_init__(self) -> None:
        if self.durations is None:
            return
        if len(self.durations) != len(self.values):
            raise TwistError(f"there are {len(self.durations)} durations for {len(self.values)} units")
        if len(self.durations) and int(self.durations.min()) < 1:
            raise TwistError("a unit lasts at least one frame, but a duration is 0")

    @classmethod
    def of_frames(
        cls, frames: NDArray[np.uint16], frame_rate_hz: float, codebook_fingerprint: str | None = None
    ) -> Self:
        """The units of a clip, given the unit of each of its frames [F]."""
        return cls(*run_lengths(frames), frame_rate_hz, codebook_fingerprint)

    @property
    def frames(self) -> NDArray[np.uint16]:
        """The unit of each frame, [F].

        Raises:
            TwistError: there are no durations.
        """
        return np.repeat(self.values, self.known_durations)

    @property
    def start_s(self) -> NDArray[np.float64]:
        """When each unit begins, in seconds from the start of the clip, [n].

        Raises:
            TwistError: there are no durations.
        """
        durations = self.known_durations
        return (np.cumsum(durations, dtype=np.int64) - durations) / self.frame_rate_hz

    @property
    def end_s(self) -> NDArray[np.float64]:
        """When each unit ends, in seconds from the start of the clip, [n].

        Raises:
            TwistError: there are no durations.
        """
        return np.cumsum(self.known_durations, dtype=np.int64) / self.frame_rate_hz

    @property
    def duration_s(self) -> float:
        """Seconds that all units last together.

        Raises:
            TwistError: there are no durations.
        """
        return float(self.known_durations.sum(dtype=np.int64)) / self.frame_rate_hz

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, span: slice) -> Self:
        return replace(
            self, values=self.values[span], durations=None if self.durations is None else self.durations[span]
        )

    def __add__(self, others: Units) -> Self:
        """Both one after the other, without durations where either has none.

        Raises:
            TwistError: they come from different codebooks.
        """
        require_codebook(others, self.codebook_fingerprint, "but those before them from")
        durations = None
        if self.durations is not None and others.durations is not None:
            durations = np.concatenate([self.durations, others.durations])
        return replace(
            self,
            values=np.concatenate([self.values, others.values]),
            durations=durations,
            codebook_fingerprint=self.codebook_fingerprint or others.codebook_fingerprint,
        )

    @property
    def known_durations(self) -> NDArray[np.uint16]:
        """The durations, [n].

        Raises:
            TwistError: there are none.
        """
        if self.durations is None:
            raise TwistError("these units have no durations; a voice predicts them: voice.with_durations(units)")
        return self.durations


def require_codebook(units: Units, codebook_fingerprint: str | None, wanted_by: str) -> None:
    """Refuses units of another codebook than `codebook_fingerprint`, unless either is not known.

    Args:
        units: The units.
        codebook_fingerprint: The codebook that they must come from.
        wanted_by: Words for the error, between the two codebooks: "but this voice speaks those of".

    Raises:
        TwistError: the codebooks differ.
    """
    found = units.codebook_fingerprint
    if None not in (found, codebook_fingerprint) and found != codebook_fingerprint:
        raise TwistError(
            f"these units come from codebook {found}, {wanted_by} {codebook_fingerprint}: the same numbers mean other "
            f"sounds"
        )
