from __future__ import annotations

import errno
import hashlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.files import parquet, storage
from pipeline.files.checksums import sha256_of
from pipeline.records import Dropped
from pipeline.sha256sums import SHA256SUMS
from pipeline.stage import (
    Stage,
    StageCounts,
    StageError,
    Tally,
    damage,
    digest,
    fingerprint_of,
    is_finished,
    is_output,
    read_facts,
)

ROOT = Path(__file__).resolve().parents[2]
COUNTS = StageCounts.of(Tally(2, 1.0), Tally(1, 0.5), [Dropped("c/b", "c", "silent", "digital silence", 1800.0)])
DROPPED = [Dropped("c/b", "c", "silent", "digital silence", 1800.0)]


def make(run: str, config: dict[str, Any] | None = None, inputs: dict[str, str] | None = None) -> Stage:
    return Stage(run, "segments", config or {"min_s": 2.0}, inputs or {"manifest": "abc"})


def finish(stage: Stage, output: str = "output") -> None:
    with stage.begin() as has_work:
        assert has_work, "the stage says that it is finished before it was begun"
        stage.finish(COUNTS, DROPPED, output)


# Counts


def test_counts_by_reason() -> None:
    dropped = [
        Dropped("a", "c", "too_short", "", 360.0, 0),
        Dropped("b", "c", "silent", "", 3600.0),
        Dropped("c", "c", "too_short", "", 360.0),
    ]
    counts = StageCounts.of(Tally(3, 2.0), Tally(1, 0.8), dropped)
    assert list(counts.dropped) == ["silent", "too_short"], "reasons are not in the order of their names"
    assert counts.dropped["silent"] == Tally(1, 1.0)
    assert counts.dropped["too_short"].items == 1
    assert counts.dropped["too_short"].hours == pytest.approx(0.2)


@settings(deadline=None)
@given(
    kept=st.lists(st.floats(0, 1e5), max_size=30),
    dropped=st.lists(st.tuples(st.sampled_from("abc"), st.floats(0, 1e5)), max_size=30),
)
def test_what_goes_in_comes_out(kept: list[float], dropped: list[tuple[str, float]]) -> None:
    drops = [Dropped(str(number), "c", reason, "", seconds) for number, (reason, seconds) in enumerate(dropped)]
    total = Tally(len(kept) + len(drops), (sum(kept) + sum(drop.duration_s for drop in drops)) / 3600)
    kept_tally = Tally(len(kept), sum(kept) / 3600)
    counts = StageCounts.of(total, kept_tally, drops)
    assert sum(tally.items for tally in counts.dropped.values()) == len(drops)
    with pytest.raises(AssertionError, match="items went in"):
        StageCounts.of(total + Tally(1), kept_tally, drops)
    with pytest.raises(AssertionError, match="hours lost"):
        StageCounts.of(total + Tally(0, 0.01), kept_tally, drops)


# The folder


def test_a_finished_stage_has_no_work(folder: str) -> None:
    stage = make(folder)
    assert not is_finished(folder, "segments")
    finish(stage)
    assert is_finished(folder, "segments")
    with make(folder).begin() as has_work:
        assert not has_work, "a finished stage would be done again"


def test_what_it_writes(folder: str) -> None:
    with make(folder).begin():
        facts = read_facts(folder, "segments")
        assert facts["config"] == {"min_s": 2.0}, "an unfinished stage does not say what it was begun with"
        assert "counts" not in facts
    with make(folder).begin():
        make(folder).finish(COUNTS, DROPPED, "output", segments=7)
    facts = read_facts(folder, "segments")
    assert facts["counts"]["kept"] == {"items": 1, "hours": 0.5}
    assert facts["counts"]["dropped"] == {"silent": {"items": 1, "hours": 0.5}}
    assert facts["inputs"] == {"manifest": "abc"}
    assert facts["segments"] == 7, "further figures are not in stage.json"
    assert {"pyarrow", "soundfile"} <= facts["versions"].keys()
    assert facts["wall_time_s"] >= 0
    rows = parquet.read(storage.join(folder, "segments", "dropped.parquet")).to_pylist()
    assert [(row["id"], row["reason"], row["duration_s"]) for row in rows] == [("c/b", "silent", 1800.0)]


def test_facts_with_numbers_for_keys_are_not_taken_for_damage(folder: str) -> None:
    stage = make(folder)
    with stage.begin():
        # Sorted as numbers -24 is first; sorted as text, which is how they are read back, -13 is.
        stage.finish(COUNTS, DROPPED, "output", levels_dbfs={-24: 2, -13: 1})
    assert list(damage(folder, "segments")) == [], "stage.json is called damaged as soon as it is written"


