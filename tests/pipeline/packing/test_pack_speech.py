"""What packing does with copies, evaluation speech and units that cannot be speech; on runs with made-up units."""

from __future__ import annotations

import io
import itertools
import json
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pytest
import soundfile

from model.encoder.config import EncoderConfig
from pipeline.audio.read import read_spans
from pipeline.errors import TwistError
from pipeline.files import parquet, storage
from pipeline.inspection.verify_shards import verify_shards
from pipeline.packing import duplicates, pack
from pipeline.packing.config import DegenerateConfig, DuplicatesConfig, EvaluationSet, PackConfig, SplitConfig
from pipeline.packing.duplicates import choose_twins
from pipeline.records import LANGUAGE_SCHEMA, RECORDING_SCHEMA, SEGMENT_SCHEMA, UNITS_SCHEMA
from pipeline.shards import open_dataset
from pipeline.stage import Stage, StageCounts, Tally
from pipeline.units import codebook
from pipeline.units.encode import UnitEncoder, run_lengths

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    Frames = NDArray[np.uint16]

NUM_UNITS, FRAME_RATE_HZ = 100, 25
ALL_TRAIN = SplitConfig(validation=0, test=0)
CONFIG = PackConfig(split=ALL_TRAIN, units_per_shard=2000)


@dataclass(frozen=True)
class Segment:
    """A segment with made-up units: its start in its recording, and the unit of each frame."""

    recording: str
    start_s: float
    frames: Frames
    speaker: str | None = None
    split: str | None = None

    @property
    def end_s(self) -> float:
        return self.start_s + len(self.frames) / FRAME_RATE_HZ

    @property
    def id(self) -> str:
        return f"{self.recording}#{self.start_s * 1000:08.0f}-{self.end_s * 1000:08.0f}"


def speech(seed: int, seconds: float = 12.0) -> Frames:
    generator = np.random.default_rng(seed)
    num_frames = round(seconds * FRAME_RATE_HZ)
    lengths = generator.choice([1, 2, 3], num_frames, p=[0.6, 0.3, 0.1])
    return np.repeat(generator.integers(0, NUM_UNITS, num_frames), lengths)[:num_frames].astype(np.uint16)


def encoded_anew(frames: Frames, seed: int = 0) -> Frames:
    """Frames as another encoding changes them: about a third may take a neighbour's unit, one in twenty any unit."""
    generator = np.random.default_rng(seed)
    places = np.arange(len(frames))
    moved = np.clip(places + generator.integers(-1, 2, len(frames)), 0, len(frames) - 1)
    changed = frames[np.where(generator.random(len(frames)) < 0.35, moved, places)]
    wrong = generator.random(len(frames)) < 0.05
    return np.where(wrong, generator.integers(0, NUM_UNITS, len(frames)), changed).astype(np.uint16)


