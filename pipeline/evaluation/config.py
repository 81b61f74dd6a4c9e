"""Which benchmarks a run is measured on: their data, and how they are scored."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from model.lm.scoring_config import ScoringConfig
from pipeline.errors import TwistError


@dataclass(frozen=True)
class Slm21Config:
    """sWUGGY or sBLIMP of the ZeroSpeech 2021 challenge (sLM21).

    Args:
        folder: The data set: a folder with lexical/ and syntactic/, or slamkit's folder of numbered pairs.
        split: The part to measure on.
        submission: Folder in which to write the scores as ZeroSpeech wants them; none by default.
    """

    folder: str | None = None
    split: Literal["dev", "test"] = "dev"
    submission: str | None = None


@dataclass(frozen=True)
class StoryClozeConfig:
    """Spoken StoryCloze: a story that ends as it should, against one that does not.

    Args:
        spoken: Folder of sSC: pairs with a wrong ending about the same things.
        topic: Folder of tSC: pairs with the ending of another story.
    """

    spoken: str | None = None
    topic: str | None = None


@dataclass(frozen=True)
class FolderConfig:
    """A benchmark that is one folder.

    Args:
        folder: The data set.
    """

    folder: str | None = None


@dataclass(frozen=True)
class PairsConfig:
    """Any pairs of audio files of which the first should be likelier.

    Args:
        source: A folder with positive/ and negative/, of equal file names; or a CSV or TSV with columns positive and
            negative, and perhaps id and group.
        name: What results call it.
    """

    source: str | None = None
    name: str = "pairs"

    def __post_init__(self) -> None:
        if not self.name.replace("-", "").replace("_", "").isalnum():
            raise TwistError(f"evaluation.pairs.name names a file: letters, digits, - and _, not {self.name!r}")


@dataclass(frozen=True)
class EvaluationConfig:
    """What to measure a speech LM on, and how.

    Args:
        swuggy: Words against non-words.
        sblimp: Grammatical sentences against others.
        storycloze: Stories against stories with another ending.
        salmon: Acoustic consistency and alignment.
        pairs: Pairs of your own.
        scoring: What of a sequence is scored.
    """

    swuggy: Slm21Config = field(default_factory=Slm21Config)
    sblimp: Slm21Config = field(default_factory=Slm21Config)
    storycloze: StoryClozeConfig = field(default_factory=StoryClozeConfig)
    salmon: FolderConfig = field(default_factory=FolderConfig)
    pairs: PairsConfig = field(default_factory=PairsConfig)
    scoring: ScoringConfig = field(default_factory=ScoringConfig)
