"""Random rows of each group, over tables that come one after another."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

if TYPE_CHECKING:
    from collections.abc import Iterable


def draw_rows(
    tables: Iterable[pa.Table], group: str, size: int, seed: int, prefer: str | None = None
) -> dict[str, list[dict[str, Any]]]:
    """Up to `size` rows of each group, each row of a group as likely as another; the same for the same seed.

    Rows with more in the column `prefer`, if one is named, come before all with less.

    Each row gets a random number, and a group's smallest numbers stay: few rows are in memory at a time.
    """
    generator = np.random.default_rng(seed)
    drawn: dict[str, list[tuple[float, dict[str, Any]]]] = {}
    for table in tables:
        numbers = generator.random(len(table))
        if prefer is not None:
            numbers -= table[prefer].to_numpy()
        names = table[group]
        for name in pc.unique(names).to_pylist():
            rows = np.flatnonzero(pc.equal(names, name).to_numpy(zero_copy_only=False))
            rows = rows[np.argsort(numbers[rows], kind="stable")[:size]]
            before = drawn.setdefault(name, [])
            if len(before) == size and size and numbers[rows[0]] > before[-1][0]:
                continue
            found = zip(numbers[rows].tolist(), table.take(pa.array(rows)).to_pylist(), strict=True)
            drawn[name] = sorted([*before, *found], key=lambda pair: pair[0])[:size]
    return {name: [row for _, row in drawn[name]] for name in sorted(drawn)}