def make_run(folder: Path, segments: list[Segment], per_part: int = 4) -> str:
    """Writes the stages before packing, as if finished."""
    run = str(folder / "run")
    of_recording = {segment.recording: segment for segment in segments}
    count = len(of_recording)

    def table(schema: pa.Schema, **columns: Any) -> pa.Table:
        return pa.table([pa.array(columns.get(f.name, [None] * count), f.type) for f in schema], schema=schema)

    recordings = table(
        RECORDING_SCHEMA,
        recording_id=list(of_recording),
        corpus=[id.partition("/")[0] for id in of_recording],
        uri=list(of_recording),
        duration_s=[1000.0] * count,
        sample_rate_hz=[16_000] * count,
        num_channels=[1] * count,
        speaker=[segment.speaker for segment in of_recording.values()],
        split=[segment.split for segment in of_recording.values()],
    )
    decisions = table(
        LANGUAGE_SCHEMA,
        recording_id=list(of_recording),
        keep=[True] * count,
        language=["en"] * count,
        evidence=["metadata"] * count,
    )
    corpora = [{"root": f"/audio/{name}", "name": name} for name in dict.fromkeys(recordings["corpus"].to_pylist())]
    _finish(run, "manifest", {"all.parquet": recordings}, {"corpora": corpora})
    _finish(run, "language", {"decisions.parquet": decisions})
    of_segment = [segment.recording for segment in segments]
    plan = {"segment_id": of_segment, "recording_id": of_segment, "uri": of_segment, "work_unit": of_segment}
    plan |= {"start_s": [0.0] * len(segments), "end_s": [1.0] * len(segments)}
    _finish(
        run,
        "segments",
        {
            "segments.parquet": pa.Table.from_pydict(
                {
                    field.name: pa.array(plan.get(field.name, [None] * len(segments)), field.type)
                    for field in SEGMENT_SCHEMA
                },
                schema=SEGMENT_SCHEMA,
            )
        },
    )
    encoder = {"name": "mfcc", "fingerprint": "made up", "frame_rate_hz": FRAME_RATE_HZ}
    codebook.save(storage.join(run, "codebook"), np.zeros((NUM_UNITS, 2), np.float32), {"encoder": encoder})
    parts = {
        f"part-all-{start // per_part:07d}.parquet": _units(segments[start : start + per_part])
        for start in range(0, len(segments), per_part)
    }
    num_units = sum(len(run_lengths(segment.frames)[0]) for segment in segments)
    _finish(run, "units", parts, num_units=num_units)
    return run


def _finish(
    run: str, name: str, tables: dict[str, pa.Table], config: dict[str, Any] | None = None, **facts: Any
) -> None:
    stage = Stage(run, name, config or {}, {})
    with stage.begin():
        for file, table in tables.items():
            parquet.write(storage.join(stage.uri, file), table)
        stage.finish(StageCounts.of(Tally(), Tally(), []), [], name, **facts)


def _units(segments: list[Segment]) -> pa.Table:
    runs = [run_lengths(segment.frames) for segment in segments]
    columns = {
        "segment_id": [segment.id for segment in segments],
        "recording_id": [segment.recording for segment in segments],
        "start_s": [segment.start_s for segment in segments],
        "end_s": [segment.end_s for segment in segments],
        "num_frames": [len(segment.frames) for segment in segments],
        "units": [units for units, _ in runs],
        "durations": [durations for _, durations in runs],
        "drop_reason": [None] * len(segments),
        "drop_detail": [None] * len(segments),
    }
    return pa.table(columns, schema=UNITS_SCHEMA)


def pack_all(run: str, config: PackConfig = CONFIG) -> dict[str, dict[str, Any]]:
    """Packs a run and returns the drops by id; checks that kept and dropped add up, and that the shards are valid."""
    shutil.rmtree(Path(run, "shards"), ignore_errors=True)
    pack.pack(run, config, lambda *_: None)
    dropped = {row["id"]: row for row in parquet.read(f"{run}/shards/dropped.parquet").to_pylist()}
    counts = json.loads(Path(run, "shards/stage.json").read_text())["counts"]
    assert counts["kept"]["items"] + len(dropped) == counts["input"]["items"]
    assert list(verify_shards(f"{run}/shards")) == []
    assert not [name for name in storage.list_files(f"{run}/shards") if name.startswith("work/")]
    return dropped


def sources(count: int = 12) -> list[Segment]:
    return [Segment(f"one/{number:02d}.wav", 0.0, speech(number)) for number in range(count)]


def test_copies_encoded_shifted_or_cut_are_dropped_and_name_their_twin(tmp_path: Path) -> None:
    long = speech(99, 30.0)
    cases = {
        "encoded": (speech(100), encoded_anew(speech(100))),
        "shifted": (long[:300], encoded_anew(long)[140:440]),
        "cut": (long[350:650], encoded_anew(long)[400:600]),
        "equal": (speech(101), speech(101)),
    }
    segments = sources()
    for name, (original, copy) in cases.items():
        segments += [Segment(f"one/{name}.wav", 5.0, original), Segment(f"two/{name}.flac", 7.0, copy)]
    dropped = pack_all(make_run(tmp_path, segments))
    by_recording = {id.partition("#")[0]: row for id, row in dropped.items()}
    assert by_recording.keys() == {f"two/{name}.flac" for name in cases}, "a copy stayed, or something else went"
    for name in cases:
        row = by_recording[f"two/{name}.flac"]
        assert f"one/{name}.wav#00005000-" in row["detail"]
        assert row["reason"] == ("duplicate" if name == "equal" else "near_duplicate")
        if name != "equal":
            similarity = float(row["detail"].split("similarity ")[1].split()[0])
            assert 0.6 < similarity < 1


