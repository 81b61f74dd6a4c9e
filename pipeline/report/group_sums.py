"""Counts and sums by group over tables that come one after another."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pyarrow as pa

if TYPE_CHECKING:
    from collections.abc import Sequence

# Rows of partial sums that are kept before they are summed up.
PENDING_ROWS = 1_000_000


class GroupSums:
    """Counts rows and sums columns by group; memory grows with the groups, not with the rows.

    Args:
        by: The columns that make a group.
        summed: The columns to sum.
    """

    def __init__(self, by: Sequence[str], summed: Sequence[str]) -> None:
        self._by, self._summed = list(by), list(summed)
        self._partial: list[pa.Table] = []
        self._num_pending = 0

    def add(self, table: pa.Table) -> None:
        """Adds a table's rows."""
        sums = table.group_by(self._by).aggregate([([], "count_all"), *((name, "sum") for name in self._summed)])
        self._append(self._named(sums, "count_all"))
        if self._num_pending > PENDING_ROWS:
            self.table()

    def table(self) -> pa.Table:
        """A row a group: its columns, `count`, and the sums under the names of what was summed."""
        if len(self._partial) > 1:
            every = pa.concat_tables(self._partial).unify_dictionaries()
            sums = every.group_by(self._by).aggregate([("count", "sum"), *((name, "sum") for name in self._summed)])
            self._partial, self._num_pending = [], 0
            self._append(self._named(sums, "count_sum"))
            self._num_pending = 0
        return (
            self._partial[0] if self._partial else pa.table({name: [] for name in (*self._by, "count", *self._summed)})
        )

    def rows(self) -> list[dict[str, Any]]:
        """The same as Python objects."""
        rows: list[dict[str, Any]] = self.table().to_pylist()
        return rows

    def _append(self, sums: pa.Table) -> None:
        self._partial.append(sums)
        self._num_pending += len(sums)

    def _named(self, sums: pa.Table, count: str) -> pa.Table:
        columns = [*self._by, count, *(f"{name}_sum" for name in self._summed)]
        return sums.select(columns).rename_columns([*self._by, "count", *self._summed])
