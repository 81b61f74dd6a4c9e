"""Rows in columns."""

from __future__ import annotations

from pipeline.text_table import in_columns


def test_columns_are_as_wide_as_their_widest_cell():
    assert in_columns([("name", "n"), ("a", "1,000")]) == ["name      n", "a     1,000"]
    assert in_columns([("name", "n"), ("a", "1,000")], (0, 1)) == ["name  n", "a     1,000"]
