from __future__ import annotations

import itertools
import json
import shutil
from collections import defaultdict
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.command import notices
from pipeline.corpora.manifest import iterate_recordings
from pipeline.errors import TwistError
from pipeline.files import parquet
from pipeline.inspection import verify
from pipeline.packing import pack as pack_module
from pipeline.packing.config import DuplicatesConfig, PackConfig, SplitConfig
from pipeline.packing.pack import pack
from pipeline.packing.place import even_edges
from pipeline.shards import Dataset, open_dataset, read_shard
from pipeline.stage import read_facts
from pipeline.units.parts import part_uris, read_parts
from pipeline.work import cluster

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

SPLIT = SplitConfig(validation=0.2, test=0.2)
PACK = PackConfig(split=SPLIT, units_per_shard=200, min_shards=2)


def no_progress(done: int, total: int, noun: str, detail: str = "") -> None:
    pass


def packed(run: Path, config: PackConfig = PACK) -> Dataset:
    """Packs a copy of a run anew."""
    shutil.rmtree(run / "shards", ignore_errors=True)
    pack(str(run), config, no_progress)
    return open_dataset(str(run / "shards"))


def shard_bytes(run: Path) -> dict[str, bytes]:
    """The files that a reader of the shards uses."""
    files = [*run.glob("shards/*/*.tar"), run / "shards/manifest.parquet", run / "shards/dataset.json"]
    return {str(path.relative_to(run)): path.read_bytes() for path in files}


def units_of(run: Path) -> dict[str, tuple[list[int], list[int]]]:
    """Units and durations of every segment that has them."""
    rows = pa.concat_tables(read_parts(str(run))).to_pylist()
    return {row["segment_id"]: (row["units"], row["durations"]) for row in rows if row["units"] is not None}


def columns(dataset: Dataset, *names: str) -> list[tuple[Any, ...]]:
    return list(zip(*(dataset.manifest[name].to_pylist() for name in names), strict=True))


def test_kept_and_dropped_are_what_came_in(small_run: Path) -> None:
    dataset = open_dataset(str(small_run / "shards"))
    counts = json.loads((small_run / "shards/stage.json").read_text())["counts"]
    dropped = parquet.read(str(small_run / "shards/dropped.parquet")).to_pylist()
    came_in = units_of(small_run)
    kept = dataset.manifest["segment_id"].to_pylist()
    assert sorted([*kept, *(row["id"] for row in dropped)]) == sorted(came_in), "a segment was lost or came twice"
    assert counts["input"]["items"] == len(came_in)
    assert counts["kept"]["items"] + len(dropped) == len(came_in)
    hours = (pc.sum(dataset.manifest["duration_s"]).as_py() + sum(row["duration_s"] for row in dropped)) / 3600
    assert hours == pytest.approx(counts["input"]["hours"], abs=1e-9)


def test_samples_hold_the_units_of_their_segments(small_run: Path) -> None:
    dataset = open_dataset(str(small_run / "shards"))
    came_in = units_of(small_run)
    for id, shard, offset, num_units, num_frames in columns(
        dataset, "segment_id", "shard", "units_offset", "num_units", "num_frames"
    ):
        content = (small_run / "shards" / shard).read_bytes()
        assert np.frombuffer(content, "<u2", num_units, offset).tolist() == came_in[id][0]
        assert num_frames == sum(came_in[id][1])


def test_the_same_units_and_seed_give_the_same_bytes(run_copy: Path) -> None:
    packed(run_copy)
    first = shard_bytes(run_copy)
    packed(run_copy)
    assert shard_bytes(run_copy) == first


def test_neither_order_nor_number_of_chunks_matters(make_run: Callable[..., Path]) -> None:
    runs = [make_run(work_unit_minutes=minutes, packed=PACK) for minutes in (0.1, 0.25, 30.0)]
    assert len({len(part_uris(str(run))) for run in runs}) == 3
    first, *others = [shard_bytes(run) for run in runs]
    assert all(other == first for other in others), "shards depend on how the work was planned"


def test_the_order_of_part_files_does_not_matter(run_copy: Path) -> None:
    packed(run_copy)
    before = shard_bytes(run_copy)
    paths = sorted((run_copy / "units").glob("part-*.parquet"))
    contents = [path.read_bytes() for path in paths]
    for path, content in zip(paths, reversed(contents), strict=True):
        path.write_bytes(content)
    packed(run_copy)
    assert shard_bytes(run_copy) == before, "another twin was kept, or samples are in another order"


@pytest.mark.parametrize("sample_s", [0.0, 12.0])
def test_the_number_of_id_ranges_does_not_matter(
    run_copy: Path, monkeypatch: pytest.MonkeyPatch, sample_s: float
) -> None:
    monkeypatch.setattr(cluster, "map_tasks", lambda function, items: map(function, items))
    config = replace(PACK, sample_s=sample_s)
    packed(run_copy, config)
    before = shard_bytes(run_copy)
    monkeypatch.setattr(pack_module, "UNITS_PER_ID_RANGE", 50)
    packed(run_copy, config)
    assert shard_bytes(run_copy) == before


