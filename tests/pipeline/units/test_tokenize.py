from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pytest

from model.encoder.config import EncoderConfig
from pipeline.audio.read import AudioError, Clip, Span, read_clips
from pipeline.errors import TwistError
from pipeline.files import parquet, storage
from pipeline.records import UNITS_SCHEMA
from pipeline.segments.segment import open_segments, plan_of, read_segments
from pipeline.units import codebook
from pipeline.units.codebook import CodebookError
from pipeline.units.parts import digest_of_part, part_uris, read_part, read_parts
from pipeline.units.tokenize import Tokenize, _all_dropped, level_counts, tokenize
from pipeline.work.cluster import ClusterConfig
from pipeline.work.plan import Chunk, WorkPlan

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray


def clips_of(wavs: Sequence[NDArray[np.float32] | AudioError]) -> list[Clip | AudioError]:
    return [wav if isinstance(wav, AudioError) else Clip(wav) for wav in wavs]


def wav_of(num_samples: int, seed: int = 0) -> NDArray[np.float32]:
    return (0.1 * np.random.default_rng(seed).standard_normal(num_samples)).astype(np.float32)


def unit_of(lengths: Sequence[int], name: str = "000000") -> Chunk:
    """A chunk of consecutive segments of one recording."""
    ends_s = np.cumsum(lengths) / 16_000
    starts_s = ends_s - np.array(lengths) / 16_000
    spans = [Span("x/rec 1.wav", None, float(s), float(e)) for s, e in zip(starts_s, ends_s, strict=True)]
    return Chunk(name, tuple(f"x/rec 1#2.wav#{number:08d}" for number in range(len(lengths))), tuple(spans))


@pytest.fixture(scope="module")
def process(small_run: Path) -> Tokenize:
    """Processes a chunk as an actor does."""
    return Tokenize(EncoderConfig(), str(small_run / "codebook"))


def test_each_segment_has_a_row_in_the_units_order(process: Tokenize) -> None:
    lengths = [20_000, 40_000, 16_000]
    unit = unit_of(lengths)
    part = process(unit, clips_of([wav_of(length, seed) for seed, length in enumerate(lengths)]))
    assert part.schema.equals(UNITS_SCHEMA)
    assert part["segment_id"].to_pylist() == list(unit.ids)
    assert set(part["recording_id"].to_pylist()) == {"x/rec 1#2.wav"}, "an id may hold a # of its own"
    assert part["start_s"].to_pylist() == [span.start_s for span in unit.spans]
    assert part["end_s"].to_pylist() == [span.end_s for span in unit.spans]
    for row in part.to_pylist():
        assert sum(row["durations"]) == row["num_frames"] > 0
        assert all(left != right for left, right in zip(row["units"], row["units"][1:], strict=False))
        assert max(row["units"]) < 20


def test_a_segments_units_do_not_depend_on_its_chunk(process: Tokenize) -> None:
    lengths = [20_000, 40_000, 16_000, 33_333]
    unit = unit_of(lengths)
    wavs = [wav_of(length, seed) for seed, length in enumerate(lengths)]
    together = process(unit, clips_of(wavs)).to_pylist()
    for number, wav in enumerate(wavs):
        alone = Chunk("000009", (unit.ids[number],), (unit.spans[number],))
        assert process(alone, clips_of([wav])).to_pylist() == [together[number]]
    backwards = Chunk("000010", unit.ids[::-1], unit.spans[::-1])
    assert process(backwards, clips_of(wavs[::-1])).to_pylist() == together[::-1]


