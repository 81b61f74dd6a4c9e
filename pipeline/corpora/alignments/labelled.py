"""What every format of alignments comes down to: labels with times."""

from __future__ import annotations

from pipeline.errors import TwistError

# Label, start and end in seconds; the times are NaN where the file gives none.
Labelled = tuple[str, float, float]

# What aligners write in a tier of words where there is none.
SILENCES = frozenset({"", "sil", "sp", "<eps>", "<sil>", "<silence>"})
# What they write for a word that is not in their dictionary.
UNKNOWN_WORDS = frozenset({"spn", "<unk>", "[unk]"})


class AlignmentError(TwistError):
    """An alignment that cannot be read, or that fits no audio. `reason` is a word for counts."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason, self.detail = reason, detail


def decode(data: bytes) -> str:
    """The text of a file in UTF-8 or UTF-16, both of which Praat writes.

    Raises:
        AlignmentError: it is neither.
    """
    encoding = "utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        raise AlignmentError("bad_alignment", f"it is neither UTF-8 nor UTF-16: {error}") from error


def time_s(field: object, where: str) -> float:
    """A time as a number or as text.

    Raises:
        AlignmentError: it is no time.
    """
    try:
        return float(field)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        raise AlignmentError("bad_alignment", f"{where}: {field!r} is no time") from None