def test_equal_units_at_another_pace_are_another_reading(tmp_path: Path) -> None:
    units, durations = run_lengths(speech(7))
    slower = np.repeat(units, durations + np.random.default_rng(0).integers(0, 3, len(units)).astype(np.uint16))
    segments = [*sources(5), Segment("two/a.wav", 0.0, speech(7)), Segment("two/b.wav", 0.0, slower[:300])]
    assert pack_all(make_run(tmp_path, segments)) == {}


@pytest.mark.parametrize(("drop", "expected"), [("none", 0), ("exact", 1), ("near", 2)])
def test_how_much_is_dropped_is_a_setting(tmp_path: Path, drop: Any, expected: int) -> None:
    copies = [Segment("two/a.wav", 0.0, speech(1)), Segment("two/b.wav", 0.0, encoded_anew(speech(2)))]
    run = make_run(tmp_path, [*sources(5), *copies])
    assert len(pack_all(run, replace(CONFIG, duplicates=DuplicatesConfig(drop=drop)))) == expected


def test_the_twin_for_evaluation_stays(tmp_path: Path) -> None:
    long = speech(50, 40.0)
    segments = [
        *sources(5),
        Segment("a/train.wav", 0.0, encoded_anew(speech(51)), split="train"),
        Segment("b/test.wav", 0.0, speech(51), split="test"),
        # A fifth of a training segment is a whole segment of the test: it must not be trained on.
        Segment("a/long.wav", 0.0, encoded_anew(long), split="train"),
        Segment("b/part.wav", 0.0, long[300:500], split="test"),
    ]
    dropped = pack_all(make_run(tmp_path, segments), replace(CONFIG, split=SplitConfig(validation=0, test=0)))
    assert {id.partition("#")[0] for id in dropped} == {"a/train.wav", "a/long.wav"}


def test_of_many_copies_one_stays(tmp_path: Path) -> None:
    copies = [Segment(f"two/{n:02d}.wav", 0.0, encoded_anew(speech(60), seed=n)) for n in range(30)]
    dropped = pack_all(make_run(tmp_path, [*sources(5), *copies]))
    assert len(dropped) == 29
    kept = set(open_dataset(str(tmp_path / "run/shards")).manifest["segment_id"].to_pylist())
    for row in dropped.values():
        assert row["detail"].removeprefix("same speech as ").partition(", similarity")[0] in kept, (
            "a twin that went too"
        )


def test_twins_are_chosen_by_priority_and_overlap() -> None:
    similar = pa.table(
        {
            "left": [0, 1, 3, 5],
            "right": [1, 2, 4, 6],
            "similarity": [0.9, 0.9, 0.9, 0.4],
            "overlap": [100, 100, 30, 100],
        }
    )
    frames = np.full(7, 100)
    nowhere = np.zeros(7, bool)
    config = DuplicatesConfig()
    # 1 is dropped for 0; 2 is a twin of 1, which is gone; 3 and 4 share too little, 5 and 6 are too different.
    assert choose_twins(similar, np.arange(7), frames, nowhere, config) == {1: (0, 0.9, 100)}
    turned = choose_twins(similar, np.arange(7)[::-1].copy(), frames, nowhere, config)
    assert turned == {1: (2, 0.9, 100)}
    assert choose_twins(similar, np.where(np.arange(7) == 0, -1, np.arange(7)), frames, nowhere, config) == {
        2: (1, 0.9, 100)
    }


def work_of(run: str) -> dict[str, bytes]:
    files = [name for name in storage.list_files(f"{run}/shards") if name != "stage.json"]
    return {name: Path(run, "shards", name).read_bytes() for name in files if not name.startswith(".")}