def test_what_cannot_be_used_becomes_a_row_with_its_reason(process: Tokenize) -> None:
    unit = unit_of([20_000, 20_000, 100, 0, 20_000])
    outcomes = [
        AudioError("missing", "x/rec 1.wav does not exist"),
        wav_of(20_000, seed=1),
        wav_of(100),
        np.zeros(0, np.float32),
        AudioError("undecodable", "bad frame"),
    ]
    rows = process(unit, clips_of(outcomes)).to_pylist()
    assert [row["drop_reason"] for row in rows] == ["missing", None, "too_short", "too_short", "undecodable"]
    assert [row["drop_detail"] for row in rows] == [
        "x/rec 1.wav does not exist", None, "100 samples give no frame", "0 samples give no frame", "bad frame",
    ]  # fmt: skip
    for row in rows:
        is_dropped = row["drop_reason"] is not None
        assert (row["units"] is None) == (row["durations"] is None) == is_dropped
        assert (row["num_frames"] == 0) == is_dropped
    alone = Chunk("000001", (unit.ids[1],), (unit.spans[1],))
    assert process(alone, clips_of([outcomes[1]])).to_pylist() == [rows[1]], (
        "broken neighbours change a segment's units"
    )


def test_a_unit_without_anything_usable_is_a_part_all_the_same(process: Tokenize) -> None:
    part = process(unit_of([5, 5]), [AudioError("silent", "digital silence"), Clip(wav_of(5))])
    assert part["drop_reason"].to_pylist() == ["silent", "too_short"]
    assert part.schema.equals(UNITS_SCHEMA)


def test_a_part_says_which_encoder_and_codebook_made_it(process: Tokenize, small_run: Path) -> None:
    book = codebook.load(str(small_run / "codebook"))
    metadata = process(unit_of([20_000]), [Clip(wav_of(20_000))]).schema.metadata
    levels = metadata.pop(b"levels_dbfs")
    assert metadata == {b"codebook": book.fingerprint.encode(), b"encoder": book.encoder_fingerprint.encode()}
    assert sum(json.loads(levels).values()) == 1


def test_the_same_unit_gives_the_same_bytes_in_another_process_object(process: Tokenize, small_run: Path) -> None:
    unit, wavs = unit_of([20_000, 16_000, 9]), [wav_of(20_000), AudioError("silent", "digital silence"), wav_of(9)]
    again = Tokenize(EncoderConfig(), str(small_run / "codebook"))
    assert parquet.to_bytes(process(unit, clips_of(wavs))) == parquet.to_bytes(again(unit, clips_of(wavs)))


def test_the_parts_of_a_run_are_what_its_segments_give(process: Tokenize, small_run: Path) -> None:
    units = [
        unit for unit in WorkPlan.of(read_segments(str(small_run)), "segment_id") if "vanishes" not in str(unit.ids)
    ]
    assert len(units) > 5
    for unit in units[:3]:
        part = parquet.to_bytes(process(unit, list(read_clips(unit.spans))))
        assert part == (small_run / "units" / f"part-{unit.name}.parquet").read_bytes()


def test_every_planned_segment_is_accounted_for(small_run: Path) -> None:
    planned = read_segments(str(small_run))["segment_id"].to_pylist()
    table = pa.concat_tables(read_parts(str(small_run)))
    assert table["segment_id"].to_pylist() == planned
    facts = json.loads((small_run / "units/stage.json").read_text())
    dropped = parquet.read(str(small_run / "units/dropped.parquet")).to_pylist()
    assert [(row["id"].partition("#")[0], row["reason"]) for row in dropped] == [("sounds/vanishes.wav", "missing")] * 2
    assert facts["counts"]["kept"]["items"] + len(dropped) == facts["counts"]["input"]["items"] == len(planned)
    kept = [row for row in table.to_pylist() if row["drop_reason"] is None]
    assert facts["num_units"] == sum(len(row["units"]) for row in kept)
    assert facts["num_frames"] == sum(row["num_frames"] for row in kept)
    hours = sum(row["end_s"] - row["start_s"] for row in kept) / 3600
    assert facts["units_per_hour"] == pytest.approx(facts["num_units"] / hours, abs=0.1)


