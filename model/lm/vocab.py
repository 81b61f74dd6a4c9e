"""The mapping between units and a speech LM's token ids; all code uses this one."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from pipeline.errors import TwistError

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from transformers import PretrainedConfig

    from pipeline.shards import Dataset


# Tables are padded to multiples of up to 64 rows, for speed.
MAX_SPARE_ROWS = 63
# What a model of pitch and style has in its config, and what others have in place of it.
STREAM_FIELDS: dict[str, Any] = {
    "num_pitch": 0,
    "num_style": 0,
    "pitch_offset": 0,
    "pitch_fingerprint": None,
    "style_fingerprint": None,
}


@dataclass(frozen=True)
class Vocabulary:
    """Maps units of one codebook to token ids: ids below `offset` are specials, unit `u` has id `u + offset`.

    The layout is that of Meta's published TWIST models, whose config.json also has `offset`. There is no BOS or EOS
    unless asked for: as in the paper's models, a sequence starts with its first unit, which is never scored. Others'
    models were trained with an id before each sequence, `bos_id`: slamkit's, which have it behind each too, as EOS, and
    SpiRit-LM's. `of_dataset` gives either.

    Args:
        codebook_size: Size of the codebook.
        offset: Id of unit 0.
        pad_id: Id that fills rows up to a common length; one of the specials.
        codebook_fingerprint: The codebook that the units come from; None if the model does not say.
        bos_id: Id at the start of the model's sequences; None if they start with a unit.
        counts_rows: Whether `codebook_size` is but the number of the table's rows from `offset` on, the last of which
            may stand for nothing: other people's configs do not say how many units there are.
        text_size: Ids of text, from 0 on; 0 for a model of units alone. Two ids follow, [TEXT] and [SPEECH], which say
            what comes next, and then the units.
        num_pitch: Codes of pitch that the model also says; 0: none.
        num_style: Codes of style, whose ids follow those of pitch.
        pitch_offset: Id of pitch code 0, behind the units; 0 where there is none.
        pitch_fingerprint, style_fingerprint: The models that the codes come from; None if the model does not say.
    """

    codebook_size: int
    offset: int = 1
    pad_id: int = 0
    codebook_fingerprint: str | None = None
    bos_id: int | None = None
    text_size: int = 0
    counts_rows: bool = field(default=False, compare=False)
    num_pitch: int = 0
    num_style: int = 0
    pitch_offset: int = 0
    pitch_fingerprint: str | None = None
    style_fingerprint: str | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.codebook_size <= 2**16:
            raise TwistError(f"a vocabulary has 1 to 65536 units, not {self.codebook_size}")
        if not 0 <= self.pad_id < self.offset:
            raise TwistError(f"the pad id ({self.pad_id}) must be one of the ids below the offset ({self.offset})")
        if self.text_size and self.offset != self.text_size + 2:
            raise TwistError(
                f"units of a model of text begin behind its {self.text_size} ids of text, [TEXT] and [SPEECH], not at "
                f"{self.offset}"
            )
        if self.bos_id is not None and not 0 <= self.bos_id < self.offset:
            raise TwistError(f"the id of BOS ({self.bos_id}) must be one of the ids below the offset ({self.offset})")
        if bool(self.num_pitch) != bool(self.num_style) or min(self.num_pitch, self.num_style) < 0:
            raise TwistError(f"a vocabulary has pitch and style, or neither, not {self.num_pitch} and {self.num_style}")
        if self.num_pitch and (not self.text_size or self.pitch_offset < self.offset + self.codebook_size):
            raise TwistError(
                f"pitch begins behind text and units, not at {self.pitch_offset} with {self.text_size} ids of text and "
                f"{self.codebook_size} units"
            )

    @property
    def is_expressive(self) -> bool:
        """Whether the model says pitch and style beside units."""
        return self.num_pitch > 0

    @property
    def is_metas_expressive(self) -> bool:
        """Whether it is laid out as Meta's SpiRit-LM EXPRESSIVE, which does not say whose codes it has."""
        return (self.num_pitch, self.num_style, self.style_fingerprint) == (64, 100, None)

    @property
    def style_offset(self) -> int:
        """Id of style code 0."""
        return self.pitch_offset + self.num_pitch

    @property
    def text_id(self) -> int | None:
        """The id before text; None for a model of units alone."""
        return self.text_size or None

    @property
    def speech_id(self) -> int | None:
        """The id before units; None for a model of units alone."""
        return self.text_size + 1 if self.text_size else None

    @property
    def switch_ids(self) -> tuple[int, ...]:
        """[TEXT] and [SPEECH]; none in a model of units alone."""
        return (self.text_size, self.text_size + 1) if self.text_size else ()

    @property
    def start_ids(self) -> tuple[int, ...]:
        """The ids that stand before units: BOS, [SPEECH], both, or none where a sequence starts with a unit."""
        return tuple(special for special in (self.bos_id, self.speech_id) if special is not None)

    @property
    def end_ids(self) -> tuple[int, ...]:
        """The ids behind units: that of BOS in slamkit's models, and in ours with `train.bos_eos`; none in others."""
        return () if self.bos_id is None or self.text_size else (self.bos_id,)

    @property
    def num_marks(self) -> int:
        """BOS and EOS around a sample of units: 2, or 0 in a model that has not both."""
        return 2 if self.end_ids else 0

    @property
    def vocab_size(self) -> int:
        """Rows of the model's embedding table: specials, units, pitch and style."""
        return self.style_offset + self.num_style if self.is_expressive else self.offset + self.codebook_size

    @property
    def speech_ids(self) -> NDArray[np.int64]:
        """The ids that speech is made of: units, pitch and style."""
        units = np.arange(self.offset, self.offset + self.codebook_size)
        return np.concatenate([units, np.arange(self.pitch_offset, self.vocab_size)]) if self.is_expressive else units

    def is_unit(self, ids: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which ids are units, of any shape."""
        found: NDArray[np.bool_] = (ids >= self.offset) & (ids < self.offset + self.codebook_size)
        return found

    def is_pitch(self, ids: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which ids are pitch, of any shape."""
        found: NDArray[np.bool_] = (ids >= self.pitch_offset) & (ids < self.pitch_offset + self.num_pitch)
        return found

    def is_style(self, ids: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which ids are style, of any shape."""
        found: NDArray[np.bool_] = (ids >= self.style_offset) & (ids < self.style_offset + self.num_style)
        return found

    @classmethod
    def of_dataset(cls, dataset: Dataset, *, bos_eos: bool = False) -> Self:
        """The vocabulary of the units in these shards; with BOS and EOS it is that of slamkit: pad, both, units."""
        return cls(
            int(dataset.info["num_units"]),
            offset=2 if bos_eos else 1,
            codebook_fingerprint=dataset.info["codebook"]["fingerprint"],
            bos_id=1 if bos_eos else None,
        )

    @classmethod
    def of_streams(cls, dataset: Dataset, text_size: int) -> Self:
        """The vocabulary of a text LM's ids, and of the units, pitch and style in these shards.

        Raises:
            TwistError: the shards carry no pitch and style.
        """
        units = cls.of_dataset(dataset)
        if not dataset.has_streams:
            raise TwistError(
                f"{dataset.uri} carries no pitch and style: run `twist pitch` and `twist style`, then `twist pack "
                f"--again`"
            )
        pitch, style = dataset.info["pitch"], dataset.info["style"]
        return cls(
            units.codebook_size,
            offset=text_size + 2,
            codebook_fingerprint=units.codebook_fingerprint,
            text_size=text_size,
            num_pitch=int(pitch["num_codes"]),
            num_style=int(style["num_codes"]),
            pitch_offset=text_size + 2 + units.codebook_size,
            pitch_fingerprint=pitch["fingerprint"],
            style_fingerprint=style["fingerprint"],
        )

    @classmethod
    def from_config(cls, config: PretrainedConfig) -> Self:
        """Reads the vocabulary from a model's config: ours, Meta's, or slamkit's after `slamkit.read_config`.

        Raises:
            TwistError: the config has no `offset`, so the model does not speak units.
        """
        offset = getattr(config, "offset", None)
        if not isinstance(offset, int):
            raise TwistError("its config.json has no `offset`: this is not a speech LM over units")
        pad_id = getattr(config, "pad_token_id", None)
        if not (isinstance(pad_id, int) and 0 <= pad_id < offset):
            pad_id = 0  # LLaMA's have none, or -1. Any id will do: what pads a row is masked, and never drawn.
        num_units = getattr(config, "num_units", None)
        return cls(
            num_units or config.vocab_size - offset,
            offset,
            pad_id,
            getattr(config, "codebook_fingerprint", None),
            getattr(config, "unit_bos_id", None),  # not bos_token_id: Meta's configs have one that means nothing
            getattr(config, "text_size", None) or 0,
            counts_rows=num_units is None,
            **{name: getattr(config, name, None) or default for name, default in STREAM_FIELDS.items()},
        )

    def as_config(self) -> dict[str, int | str | None]:
        """The entries of a model's config that hold this vocabulary."""
        return {
            "vocab_size": self.vocab_size,
            "num_units": self.codebook_size,
            "offset": self.offset,
            "pad_token_id": self.pad_id,
            "bos_token_id": self.bos_id,
            "eos_token_id": self.bos_id,
            "unit_bos_id": self.bos_id,
            "codebook_fingerprint": self.codebook_fingerprint,
            **({"text_size": self.text_size} if self.text_size else {}),
            **({name: getattr(self, name) for name in STREAM_FIELDS} if self.is_expressive else {}),
        }

    def encode(self, units: NDArray[np.uint16]) -> NDArray[np.int64]:
        """Units to ids, of any shape.

        Raises:
            TwistError: a unit is not in the codebook.
        """
        if units.size and int(units.max()) >= self.codebook_size:
            raise TwistError(f"unit {int(units.max())} is not in a codebook of {self.codebook_size} units")
        ids = units.astype(np.int64)
        ids += self.offset
        return ids

    def encode_pitch(self, codes: NDArray[np.uint16]) -> NDArray[np.int64]:
        """Pitch codes to ids, of any shape.

        Raises:
            TwistError: the model has no such code.
        """
        return self._encode_codes(codes, self.num_pitch, self.pitch_offset, "pitch")

    def encode_style(self, codes: NDArray[np.uint16]) -> NDArray[np.int64]:
        """Style codes to ids, of any shape.

        Raises:
            TwistError: the model has no such code.
        """
        return self._encode_codes(codes, self.num_style, self.style_offset, "style")

    def _encode_codes(self, codes: NDArray[np.uint16], num_codes: int, offset: int, what: str) -> NDArray[np.int64]:
        if codes.size and int(codes.max()) >= num_codes:
            raise TwistError(f"{what} code {int(codes.max())} is not among the model's {num_codes}")
        return codes.astype(np.int64) + offset

    def decode(self, ids: NDArray[np.int64]) -> NDArray[np.uint16]:
        """Ids to units, of any shape.

        Raises:
            TwistError: an id is a special or out of range.
        """
        last = self.offset + self.codebook_size - 1
        if ids.size and not (self.offset <= int(ids.min()) and int(ids.max()) <= last):
            raise TwistError(
                f"ids {int(ids.min())} to {int(ids.max())} are not all units; those have {self.offset} to {last}"
            )
        return (ids - self.offset).astype(np.uint16)

    def of_units(self, num_units: int) -> Vocabulary | None:
        """This vocabulary for a codebook of `num_units`, without rows to spare; None if it is of another size."""
        spare = self.codebook_size - num_units
        fits = spare == 0 or (self.counts_rows and 0 < spare <= MAX_SPARE_ROWS)
        return replace(self, codebook_size=num_units, counts_rows=False) if fits else None

    def for_dataset(self, dataset: Dataset) -> Vocabulary:
        """This vocabulary for the units of these shards, without rows to spare.

        Raises:
            TwistError: the codebooks differ in size or, if the model names its codebook, in content: the shards' units
                mean something different from this model's.
        """
        theirs = Vocabulary.of_dataset(dataset)
        mine = self.of_units(theirs.codebook_size)
        if mine is None:
            raise TwistError(f"{dataset.uri} has {theirs.codebook_size} units, the model has {self.codebook_size}")
        if self.codebook_fingerprint not in (None, theirs.codebook_fingerprint):
            raise TwistError(
                f"{dataset.uri} was made with another codebook ({theirs.codebook_fingerprint}) than the model's "
                f"({self.codebook_fingerprint}): the same numbers mean other sounds; tokenize with the model's codebook"
            )
        return mine