@pytest.fixture
def many_tasks(monkeypatch: pytest.MonkeyPatch, without_ray: None) -> Callable[[int], None]:  # noqa: ARG001
    """Makes a small run have as many tasks as a large one."""

    def set_parts(parts_per_batch: int) -> None:
        for name, value in {
            "PARTS_PER_BATCH": parts_per_batch,
            "LANDMARKS_PER_PARTITION": 500 * parts_per_batch,
            "CANDIDATES_PER_PARTITION": 2,
            "UNITS_PER_FILL": 1500,
            "FEW_TASKS": 0,
        }.items():
            monkeypatch.setattr(pack, name, value)

    return set_parts


def a_bit_of_everything() -> list[Segment]:
    copies = [Segment(f"two/{n}.wav", 3.0, encoded_anew(speech(n) if n % 2 else speech(n)[40:])) for n in range(6)]
    hum = Segment("two/hum.wav", 0.0, np.full(100, 3, np.uint16))
    return [*sources(30), *copies, hum, Segment("two/same.wav", 0.0, speech(9))]


def test_neither_the_number_of_tasks_nor_of_parts_matters(tmp_path: Path, many_tasks: Callable[[int], None]) -> None:
    segments = a_bit_of_everything()
    found = []
    for number, (per_part, per_batch) in enumerate([(4, 1000), (4, 1), (3, 2), (1, 7)]):
        many_tasks(per_batch)
        run = make_run(tmp_path / str(number), segments, per_part)
        assert len(pack_all(run)) == 8
        found.append(work_of(run))
        del found[-1]["DONE"]  # names the units that it was made from
    assert all(files == found[0] for files in found[1:])