def test_another_seed_is_another_order_of_the_same_samples(run_copy: Path) -> None:
    one = columns(packed(run_copy), "split", "segment_id")
    other = columns(packed(run_copy, replace(PACK, seed=1)), "split", "segment_id")
    assert sorted(one) == sorted(other), "the seed of the shuffle moved samples to other splits"
    assert one != other


def test_samples_are_shuffled_over_recordings_and_shards(small_run: Path) -> None:
    rows = columns(open_dataset(str(small_run / "shards")), "segment_id", "shard", "split")
    train = [(id, shard) for id, shard, split in rows if split == "train"]
    ids = [id for id, _ in train]
    assert ids != sorted(ids)
    shards_of_recording = defaultdict(set)
    for id, shard in train:
        shards_of_recording[id.rpartition("#")[0]].add(shard)
    assert any(len(shards) > 1 for shards in shards_of_recording.values()), "recordings were kept together"


def test_no_speaker_and_no_recording_is_in_two_splits(run_copy: Path) -> None:
    for seed in range(5):
        dataset = packed(run_copy, replace(PACK, split=replace(SPLIT, seed=seed)))
        splits = defaultdict(set)
        for id, speaker, split in columns(dataset, "segment_id", "speaker", "split"):
            splits[speaker or id].add(split)
            splits[id.rpartition("#")[0]].add(split)
        assert all(len(found) == 1 for found in splits.values())
        assert {split for found in splits.values() for split in found} == {"train", "validation", "test"}


def test_a_split_has_its_own_folder_and_numbered_shards(small_run: Path) -> None:
    dataset = open_dataset(str(small_run / "shards"))
    for shard, split in columns(dataset, "shard", "split"):
        assert shard.startswith(f"{split}/{split}-")
    train = sorted({shard for shard, split in columns(dataset, "shard", "split") if split == "train"})
    assert train == [f"train/train-{number:06d}.tar" for number in range(len(train))]
    assert sorted(shard["path"] for shard in dataset.info["shards"]) == sorted(
        set(dataset.manifest["shard"].to_pylist())
    )


def test_twins_are_dropped_and_named(run_copy: Path) -> None:
    dataset = packed(run_copy)
    dropped = parquet.read(str(run_copy / "shards/dropped.parquet")).to_pylist()
    assert [(row["id"], row["reason"], row["detail"], row["corpus"], row["duration_s"]) for row in dropped] == [
        (
            "sounds/twin 2.wav#00000000-00005000",
            "duplicate",
            "same units as sounds/twin 1.wav#00000000-00005000",
            "sounds",
            5.0,
        )
    ]
    ids = dataset.manifest["segment_id"].to_pylist()
    assert "sounds/twin 1.wav#00000000-00005000" in ids
    assert "sounds/twin 2.wav#00000000-00005000" not in ids


def test_twins_may_stay(run_copy: Path) -> None:
    dataset = packed(run_copy, replace(PACK, duplicates=DuplicatesConfig(drop="none")))
    assert len(dataset.manifest) == len(units_of(run_copy))
    assert len(parquet.read(str(run_copy / "shards/dropped.parquet"))) == 0


@pytest.mark.parametrize("sample_s", [0.0, 30.0])
@pytest.mark.usefixtures("without_ray")
def test_a_sample_names_its_recording(run_copy: Path, sample_s: float, monkeypatch: pytest.MonkeyPatch) -> None:
    root = json.loads((run_copy / "manifest/stage.json").read_text())["config"]["corpora"][0]["root"]
    monkeypatch.setattr(pack_module, "PARTS_PER_BATCH", 2)  # so that recordings go on from batch to batch
    dataset = packed(run_copy, replace(PACK, sample_s=sample_s))
    recordings = {one.recording_id: one for one in iterate_recordings(str(run_copy))}
    for shard in dataset.info["shards"]:
        for sample in read_shard(dataset.uri, shard):
            first = (sample.segments or (sample.segment_id,))[0]
            recording = recordings[first.rpartition("#")[0]]
            assert (f"{root}/{sample.uri}", sample.channel, sample.sample_rate_hz) == (
                recording.uri,
                recording.channel,
                recording.sample_rate_hz,
            )
            assert sample.sample_rate_hz is not None


