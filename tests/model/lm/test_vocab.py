from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from model.lm.vocab import Vocabulary
from pipeline.errors import TwistError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from tests.model.conftest import MakeDataset


@given(units=hnp.arrays(np.uint16, hnp.array_shapes(max_dims=2, min_side=0), elements=st.integers(0, 499)))
def test_decode_undoes_encode(units: NDArray[np.uint16]) -> None:
    vocabulary = Vocabulary(500, offset=3)
    ids = vocabulary.encode(units)
    decoded = vocabulary.decode(ids)
    assert decoded.dtype == np.uint16
    assert np.array_equal(decoded, units), "a unit changed on its way through its id"
    assert ((ids >= 3) & (ids < vocabulary.vocab_size)).all(), "a unit's id is a special's or has no row in the table"


def test_largest_unit_does_not_wrap_around() -> None:
    ids = Vocabulary(2**16, offset=2).encode(np.array([65535], dtype=np.uint16))
    assert ids.tolist() == [65537], "ids must not be computed in the units' 16 bits"


def test_layout_is_that_of_the_published_models() -> None:
    vocabulary = Vocabulary(500)
    assert vocabulary.vocab_size == 501
    assert vocabulary.encode(np.array([0, 499], dtype=np.uint16)).tolist() == [1, 500]


def test_config_keeps_the_vocabulary() -> None:
    vocabulary = Vocabulary(100, offset=4, pad_id=2, codebook_fingerprint="abc")
    assert Vocabulary.from_config(SimpleNamespace(**vocabulary.as_config())) == vocabulary


def test_published_config_has_no_fingerprint() -> None:
    config = SimpleNamespace(vocab_size=502, offset=2, pad_token_id=1)
    assert Vocabulary.from_config(config) == Vocabulary(500, offset=2, pad_id=1)


@pytest.mark.parametrize("pad", [{}, {"pad_token_id": None}, {"pad_token_id": -1}, {"pad_token_id": 7}])
def test_a_config_without_a_usable_pad_is_read(pad: dict[str, int | None]) -> None:
    """LLaMA's configs have none, or -1; what pads a row is masked, so any id does."""
    vocabulary = Vocabulary.from_config(SimpleNamespace(vocab_size=502, offset=2, **pad))
    assert (vocabulary.codebook_size, vocabulary.offset, vocabulary.pad_id) == (500, 2, 0)


def test_config_of_a_text_lm_is_refused() -> None:
    with pytest.raises(TwistError, match="not a speech LM"):
        Vocabulary.from_config(SimpleNamespace(vocab_size=50272, pad_token_id=1))


def test_units_out_of_range_are_refused() -> None:
    with pytest.raises(TwistError, match="unit 500 is not in a codebook of 500"):
        Vocabulary(500).encode(np.array([0, 500], dtype=np.uint16))


@pytest.mark.parametrize("id", [0, 501])
def test_ids_that_are_no_units_are_refused(id: int) -> None:
    with pytest.raises(TwistError, match="not all units"):
        Vocabulary(500).decode(np.array([id, 7]))


@pytest.mark.parametrize(
    ("codebook_size", "offset", "pad_id"), [(0, 1, 0), (2**16 + 1, 1, 0), (500, 0, 0), (500, 1, 1)]
)
def test_impossible_layouts_are_refused(codebook_size: int, offset: int, pad_id: int) -> None:
    with pytest.raises(TwistError):
        Vocabulary(codebook_size, offset, pad_id)


def test_codebook_is_compared(make_dataset: MakeDataset) -> None:
    samples = {"train": [np.array([1, 2], dtype=np.uint16)]}
    vocabulary = Vocabulary.of_dataset(make_dataset(samples, codebook="mine"))
    other_book = make_dataset(samples, codebook="other", name="other-book")
    other_size = make_dataset(samples, codebook_size=30, codebook="mine", name="other-size")
    with pytest.raises(TwistError, match="another codebook"):
        vocabulary.for_dataset(other_book)
    with pytest.raises(TwistError, match="30 units, the model has 20"):
        vocabulary.for_dataset(other_size)
    Vocabulary(20).for_dataset(other_book)  # a published model does not say which codebook it has


@pytest.mark.parametrize(
    ("num_rows", "fits"), [(19, False), (21, True), (24, True), (64, True), (84, True), (85, False)]
)
def test_a_published_table_may_have_rows_to_spare(num_rows: int, fits: bool, make_dataset: MakeDataset) -> None:
    """It is padded to a multiple of some power of two, and its config does not say how many units there are."""
    dataset = make_dataset({"train": [np.array([1, 2], dtype=np.uint16)]})
    vocabulary = Vocabulary.from_config(SimpleNamespace(vocab_size=num_rows, offset=1, pad_token_id=0))
    if fits:
        narrowed = vocabulary.for_dataset(dataset)
        assert (narrowed.codebook_size, narrowed.vocab_size) == (20, 21)
    else:
        with pytest.raises(TwistError, match="20 units, the model has"):
            vocabulary.for_dataset(dataset)
    with pytest.raises(TwistError, match="20 units, the model has 24"):
        Vocabulary(24).for_dataset(dataset)  # our own models say how many there are


EXPRESSIVE = {"text_size": 10, "num_pitch": 64, "num_style": 100, "pitch_offset": 32}


def test_pitch_and_style_follow_the_units() -> None:
    vocabulary = Vocabulary(20, 12, **EXPRESSIVE, pitch_fingerprint="p", style_fingerprint="s")  # type: ignore[arg-type]
    assert (vocabulary.style_offset, vocabulary.vocab_size) == (96, 196)
    assert vocabulary.speech_ids.tolist() == list(range(12, 196))
    assert Vocabulary.from_config(SimpleNamespace(**vocabulary.as_config())) == vocabulary
    ids = np.arange(300)
    kinds = [is_one(ids).sum() for is_one in (vocabulary.is_unit, vocabulary.is_pitch, vocabulary.is_style)]
    assert kinds == [20, 64, 100]
    with pytest.raises(TwistError, match="not all units"):
        vocabulary.decode(np.array([32]))


def test_a_model_of_units_says_no_pitch() -> None:
    vocabulary = Vocabulary(20, 12, text_size=10)
    ids = np.arange(300)
    assert not vocabulary.is_pitch(ids).any() and not vocabulary.is_style(ids).any()
    assert not {"num_pitch", "pitch_offset"} & vocabulary.as_config().keys()


@pytest.mark.parametrize(
    "changes", [{"num_style": 0}, {"pitch_offset": 31}, {"text_size": 0}, {"num_pitch": -1}, {"num_pitch": 0}]
)
def test_impossible_streams_are_refused(changes: dict[str, int]) -> None:
    with pytest.raises(TwistError, match="pitch"):
        Vocabulary(20, 12, **{**EXPRESSIVE, **changes})  # type: ignore[arg-type]