def test_a_run_killed_anywhere_goes_on_to_the_same_bytes(
    tmp_path: Path, many_tasks: Callable[[int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    many_tasks(3)
    run = make_run(tmp_path, a_bit_of_everything())
    writes = 0
    budget = 10**9

    class Killed(BaseException):
        pass

    put = storage.write_bytes

    def write_bytes(uri: str, data: bytes) -> None:
        nonlocal writes
        if writes >= budget:
            raise Killed
        writes += 1
        put(uri, data)

    monkeypatch.setattr(storage, "write_bytes", write_bytes)
    pack_all(run)
    whole, num_writes = work_of(run), writes
    assert num_writes > 50
    for stop in range(1, num_writes, 7):
        shutil.rmtree(Path(run, "shards"))
        writes, budget = 0, stop
        with pytest.raises(Killed):
            pack.pack(run, CONFIG, lambda *_: None)
        budget = 10**9
        pack.pack(run, CONFIG, lambda *_: None)
        assert work_of(run) == whole, f"stopped after {stop} writes"


def test_degenerate_segments_are_dropped(tmp_path: Path) -> None:
    hum = Segment("two/hum.wav", 0.0, np.full(100, 3, np.uint16))
    run = make_run(tmp_path, [*sources(5), hum])
    assert {id: (row["reason"], row["detail"]) for id, row in pack_all(run).items()} == {
        hum.id: ("degenerate", "one unit for 100% of its length")
    }
    off = DegenerateConfig(max_unit_share=None, min_entropy_bits=None, min_units_per_s=None)
    assert pack_all(run, replace(CONFIG, degenerate=off)) == {}


def test_speech_of_tokenized_evaluation_sets_is_dropped_and_named(tmp_path: Path) -> None:
    clips = {"pos 1": speech(70, 2.0), "pos 2": speech(71, 5.0), "short": speech(72, 0.3)}
    lines = []
    for name, frames in clips.items():
        units, durations = run_lengths(frames)
        lines.append(json.dumps({"file_name": name, "units": units.tolist(), "durations": durations.tolist()}))
    (tmp_path / "pairs.jsonl").write_text("\n".join(lines) + "\n")
    around = speech(73, 20.0)
    held = np.concatenate([around[:100], encoded_anew(clips["pos 1"]), around[100:]])
    part = encoded_anew(clips["pos 2"])[20:]
    segments = [*sources(6), Segment("two/held.wav", 0.0, held), Segment("two/part.wav", 0.0, part)]
    run = make_run(tmp_path, segments)
    config = replace(CONFIG, decontaminate=(EvaluationSet(str(tmp_path / "pairs.jsonl"), name="blimp"),))
    dropped = pack_all(run, config)
    assert {id.partition("#")[0]: row["detail"].partition(",")[0] for id, row in dropped.items()} == {
        "two/held.wav": "speech of blimp/pos 1",
        "two/part.wav": "speech of blimp/pos 2",
    }
    assert {row["reason"] for row in dropped.values()} == {"evaluation"}
    facts = json.loads(Path(run, "shards/stage.json").read_text())
    assert (facts["evaluation_clips"], facts["evaluation_clips_too_short"]) == (2, 1)

    (tmp_path / "pairs.jsonl").write_text(lines[0] + "\n")
    with pytest.raises(TwistError, match="its input evaluation sets has changed"):
        pack.pack(run, config, lambda *_: None)


def test_shards_serve_as_an_evaluation_set(tmp_path: Path) -> None:
    other = make_run(tmp_path / "other", sources(3))
    pack_all(other)
    run = make_run(tmp_path, [*sources(6)[2:], Segment("two/a.wav", 0.0, encoded_anew(speech(1)))])
    config = replace(CONFIG, decontaminate=(EvaluationSet(f"{other}/shards", name="held out"),))
    assert {id.partition("#")[0] for id in pack_all(run, config)} == {"two/a.wav", "one/02.wav"}


def test_audio_serves_as_an_evaluation_set(make_run: Callable[..., Path], tmp_path: Path) -> None:
    run = make_run(packed=None)
    folder = tmp_path / "evaluation"
    folder.mkdir()
    sounds = run.parent / "sounds"
    shutil.copy(sounds / "c/1.wav", folder)
    found = pack_all(str(run), PackConfig(split=ALL_TRAIN, decontaminate=(EvaluationSet(str(folder)),)))
    gone = {id.partition("#")[0] for id, row in found.items() if row["reason"] == "evaluation"}
    assert gone == {"sounds/c/1.wav"}
    (folder / "broken.wav").write_bytes(b"RIFF")
    with pytest.raises(TwistError, match=r"evaluation has a file that cannot be read, .*broken\.wav"):
        pack_all(str(run), PackConfig(split=ALL_TRAIN, decontaminate=(EvaluationSet(str(folder)),)))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "there is no evaluation set"),
        ("", "has nothing"),
        ("{", "line 1, is no clip"),
        ('{"units": [1, 2]}\n{"text": "x"}', "line 2, is no clip"),
        ('{"units": [1, 2], "durations": [1]}', "do not fit together"),
        ('{"units": [1, -2]}', "do not fit together"),
        ('{"units": [1, 100]}', "unit 100, the codebook only 100"),
    ],
)
def test_an_evaluation_set_that_cannot_be_read_is_refused(tmp_path: Path, content: str | None, message: str) -> None:
    path = tmp_path / "pairs.jsonl"
    if content is not None:
        path.write_text(content)
    run = make_run(tmp_path, sources(3))
    with pytest.raises(TwistError, match=message):
        pack_all(run, replace(CONFIG, decontaminate=(EvaluationSet(str(path)),)))
    assert not Path(run, "shards").exists()