def test_dataset_json_adds_up(small_run: Path) -> None:
    dataset = open_dataset(str(small_run / "shards"))
    manifest, info = dataset.manifest, dataset.info
    for name, told in (("num_units", "num_units"), ("num_frames", "num_frames")):
        total = pc.sum(manifest[name]).as_py()
        for part in (info["shards"], info["totals"], info["languages"].values()):
            assert sum(row[told] for row in part) == total
    hours = pc.sum(manifest["duration_s"]).as_py() / 3600
    for part in (info["totals"], info["languages"].values()):
        assert sum(row["num_samples"] for row in part) == len(manifest)
        assert sum(row["hours"] for row in part) == pytest.approx(hours, abs=1e-5)
    book = json.loads((small_run / "codebook/codebook.json").read_text())
    assert info["encoder"] == book["encoder"]
    assert info["codebook"]["fingerprint"] == book["fingerprint"]
    assert (info["num_units"], info["frame_rate_hz"]) == (20, 25)
    assert set(info["languages"]) == {"en"}


def test_the_corpus_splits_are_kept_and_a_speaker_in_two_is_kept_out_of_training(make_run: Callable[..., Path]) -> None:
    clips = [
        ("a1.wav", "a", 8.0, 1, "en", "train"),
        ("a2.wav", "a", 8.0, 2, "en", "test"),
        ("a3.wav", "a", 8.0, 3, "en", None),
        ("b1.wav", "b", 8.0, 4, "en", "validation"),
        ("c1.wav", "c", 8.0, 5, "en", "train"),
        ("d1.wav", None, 8.0, 6, "en", "validation"),
        ("d2.wav", None, 8.0, 7, "en", "train"),
    ]
    run = make_run(clips, packed=PACK)
    splits = dict(columns(open_dataset(str(run / "shards")), "segment_id", "split"))
    by_file = {id.partition("#")[0].removeprefix("sounds/").removesuffix(".wav"): split for id, split in splits.items()}
    assert by_file == {
        "a1": "test", "a2": "test", "a3": "test",
        "b1": "validation", "c1": "train", "d1": "validation", "d2": "train",
    }  # fmt: skip
    again = packed(run, replace(PACK, split=replace(SPLIT, corpus_splits="ignore", validation=0.0, test=0.0)))
    assert set(again.manifest["split"].to_pylist()) == {"train"}


def test_a_run_without_anything_to_train_on_fails_with_advice(make_run: Callable[..., Path]) -> None:
    clips = [("a.wav", "a", 8.0, 1, "en", "test"), ("f.wav", "f", 8.0, 2, "en", "validation")]
    run = make_run(clips, packed=None)
    with pytest.raises(TwistError, match=r"\(0 train, 2 validation, 2 test\).* Set pack.split.corpus_splits to ignore"):
        packed(run)
    assert not (run / "shards/DONE").exists()
    assert not (run / "shards/dataset.json").exists()


def test_a_split_that_was_asked_for_is_not_left_empty(make_run: Callable[..., Path]) -> None:
    clips = [("a.wav", "a", 8.0, 1, "en", None), ("b.wav", "b", 8.0, 2, "en", None)]
    run = make_run(clips, packed=None)
    with pytest.raises(TwistError, match=r"pack.split.test is 0.2, but no sample is left for it \(2 train, 2 valid"):
        packed(run)
    assert not (run / "shards/DONE").exists()
    dataset = packed(run, PackConfig())
    assert set(dataset.manifest["split"].to_pylist()) == {"train", "validation"}, "a default share may stay empty"


def test_stage_json_tells_the_shares_of_hours(small_run: Path) -> None:
    dataset = open_dataset(str(small_run / "shards"))
    told = json.loads((small_run / "shards/stage.json").read_text())
    total_s = pc.sum(dataset.manifest["duration_s"]).as_py()
    for split, asked in (("train", 0.6), ("validation", 0.2), ("test", 0.2)):
        rows = dataset.manifest.filter(pc.equal(dataset.manifest["split"], split))
        reached = pc.sum(rows["duration_s"]).as_py() / total_s
        assert told["splits"][split]["asked"] == pytest.approx(asked)
        assert told["splits"][split]["share"] == pytest.approx(reached, abs=1e-6)
        assert reached == pytest.approx(asked, abs=0.07), f"{split} is far from its share of hours"
    assert told["split_by"] == dataset.info["split_by"] == "speaker"