def test_stage_json_does_not_grow_with_the_parts(folder: str) -> None:
    sizes = []
    for num_parts in (1, 50):
        run = storage.join(folder, str(num_parts))
        with make(run).begin():
            for number in range(num_parts):
                storage.write_bytes(storage.join(run, f"segments/speech/part-{number:06d}.parquet"), b"part")
            make(run).finish(COUNTS, DROPPED, "output")
        sizes.append(storage.size(storage.join(run, "segments/stage.json")))
        assert not list(damage(run, "segments"))
    assert max(sizes) - min(sizes) < 100, f"stage.json of 1 and of 50 parts has {sizes} bytes"
    for file in ("speech/part-000049.parquet", "dropped.parquet"):
        uri = storage.join(run, "segments", file)
        content = storage.read_bytes(uri)
        storage.write_bytes(uri, content + b"!")
        assert [text.partition(" ")[0] for text in damage(run, "segments")] == [uri]
        storage.write_bytes(uri, content)
    storage.delete(storage.join(run, "segments", SHA256SUMS))
    assert [text.partition(" ")[0] for text in damage(run, "segments")] == [storage.join(run, "segments", SHA256SUMS)]


def test_a_stage_whose_json_lists_all_files_is_read_and_checked(tmp_path: Path) -> None:
    finish(make(str(tmp_path)))
    path = tmp_path / "segments" / "stage.json"
    content = {key: value for key, value in json.loads(path.read_text()).items() if key != "sha256"}
    missing = {f"speech/part-{number:06d}.parquet": "0" * 64 for number in range(3)}
    # As an earlier version wrote it, with more than the 16 MiB that are read of others' JSON.
    content |= {"files": {"dropped.parquet": sha256_of(str(tmp_path / "segments/dropped.parquet")), **missing}}
    content |= {"notices": "." * 2**24}
    sha256 = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    path.write_text(json.dumps({**content, "sha256": sha256}, indent=2) + "\n")
    assert list(damage(str(tmp_path), "segments")) == [f"{path.parent / file} is missing" for file in missing]
    path.write_text("[" * 200 + " " * 2**24 + "]" * 200)
    with pytest.raises(StageError, match=r"damaged \(it is nested more than 100 deep\)"):
        read_facts(str(tmp_path), "segments")


def test_an_interrupted_stage_has_work(folder: str) -> None:
    with pytest.raises(RuntimeError), make(folder).begin():
        raise RuntimeError
    assert not is_finished(folder, "segments")
    finish(make(folder))


