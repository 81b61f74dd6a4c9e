from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.files import parquet
from pipeline.records import (
    DROPPED_SCHEMA,
    LANGUAGE_SCHEMA,
    RECORDING_SCHEMA,
    Dropped,
    LanguageDecision,
    Recording,
    from_table,
    to_table,
)

if TYPE_CHECKING:
    from pathlib import Path

KINDS = [(Recording, RECORDING_SCHEMA), (LanguageDecision, LANGUAGE_SCHEMA), (Dropped, DROPPED_SCHEMA)]

# What a Parquet string can hold: any text but halves of surrogate pairs.
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
SECONDS = st.floats(0, 1e6)
RECORDINGS = st.builds(
    Recording,
    recording_id=TEXT,
    corpus=TEXT,
    uri=TEXT,
    duration_s=SECONDS,
    sample_rate_hz=st.integers(4_000, 384_000),
    num_channels=st.integers(1, 1024),
    channel=st.none() | st.integers(0, 7),
    language=st.none() | TEXT,
    speaker=st.none() | TEXT,
    split=st.none() | st.sampled_from(["train", "validation", "test"]),
    text=st.none() | TEXT,
    voice_activity=st.none() | st.lists(st.lists(SECONDS, min_size=2, max_size=2), max_size=3),
)


@pytest.mark.parametrize(("kind", "schema"), KINDS)
def test_fields_are_the_columns_in_order(kind: type[Any], schema: pa.Schema) -> None:
    assert [field.name for field in dataclasses.fields(kind)] == schema.names, "record and schema say different things"


@settings(max_examples=60, deadline=None)
@given(st.lists(RECORDINGS, max_size=4))
def test_recordings_survive_the_table(recordings: list[Recording]) -> None:
    table = to_table(recordings, RECORDING_SCHEMA)
    assert table.schema.equals(RECORDING_SCHEMA), "the table has another schema"
    assert from_table(Recording, table) == recordings, "recordings came back changed"


def test_recordings_survive_the_file(tmp_path: Path) -> None:
    recordings = [
        Recording(
            "a/x", "a", "/x.wav", 1.5, 16_000, 2, 1, "en", "a/1", "train", "\u00e9 \u4f60", [[0.0, 0.5], [0.7, 1.0]]
        ),
        Recording("a/y", "a", "s3://b/y.wav", 0.1, 8_000, 1),
        Recording("a/z", "a", "/z.wav", 2.0, 8_000, 1, voice_activity=[]),
    ]
    parquet.write(str(tmp_path / "a.parquet"), to_table(recordings, RECORDING_SCHEMA))
    assert from_table(Recording, parquet.read(str(tmp_path / "a.parquet"))) == recordings


def test_what_a_schema_requires_cannot_be_left_out(tmp_path: Path) -> None:
    nameless = to_table([Recording(None, "a", "/x.wav", 1.0, 16_000, 1)], RECORDING_SCHEMA)  # type: ignore[arg-type]
    with pytest.raises(pa.ArrowInvalid, match="recording_id"):
        parquet.write(str(tmp_path / "a.parquet"), nameless)
    assert list(tmp_path.iterdir()) == [], "a refused table left a file"