def test_shares_are_told_of_what_is_dealt_out_apart_from_the_corpora_s_own_splits(
    make_run: Callable[..., Path],
) -> None:
    own = [(f"{split}.wav", split, 8.0, number, "en", split) for number, split in enumerate(("train", "test"))]
    free = [(f"{speaker}.wav", speaker, 8.0, 10 + number, "en", None) for number, speaker in enumerate("abcde")]
    run = make_run([*own, *free], packed=None)

    def told(split: SplitConfig) -> tuple[dict[str, dict[str, float]], list[str]]:
        packed(run, replace(PACK, split=split))
        facts = read_facts(str(run), "shards")
        return facts["splits"], list(notices(facts))

    splits, lines = told(SPLIT)
    hours, own_hours = (sum(split[name] for split in splits.values()) for name in ("hours", "own_hours"))
    assert splits["train"]["own_hours"] == splits["test"]["own_hours"] == pytest.approx(hours / 7, rel=0.2)
    assert splits["validation"]["own_hours"] == 0
    for split in splits.values():
        assert split["share"] == pytest.approx((split["hours"] - split["own_hours"]) / (hours - own_hours), abs=1e-3)
        assert split["share"] == pytest.approx(split["asked"], abs=0.1), "the own splits' hours count as dealt out"
    assert lines[0].startswith("of the hours dealt out train 6")
    assert lines[1] == "of the hours in the corpora's own splits train 50.0%, validation 0.0%, test 50.0%"

    splits, lines = told(replace(SPLIT, corpus_splits="ignore"))
    assert not any(split["own_hours"] for split in splits.values())
    assert len(lines) == 1 and lines[0].startswith("of the hours train ")

    run = make_run(own, packed=None)
    splits, lines = told(SplitConfig())
    assert not any(split["share"] for split in splits.values()), "nothing was dealt out"
    assert lines == ["of the hours in the corpora's own splits train 50.0%, validation 0.0%, test 50.0%"]


def test_one_speaker_alone_is_split_by_recording_and_verifies(make_run: Callable[..., Path]) -> None:
    run = make_run([(f"{number}.wav", "f", 8.0, number, "en", None) for number in range(5)], packed=PACK)
    dataset = open_dataset(str(run / "shards"))
    assert dataset.info["split_by"] == "recording"
    splits = {split for (split,) in columns(dataset, "split")}
    assert splits == {"train", "validation", "test"}
    assert list(verify.verify_run(str(run))) == []


@pytest.mark.parametrize("min_shards", [1, 3, 7, 10_000])
def test_the_training_split_has_at_least_min_shards_but_no_empty_one(run_copy: Path, min_shards: int) -> None:
    dataset = packed(run_copy, replace(PACK, units_per_shard=10**9, min_shards=min_shards))
    sizes: dict[str, int] = defaultdict(int)
    for shard, split in columns(dataset, "shard", "split"):
        sizes[shard] += split == "train"
    num_train_samples = sum(sizes.values())
    train = [shard for shard in sizes if shard.startswith("train/")]
    assert len(train) == min(min_shards, num_train_samples), "a reader would have no shard"
    assert len([shard for shard in sizes if shard.startswith("validation/")]) == 1


@given(
    sizes=st.lists(st.integers(1, 60), min_size=1, max_size=60),
    units_per_shard=st.integers(1, 400),
    minimum=st.integers(1, 8),
)
def test_shards_are_even_to_within_a_sample(sizes: list[int], units_per_shard: int, minimum: int) -> None:
    edges = even_edges(np.array(sizes), units_per_shard, minimum)
    groups = [sizes[start:end] for start, end in itertools.pairwise(edges)]
    assert [size for group in groups for size in group] == sizes, "a sample was lost, doubled or moved"
    assert all(groups), "an empty shard"
    count = min(len(sizes), max(minimum, -(-sum(sizes) // units_per_shard)))
    assert len(groups) == count
    even = sum(sizes) / count
    if max(sizes) <= even:
        for group in groups:
            assert abs(sum(group) - even) <= max(sizes)


def test_a_giant_sample_does_not_leave_readers_without_a_shard() -> None:
    assert even_edges(np.array([1, 1, 10_000, 1]), units_per_shard=10**6, minimum=4) == [0, 1, 2, 3, 4]


def test_a_damaged_part_is_named(run_copy: Path) -> None:
    path = sorted((run_copy / "units").glob("part-*.parquet"))[1]
    content = path.read_bytes()
    for damage in (content[:200], b"", bytes([*content[:80], content[80] ^ 16, *content[81:]])):
        path.write_bytes(damage)
        with pytest.raises(TwistError, match=path.name):
            packed(run_copy)


def test_unfinished_units_are_refused(run_copy: Path) -> None:
    (run_copy / "units/DONE").unlink()
    with pytest.raises(TwistError, match=r"units is not finished; run `twist tokenize`"):
        packed(run_copy)


def test_finished_shards_are_not_made_again(run_copy: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in (run_copy / "shards").rglob("*.tar")}
    pack(str(run_copy), PackConfig(split=SPLIT, units_per_shard=600, min_shards=2), no_progress)
    assert {path: path.stat().st_mtime_ns for path in (run_copy / "shards").rglob("*.tar")} == before


@pytest.mark.parametrize("settings", [{"units_per_shard": 0}, {"min_shards": 0}], ids=str)
def test_impossible_settings_are_refused(settings: dict[str, int]) -> None:
    with pytest.raises(TwistError, match="must be positive"):
        PackConfig(**settings)  # type: ignore[arg-type]