def test_the_done_marker_comes_last(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[str] = []
    write_bytes = storage.write_bytes

    def record(uri: str, data: bytes) -> None:
        written.append(uri)
        write_bytes(uri, data)

    monkeypatch.setattr(storage, "write_bytes", record)
    finish(make(folder))
    assert written[-1].endswith("/DONE"), f"{written[-1]} was written after the done marker"


def test_other_settings_are_refused_with_both_values(folder: str) -> None:
    corpora = {"corpora": [{"name": "a", "language": "en"}, {"name": "b", "language": None}]}
    finish(make(folder, {"min_s": 2.0, "speech": {"threshold": 0.5}, "languages": ("en", "de"), **corpora}))
    same = make(folder, {**corpora, "languages": ["en", "de"], "speech": {"threshold": 0.5}, "min_s": 2.0})
    with same.begin() as has_work:
        assert not has_work, "a tuple and a list, or another order of keys, are not other settings"
    others = {"corpora": [{"name": "a", "language": "en"}, {"name": "b", "language": "de"}, {"name": "c"}]}
    other = make(folder, {"min_s": 2.0, "speech": {"threshold": 0.6}, "languages": ("en",), "new": True, **others})
    with pytest.raises(StageError) as refusal, other.begin():
        pass
    message = str(refusal.value)
    for part in (
        "segments",
        "speech.threshold was 0.5, is 0.6",
        'languages was ["en", "de"], is ["en"]',
        "new was null, is true",
        'corpora[1].language was null, is "de"; corpora[2] was null, is {"name": "c"}; ',
        "--run",
    ):
        assert part in message, f"{part!r} is not in: {message}"
    assert "min_s" not in message, f"what did not change is in: {message}"


def test_other_inputs_are_refused(folder: str) -> None:
    finish(make(folder, inputs={"manifest": "abc", "language": "def"}))
    with (
        pytest.raises(StageError, match="its input manifest has changed"),
        make(folder, inputs={"manifest": "xyz", "language": "def"}).begin(),
    ):
        pass


def test_other_settings_are_refused_of_an_unfinished_stage(folder: str) -> None:
    with make(folder).begin():
        storage.write_bytes(storage.join(folder, "segments", "speech", "part-000000.parquet"), b"")
    with pytest.raises(StageError, match=r"min_s was 2\.0, is 3\.0"), make(folder, {"min_s": 3.0}).begin():
        pass


def test_other_settings_may_mend_what_failed_before_anything_was_made(folder: str) -> None:
    with pytest.raises(RuntimeError), make(folder, {"root": "/mistyped"}).begin():
        raise RuntimeError
    finish(make(folder, {"root": "/right"}))


def test_another_stage_s_folder_is_refused(tmp_path: Path) -> None:
    finish(make(str(tmp_path)))
    (tmp_path / "segments").rename(tmp_path / "language")
    stage = Stage(str(tmp_path), "language", {"min_s": 2.0}, {"manifest": "abc"})
    with pytest.raises(StageError, match="fingerprint does not belong"), stage.begin():
        pass


@pytest.mark.parametrize("content", [b"", b'{"stage": "seg', b"\xff\xfe", b"[]", b"{}", b'{"fingerprint": 3}', b"null"])
def test_damaged_json_is_a_clear_error(folder: str, content: bytes) -> None:
    finish(make(folder))
    storage.write_bytes(storage.join(folder, "segments", "stage.json"), content)
    with pytest.raises(StageError, match=r"stage\.json is damaged .*delete .*segments"), make(folder).begin():
        pass
    with pytest.raises(StageError, match=r"stage\.json is damaged"):
        read_facts(folder, "segments")


def test_left_over_temporaries_are_removed(tmp_path: Path) -> None:
    left_over = tmp_path / "segments" / "speech" / ".part-000001.parquet.0123456789ab.tmp"
    left_over.parent.mkdir(parents=True)
    left_over.write_bytes(b"half")
    with make(str(tmp_path)).begin():
        assert not left_over.exists(), "what a killed writer left is still there"


def test_a_folder_that_cannot_be_written_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StageError, match=r"cannot write to .*segments.*--run"), make(str(tmp_path / "file")).begin():
        pass

    def fail(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(StageError, match="No space left on device"), make(str(tmp_path / "run")).begin():
        pass


def test_a_bucket_that_does_not_exist(s3_folder: str) -> None:
    with pytest.raises(StageError, match=r"cannot write to .*bucket"), make(f"{s3_folder}-not/run").begin():
        pass


# Fingerprints


def test_fingerprints_chain(folder: str) -> None:
    seen = set()
    for number, (config, inputs, output) in enumerate(
        [
            ({"min_s": 2.0}, {"manifest": "abc"}, "output"),
            ({"min_s": 3.0}, {"manifest": "abc"}, "output"),
            ({"min_s": 2.0}, {"manifest": "xyz"}, "output"),
            ({"min_s": 2.0}, {"manifest": "abc"}, "other output"),
        ]
    ):
        run = storage.join(folder, str(number))
        finish(make(run, config, inputs), output)
        seen.add(fingerprint_of(run, "segments"))
    assert len(seen) == 4, "a change of settings, inputs or output did not change the fingerprint"
    again = storage.join(folder, "again")
    finish(make(again))
    assert fingerprint_of(again, "segments") in seen, "the fingerprint depends on where or when the stage ran"


def test_is_output(folder: str) -> None:
    finish(make(folder), "output")
    assert is_output(folder, "segments", "output")
    assert not is_output(folder, "segments", "other output")


def test_fingerprint_of_an_unfinished_stage_says_what_to_run(folder: str) -> None:
    with pytest.raises(StageError, match=r"not finished; run `twist segment`"):
        fingerprint_of(folder, "segments")
    with make(folder).begin(), pytest.raises(StageError, match="not finished"):
        fingerprint_of(folder, "segments")


def test_facts_of_a_stage_never_begun(folder: str) -> None:
    with pytest.raises(FileNotFoundError):
        read_facts(folder, "segments")


def test_digest() -> None:
    assert digest("ab", b"c") == digest(b"ab", "c"), "text and its bytes must not differ"
    assert digest("ab", "c") != digest("a", "bc"), "where one part ends and the next begins must matter"
    assert digest() != digest(""), "an empty part is a part"


# Two processes

HOLD = """
import sys, time
from pipeline.stage import Stage
with Stage(sys.argv[1], "segments", {"min_s": 2.0}, {"manifest": "abc"}).begin():
    print("begun", flush=True)
    time.sleep(60)
"""


def test_a_second_process_is_refused_until_the_first_is_gone(tmp_path: Path) -> None:
    run = str(tmp_path)
    with subprocess.Popen([sys.executable, "-c", HOLD, run], cwd=ROOT, stdout=subprocess.PIPE, text=True) as holder:
        try:
            assert holder.stdout is not None
            assert holder.stdout.readline() == "begun\n", "the first process did not begin"
            with pytest.raises(StageError, match=f"in use by process {holder.pid}"), make(run).begin():
                pass
        finally:
            holder.send_signal(signal.SIGKILL)
    finish(make(run))
    assert is_finished(run, "segments")


def test_settings_are_stored_as_json(tmp_path: Path) -> None:
    finish(make(str(tmp_path)))
    facts = json.loads((tmp_path / "segments" / "stage.json").read_text())
    assert facts["stage"] == "segments"
    assert facts["fingerprint"] == make(str(tmp_path)).fingerprint
