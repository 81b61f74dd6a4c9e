from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from model.lm.row_packing import fit_rows


@given(lengths=st.lists(st.integers(1, 50), max_size=80), spare=st.integers(0, 100))
def test_each_sample_is_in_one_row_whole(lengths: list[int], spare: int) -> None:
    row_length = max(lengths, default=1) + spare
    rows = fit_rows(lengths, row_length)
    assert sorted(sample for row in rows for sample in row) == list(range(len(lengths)))
    assert all(0 < sum(lengths[sample] for sample in row) <= row_length for row in rows)
    # Any two rows hold more than one: else they would have been put together.
    fills = sorted(sum(lengths[sample] for sample in row) for row in rows)
    assert len(fills) < 2 or fills[0] + fills[1] > row_length


def test_what_fits_exactly_is_put_together() -> None:
    rows = fit_rows([6, 4, 7, 3, 5, 5], 10)
    assert sorted(map(sorted, rows)) == [[0, 1], [2, 3], [4, 5]]
