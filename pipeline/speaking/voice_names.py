"""The names of a vocoder's speakers and styles: speakers.txt and styles.txt beside it, a name a line, in order."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from pipeline.errors import TwistError

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True)
class VoiceNames:
    """Names by number; empty where the vocoder has no such file."""

    speakers: tuple[str, ...] = ()
    styles: tuple[str, ...] = ()

    @classmethod
    def beside(cls, vocoder: Path) -> Self:
        """Those in the folder of a vocoder, or beside its file.

        Raises:
            TwistError: a file is no text in UTF-8.
        """
        folder = vocoder if vocoder.is_dir() else vocoder.parent
        return cls(_names(folder / "speakers.txt"), _names(folder / "styles.txt"))

    def speaker(self, given: int | str | NDArray[np.float32] | None) -> int | NDArray[np.float32] | None:
        """The number of a speaker's name; anything else as it is.

        Raises:
            TwistError: there is no speaker of this name.
        """
        return _number(given, self.speakers, "speaker") if isinstance(given, str) else given

    def style(self, given: int | str | None) -> int | None:
        """The number of a style's name; anything else as it is.

        Raises:
            TwistError: there is no style of this name.
        """
        return _number(given, self.styles, "style") if isinstance(given, str) else given


def _names(path: Path) -> tuple[str, ...]:
    try:
        return tuple(line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip())
    except FileNotFoundError:
        return ()
    except (OSError, UnicodeDecodeError) as error:
        raise TwistError(f"{path} holds no names: {error}") from error


def _number(given: str, names: tuple[str, ...], what: str) -> int:
    if given not in names:
        known = f"it knows {', '.join(names)}" if names else f"no {what}s.txt lies beside it: give a number"
        raise TwistError(f"the vocoder has no {what} {given!r}; {known}")
    return names.index(given)
