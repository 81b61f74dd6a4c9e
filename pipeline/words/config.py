"""Where the words of segments and their times come from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from model.device import Device
from pipeline.errors import TwistError


@dataclass(frozen=True)
class WordsConfig:
    """Where words and their times come from.

    Args:
        source: files: alignments in files; ctc: forced alignment of texts by `model`; pocketsphinx: the same by
            pocketsphinx's own English model (extra `align`); auto: files, and where there is none `model`, if one is
            named.
        alignments: Folders and files with alignments (docs/words.md); by default the corpora's own folders.
        tier: The tier of TextGrids, and MFA's type of rows, that has the words.
        model: A folder with a CTC model of transformers (Wav2Vec2ForCTC, HubertForCTC, ...) and its vocab.json, local
            or s3://.
        device: Where `model` runs; auto uses cuda if there is a GPU.
        work_unit_minutes: Minutes of audio that one worker aligns at a time.
    """

    source: Literal["auto", "files", "ctc", "pocketsphinx"] = "auto"
    alignments: tuple[str, ...] = ()
    tier: str = "words"
    model: str | None = None
    device: Device = "auto"
    work_unit_minutes: float = 30.0

    def __post_init__(self) -> None:
        if self.source == "ctc" and self.model is None:
            raise TwistError("words.source is ctc, which needs words.model: a folder with a CTC model of transformers")
        if self.model is not None and self.source not in ("auto", "ctc"):
            raise TwistError(f"words.model is of no use with words.source {self.source}; leave one out")
        if self.alignments and not self.reads_files:
            raise TwistError(f"words.alignments are of no use with words.source {self.source}; leave one out")
        if not self.work_unit_minutes > 0:
            raise TwistError(f"words.work_unit_minutes must be positive, not {self.work_unit_minutes}")

    @property
    def reads_files(self) -> bool:
        """Whether alignments are looked for in files."""
        return self.source in ("auto", "files")

    @property
    def aligner(self) -> Literal["ctc", "pocketsphinx"] | None:
        """What aligns the texts of recordings without an alignment; None: nothing does."""
        if self.source == "pocketsphinx":
            return "pocketsphinx"
        return "ctc" if self.model is not None else None