def test_a_digest_knows_every_unit_duration_and_reason(process: Tokenize) -> None:
    part = process(unit_of([20_000, 16_000, 9]), clips_of([wav_of(20_000), wav_of(16_000, 1), wav_of(9)]))
    rows = part.to_pylist()

    def digest_with(changes: dict[int, dict[str, object]]) -> str:
        changed = [row | changes.get(number, {}) for number, row in enumerate(rows)]
        return digest_of_part(pa.Table.from_pylist(changed, schema=UNITS_SCHEMA))

    first, second = (rows[number]["units"] for number in (0, 1))
    lengths, more_lengths = (rows[number]["durations"] for number in (0, 1))
    moved = {
        0: {"units": first[:-1], "durations": lengths[:-1]},
        1: {"units": [first[-1], *second], "durations": [lengths[-1], *more_lengths]},
    }
    digests = [
        digest_with({}),
        digest_with({0: {"units": [*first[:-1], 19]}}),
        digest_with({0: {"durations": [*lengths[:-1], 77]}}),
        digest_with(moved),
        digest_with({1: {"segment_id": "other"}}),
        digest_with({2: {"drop_reason": "silent"}}),
    ]
    assert digests[0] == digest_of_part(part)
    assert len(set(digests)) == len(digests), "two different parts have one digest"