def test_neighbours_are_joined_to_longer_samples(tmp_path: Path) -> None:
    segments = []
    for recording in range(6):
        at = 0.0
        for number in range(10):
            frames = speech(100 * recording + number, 4.0)
            if number % 3 == 1:
                frames[:2] = segments[-1].frames[-1]  # the same unit ends one and begins the next
            gap_s = 10.0 if number == 5 else 0.2
            segments.append(Segment(f"one/{recording}.wav", round(at + gap_s, 3), frames))
            at += gap_s + 4.0
    run = make_run(tmp_path, segments)
    assert pack_all(run, replace(CONFIG, sample_s=13.0, units_per_shard=400)) == {}
    dataset = open_dataset(f"{run}/shards")
    groups = parquet.read(f"{run}/shards/groups.parquet").to_pylist()
    members: dict[str, list[str]] = {}
    for row in groups:
        members.setdefault(row["sample"], []).append(row["segment"])
    by_id = {segment.id: segment for segment in segments}
    rows = dataset.manifest.to_pylist()
    found = [id for row in rows for id in members.get(row["segment_id"], [row["segment_id"]])]
    assert sorted(found) == sorted(by_id), "a segment was lost or doubled"
    assert max(len(ids) for ids in members.values()) == 3
    for row in rows:
        parts = [by_id[id] for id in members.get(row["segment_id"], [row["segment_id"]])]
        assert parts[-1].end_s - parts[0].start_s <= 13.0
        assert all(b.start_s - a.end_s <= 2.0 for a, b in itertools.pairwise(parts))
        assert row["duration_s"] == pytest.approx(sum(part.end_s - part.start_s for part in parts))
        content = Path(run, "shards", row["shard"]).read_bytes()
        units = np.frombuffer(content, "<u2", row["num_units"], row["units_offset"])
        assert units.tolist() == run_lengths(np.concatenate([part.frames for part in parts]))[0].tolist()
        assert row["num_frames"] == sum(len(part.frames) for part in parts)


def test_units_are_counted_by_split(tmp_path: Path) -> None:
    run = make_run(tmp_path, [replace(s, split="test" if n > 8 else "train") for n, s in enumerate(sources())])
    pack_all(run)
    dataset = open_dataset(f"{run}/shards")
    for split, counts in dataset.info["unit_counts"].items():
        expected = np.zeros(NUM_UNITS, int)
        for row in dataset.manifest.to_pylist():
            if row["split"] == split:
                content = Path(run, "shards", row["shard"]).read_bytes()
                units = np.frombuffer(content, "<u2", row["num_units"], row["units_offset"])
                expected += np.bincount(units, minlength=NUM_UNITS)
        assert counts == expected.tolist()


@pytest.mark.parametrize("gain_db", [0, -30])
def test_recorded_speech_encoded_as_mp3_and_shifted_is_found(gain_db: int, speech: Path, tmp_path: Path) -> None:
    from model.artefacts import resolve
    from pipeline.audio.read import Span, probe

    book = codebook.load(resolve("hubert-tiny-25hz-km100"))
    encode = UnitEncoder(EncoderConfig(name="hubert", path="hubert-tiny-25hz", layer=3), book)
    paths = sorted((speech / "LJSpeech/wavs").glob("*.wav"))
    wavs = list(read_spans([Span(str(path), None, 0.0, probe(str(path)).duration_s) for path in paths]))
    segments = []
    for number, wav in enumerate(wavs):
        assert isinstance(wav, np.ndarray)
        file = io.BytesIO()
        soundfile.write(file, wav[len(wav) // 4 :] * 10 ** (gain_db / 20), 16_000, format="MP3")
        file.seek(0)
        copy = soundfile.read(file, dtype="float32")[0]
        pair = encode([wav, copy])
        segments += [Segment(f"{name}/{number}.wav", 0.0, f) for name, f in zip(("one", "two"), pair, strict=True)]
    dropped = pack_all(make_run(tmp_path, segments))
    long_enough = sum(len(wav) > 4 * 16_000 for wav in wavs)
    assert len(dropped) >= long_enough
    for id, row in dropped.items():
        assert row["detail"].partition("/")[2].partition(".wav")[0] == id.partition("/")[2].partition(".wav")[0]


@pytest.mark.parametrize(
    "settings",
    [{"drop": "all"}, {"min_similarity": 0.0}, {"min_overlap": 1.5}, {"pairs_per_landmark": 0}, {"landmark_units": 5}],
    ids=str,
)
def test_impossible_settings_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(TwistError, match="duplicates"):
        duplicates.DuplicatesConfig(**settings)
