"""What models of pitch and of style have in common: speech to codes at a fixed rate."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor


class CodeModel(Protocol):
    """A model of pitch or style."""

    @property
    def rate_hz(self) -> float:
        """Codes a second."""
        ...

    @property
    def num_codes(self) -> int:
        """Above every code."""
        ...

    @property
    def min_samples(self) -> int:
        """Samples of the shortest clip that has a code."""
        ...

    @property
    def fingerprint(self) -> str:
        """Equal for models that give equal codes."""
        ...

    def codes(self, wavs: Sequence[Tensor]) -> list[Tensor]:
        """The codes [P] int64 of clips [S] at 16 kHz; a clip's codes do not depend on the other clips."""
        ...