def test_a_damaged_part_is_named(run_copy: Path) -> None:
    uri = part_uris(str(run_copy))[2]
    content = storage.read_bytes(uri)
    for damage in (content[: len(content) // 2], b"", bytes([*content[:60], content[60] ^ 4, *content[61:]])):
        Path(uri).write_bytes(damage)
        with pytest.raises(TwistError, match=Path(uri).name):
            list(read_parts(str(run_copy)))


def test_a_table_of_something_else_is_no_part(tmp_path: Path) -> None:
    uri = str(tmp_path / "part-000000.parquet")
    parquet.write(uri, pa.table({"segment_id": ["a"], "units": [[1, 2]]}))
    with pytest.raises(TwistError, match="holds other columns than units"):
        read_part(uri)


def test_levels_are_counted_in_whole_db() -> None:
    tone = np.sin(np.arange(16_000) * 0.3).astype(np.float32)
    wavs = [np.float32(2**0.5 * 10 ** (level / 20)) * tone for level in (-20.2, -19.9, -38.0, -120.0)]
    assert level_counts([*wavs, np.zeros(900, np.float32)]) == {"-80": 2, "-38": 1, "-20": 2}
    assert level_counts([]) == {}


def test_the_stage_tells_the_levels_of_what_it_kept(small_run: Path) -> None:
    facts = json.loads((small_run / "units/stage.json").read_text())
    assert sum(facts["levels_dbfs"].values()) == facts["counts"]["kept"]["items"]


@pytest.mark.usefixtures("without_ray")
def test_parts_that_do_not_say_their_levels_are_read(run_copy: Path) -> None:
    for path in (run_copy / "units").glob("part-*.parquet"):
        table = parquet.read(str(path))
        metadata = {name: value for name, value in table.schema.metadata.items() if name != b"levels_dbfs"}
        path.write_bytes(parquet.to_bytes(table.replace_schema_metadata(metadata)))
    (run_copy / "units/DONE").unlink()
    tokenize(str(run_copy), EncoderConfig(), ClusterConfig(), lambda *_: None)
    assert json.loads((run_copy / "units/stage.json").read_text())["levels_dbfs"] == {}


@pytest.mark.usefixtures("without_ray")
def test_a_run_begun_at_another_level_refuses_to_go_on(run_copy: Path) -> None:
    with pytest.raises(TwistError, match=r"encoder\.level_dbfs was null, is -24\.0"):
        tokenize(str(run_copy), EncoderConfig(level_dbfs=-24.0), ClusterConfig(), lambda *_: None)
    with pytest.raises(CodebookError, match=r"'level_dbfs': None.*encoder\.level_dbfs: unchanged"):
        Tokenize(EncoderConfig(level_dbfs=-24.0), str(run_copy / "codebook"))
    tokenize(str(run_copy), EncoderConfig(level_dbfs="unchanged"), ClusterConfig(), lambda *_: None)


def test_other_files_of_the_stage_are_no_parts(small_run: Path) -> None:
    names = {Path(uri).name for uri in part_uris(str(small_run))}
    assert "dropped.parquet" not in names
    assert len(names) == len(WorkPlan.of(read_segments(str(small_run)), "segment_id"))


def quarantine(run: Path, name: str) -> None:
    """Leaves the run as it would be if a chunk had failed three times."""
    with open_segments(str(run)) as segments:
        plan = plan_of(segments)
        table = _all_dropped(plan[plan.names.index(name)], AudioError("quarantined", "failed 3 times: it hung"))
    (run / "units" / f"part-{name}.parquet").write_bytes(parquet.to_bytes(table))
    (run / "units/DONE").unlink()
    tokenize(str(run), EncoderConfig(), ClusterConfig(), lambda *_: None)


@pytest.mark.usefixtures("without_ray")
def test_what_was_dropped_is_retried_where_that_is_asked_for(run_copy: Path) -> None:
    stage = run_copy / "units"
    before = {path.name: path.read_bytes() for path in stage.glob("part-*.parquet")}
    done = (stage / "DONE").read_bytes()
    name = sorted(before)[1].removeprefix("part-").removesuffix(".parquet")
    quarantine(run_copy, name)
    assert "quarantined" in parquet.read(str(stage / "dropped.parquet"))["reason"].to_pylist()
    assert (stage / "DONE").read_bytes() != done, "what was packed of these units would not be known to be outdated"

    untouched = {path: path.stat().st_mtime_ns for path in stage.glob("part-*") if path.name != f"part-{name}.parquet"}
    tokenize(str(run_copy), EncoderConfig(), ClusterConfig(), lambda *_: None)
    assert "quarantined" in parquet.read(str(stage / "dropped.parquet"))["reason"].to_pylist(), "nobody asked for it"
    tokenize(str(run_copy), EncoderConfig(), ClusterConfig(), lambda *_: None, retry_dropped=True)
    assert {path.name: path.read_bytes() for path in stage.glob("part-*.parquet")} == before
    assert (stage / "DONE").read_bytes() == done
    made_anew = [path for path, at in untouched.items() if path.stat().st_mtime_ns != at]
    for path in made_anew:
        reasons = parquet.read(str(path))["drop_reason"].to_pylist()
        assert "missing" in reasons, f"{path.name} was made anew, and nothing in it was missing"


@pytest.mark.usefixtures("without_ray")
def test_a_retry_that_is_killed_is_gone_on_with(run_copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stage = run_copy / "units"
    before = {path.name: path.read_bytes() for path in stage.glob("part-*.parquet")}
    for name in sorted(before)[:2]:
        quarantine(run_copy, name.removeprefix("part-").removesuffix(".parquet"))
    with monkeypatch.context() as patch:
        patch.setattr(storage, "delete", deleting_at_most(2))  # the done marker and one part
        with pytest.raises(KeyboardInterrupt):
            tokenize(str(run_copy), EncoderConfig(), ClusterConfig(), lambda *_: None, retry_dropped=True)
    assert not (stage / "DONE").exists()
    tokenize(str(run_copy), EncoderConfig(), ClusterConfig(), lambda *_: None, retry_dropped=True)
    assert {path.name: path.read_bytes() for path in stage.glob("part-*.parquet")} == before


def deleting_at_most(count: int) -> Callable[[str], None]:
    left = [count]

    def delete(uri: str) -> None:
        if not left[0]:
            raise KeyboardInterrupt
        left[0] -= 1
        Path(uri).unlink()

    return delete


def test_another_encoders_codebook_is_refused(small_run: Path) -> None:
    with pytest.raises(CodebookError, match="fitted on another encoder"):
        Tokenize(replace(EncoderConfig(), max_chunk_s=7.0), str(small_run / "codebook"))
