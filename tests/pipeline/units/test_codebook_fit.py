from __future__ import annotations

import hashlib
import json
import shutil
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from model.encoder.config import EncoderConfig
from model.encoder.encoder import load_encoder
from pipeline.audio.read import AudioError, Clip, Span
from pipeline.errors import TwistError
from pipeline.files import parquet, storage
from pipeline.units import codebook
from pipeline.units.codebook import CodebookError
from pipeline.units.codebook_fit import DrawFrames, fit_codebook
from pipeline.units.config import CodebookConfig
from pipeline.units.tokenize import tokenize
from pipeline.work import dataflow
from pipeline.work.cluster import ClusterConfig
from pipeline.work.plan import Chunk

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    import pyarrow as pa
    from numpy.typing import NDArray

IDS = tuple(f"x/a.wav#{number:08d}" for number in range(5))


def wav_of(num_samples: int, seed: int = 0) -> NDArray[np.float32]:
    return (0.1 * np.random.default_rng(seed).standard_normal(num_samples)).astype(np.float32)


WAVS = [wav_of(20_000 + 3_000 * number, number) for number in range(5)]
CLIPS = [Clip(wav) for wav in WAVS]


def unit_of(ids: Sequence[str]) -> Chunk:
    return Chunk("000000", tuple(ids), tuple(Span("x/a.wav", None, 0.0, 1.0) for _ in ids))


def frames_by_id(part: pa.Table) -> dict[str, NDArray[np.float32] | None]:
    rows = part.to_pylist()
    return {
        row["segment_id"]: None if row["frames"] is None else np.frombuffer(row["frames"], np.float32).reshape(-1, 39)
        for row in rows
    }


def test_the_frames_drawn_from_a_segment_do_not_depend_on_its_chunk() -> None:
    draw = DrawFrames(EncoderConfig(), share=0.3, seed=4)
    together = draw(unit_of(IDS), CLIPS).to_pylist()
    for number in range(5):
        assert draw(unit_of([IDS[number]]), [CLIPS[number]]).to_pylist() == [together[number]]
    assert draw(unit_of(IDS[::-1]), CLIPS[::-1]).to_pylist() == together[::-1]
    again = DrawFrames(EncoderConfig(), share=0.3, seed=4)
    assert parquet.to_bytes(again(unit_of(IDS), CLIPS)) == parquet.to_bytes(draw(unit_of(IDS), CLIPS))


def test_drawn_frames_are_the_encoders_in_their_order() -> None:
    encoder = load_encoder(EncoderConfig())
    every = frames_by_id(DrawFrames(EncoderConfig(), share=1.0, seed=0)(unit_of(IDS), CLIPS))
    some = frames_by_id(DrawFrames(EncoderConfig(), share=0.4, seed=0)(unit_of(IDS), CLIPS))
    for id, wav in zip(IDS, WAVS, strict=True):
        features = encoder.encode([torch.from_numpy(wav)])[0].numpy()
        assert np.array_equal(every[id], features)
        drawn = some[id]
        assert drawn is not None
        places = [int(np.flatnonzero((features == frame).all(axis=1))[0]) for frame in drawn]
        assert places == sorted(set(places)), "a frame was drawn twice or out of order"
        assert 0 < len(places) < len(features)


def test_about_the_wanted_share_is_drawn_and_the_seed_says_which() -> None:
    wavs = [wav_of(16_000 * 20, seed) for seed in range(5)]
    num_frames = sum(load_encoder(EncoderConfig()).num_frames(len(wav)) for wav in wavs)

    def draw(seed: int) -> list[bytes]:
        return [
            row["frames"]
            for row in DrawFrames(EncoderConfig(), 0.25, seed)(unit_of(IDS), list(map(Clip, wavs))).to_pylist()
        ]

    drawn = sum(len(frames) for frames in draw(0)) / (4 * 39)
    assert drawn / num_frames == pytest.approx(0.25, abs=0.05)
    assert draw(0) != draw(1)


def test_what_cannot_be_used_becomes_a_row_with_its_reason() -> None:
    outcomes = [
        CLIPS[0],
        AudioError("missing", "gone"),
        Clip(wav_of(100)),
        Clip(np.zeros(0, np.float32)),
        CLIPS[4],
    ]
    part = DrawFrames(EncoderConfig(), share=1.0, seed=0)(unit_of(IDS), outcomes)
    assert part["drop_reason"].to_pylist() == [None, "missing", "too_short", "too_short", None]
    assert part["drop_detail"].to_pylist()[1:3] == ["gone", "100 samples give no frame"]
    assert [frames is None for frames in part["frames"].to_pylist()] == [False, True, True, True, False]


def no_progress(done: int, total: int, noun: str, detail: str = "") -> None:
    pass


def fit(run: Path, encoder: EncoderConfig | None = None, **settings: Any) -> codebook.Codebook:
    """Fits the codebook again in a copy of a run."""
    for name in ("codebook", "units", "shards"):
        shutil.rmtree(run / name, ignore_errors=True)
    config = CodebookConfig(**{"num_units": 20, "num_iterations": 5, **settings})
    fit_codebook(str(run), config, encoder or EncoderConfig(), ClusterConfig(), no_progress)
    return codebook.load(str(run / "codebook"))


def drawn_segments(run: Path) -> set[str]:
    parts = storage.list_files(str(run / "codebook/frames"))
    return {id for name in parts for id in parquet.read(str(run / "codebook/frames" / name))["segment_id"].to_pylist()}


@pytest.mark.usefixtures("without_ray")
def test_fitting_again_gives_the_same_codebook(run_copy: Path, small_run: Path) -> None:
    before = (small_run / "codebook/codebook.safetensors").read_bytes()
    fit(run_copy)
    assert (run_copy / "codebook/codebook.safetensors").read_bytes() == before
    assert fit(run_copy, seed=1).centroids.tobytes() != codebook.load(str(small_run / "codebook")).centroids.tobytes()


def test_the_codebook_does_not_depend_on_the_plan_of_chunks(make_run: Callable[..., Path], small_run: Path) -> None:
    other = make_run(work_unit_minutes=1.0, packed=None)
    assert len(list(other.glob("units/part-*"))) < len(list(small_run.glob("units/part-*")))
    book, other_book = (codebook.load(str(run / "codebook")) for run in (small_run, other))
    assert other_book.fingerprint == book.fingerprint


def test_its_facts_and_counts_say_what_was_done(small_run: Path) -> None:
    facts = codebook.load(str(small_run / "codebook")).facts
    encoder = load_encoder(EncoderConfig())
    assert facts["encoder"] == encoder.describe()
    assert (facts["num_units"], facts["feature_dim"], facts["num_iterations"], facts["seed"]) == (20, 39, 5, 0)
    counts = json.loads((small_run / "codebook/stage.json").read_text())["counts"]
    assert counts["input"]["items"] == len(drawn_segments(small_run))
    assert counts["dropped"]["missing"]["items"] == 2, "both segments of the file that vanished"
    assert counts["kept"]["items"] == counts["input"]["items"] - 2
    units = json.loads((small_run / "units/stage.json").read_text())
    assert facts["num_frames"] + facts["held_out_frames"] == units["num_frames"], (
        "under the limits, every frame is drawn"
    )


@pytest.mark.usefixtures("without_ray")
def test_max_hours_takes_a_part_of_the_segments_and_less_is_a_part_of_more(run_copy: Path) -> None:
    fit(run_copy)
    every = drawn_segments(run_copy)
    drawn = []
    for minutes in (1.0, 1.6):
        fit(run_copy, max_hours=minutes / 60)
        drawn.append(drawn_segments(run_copy))
        table = parquet.read(str(run_copy / "segments/segments.parquet")).to_pylist()
        seconds = sum(row["end_s"] - row["start_s"] for row in table if row["segment_id"] in drawn[-1])
        assert minutes * 60 - 5.0 < seconds <= minutes * 60, "the limit is kept to within a segment"
    assert drawn[0] < drawn[1] < every


@pytest.mark.usefixtures("without_ray")
def test_max_frames_draws_evenly_about_as_many(run_copy: Path) -> None:
    book = fit(run_copy, max_frames=1000)
    assert book.facts["num_frames"] + book.facts["held_out_frames"] == pytest.approx(1000, rel=0.15)
    assert len(drawn_segments(run_copy)) == 36, "few frames of every segment, not many of some"


@pytest.mark.usefixtures("without_ray")
def test_too_few_frames_say_what_to_change(run_copy: Path) -> None:
    with pytest.raises(TwistError, match=r"too few to fit 20000 units: give more audio \(codebook.max_hours\)"):
        fit(run_copy, num_units=20_000)
    assert not (run_copy / "codebook/DONE").exists()


def test_segments_that_cannot_be_read_fail_loudly(run_copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def nothing_works(units: Sequence[Chunk], parts: str, *others: Any) -> None:
        for unit in units:
            part = others[2](unit, AudioError("quarantined", "failed 3 times"))
            storage.put_if_absent(dataflow.part_uri(parts, unit.name), parquet.to_bytes(part))

    monkeypatch.setattr(dataflow, "run_chunks", nothing_works)
    with pytest.raises(TwistError, match=r"none of the 36 segments .* could be read: .*quarantined \(failed 3 times\)"):
        fit(run_copy)


@pytest.fixture
def centroids_file(tmp_path: Path) -> Path:
    """A codebook of 20 units from elsewhere, of which only the centroids are known."""
    np.save(tmp_path / "km20.npy", np.random.default_rng(3).standard_normal((20, 39)))
    return tmp_path / "km20.npy"


def take(run: Path, path: Path, **settings: Any) -> codebook.Codebook:
    """Gives a copy of a run this codebook."""
    for name in ("codebook", "units", "shards"):
        shutil.rmtree(run / name, ignore_errors=True)
    config = CodebookConfig(**{"num_units": 20, "path": str(path), **settings})
    fit_codebook(str(run), config, EncoderConfig(), ClusterConfig(), no_progress)
    return codebook.load(str(run / "codebook"))


@pytest.mark.usefixtures("without_ray")
def test_a_given_codebook_is_taken_as_it_is(run_copy: Path, centroids_file: Path) -> None:
    taken = take(run_copy, centroids_file)
    assert np.array_equal(taken.centroids, np.load(centroids_file).astype(np.float32))
    assert taken.facts["encoder"] == load_encoder(EncoderConfig()).describe()
    assert taken.facts["imported_from"] == str(centroids_file)
    assert taken.facts["imported_sha256"] == hashlib.sha256(centroids_file.read_bytes()).hexdigest()
    assert not (run_copy / "codebook/frames").exists(), "frames were drawn that nothing was fitted to"
    tokenize(str(run_copy), EncoderConfig(), ClusterConfig(), no_progress)
    assert json.loads((run_copy / "units/stage.json").read_text())["num_frames"] > 0


def test_the_codebook_of_another_run_is_the_same_codebook(run_copy: Path, small_run: Path) -> None:
    before = codebook.load(str(small_run / "codebook"))
    taken = take(run_copy, small_run / "codebook")
    assert taken.fingerprint == before.fingerprint, "its units would count as others"
    assert taken.centroids.tobytes() == before.centroids.tobytes()


def test_a_given_codebook_that_changed_since_is_noticed(run_copy: Path, centroids_file: Path) -> None:
    before = take(run_copy, centroids_file)
    config = CodebookConfig(num_units=20, path=str(centroids_file))
    fit_codebook(str(run_copy), config, EncoderConfig(), ClusterConfig(), no_progress)
    assert codebook.load(str(run_copy / "codebook")).fingerprint == before.fingerprint, "it was finished"
    np.save(centroids_file, np.zeros((20, 39)))
    with pytest.raises(TwistError, match="made with other settings: sha256 was "):
        fit_codebook(str(run_copy), config, EncoderConfig(), ClusterConfig(), no_progress)


def test_a_given_codebook_that_does_not_fit_is_refused(run_copy: Path, tmp_path: Path, small_run: Path) -> None:
    np.save(tmp_path / "hubert.npy", np.zeros((20, 768), np.float32))
    with pytest.raises(
        CodebookError, match="takes features of 768 dimensions, but the features of the encoder mfcc have 39"
    ):
        take(run_copy, tmp_path / "hubert.npy")
    with pytest.raises(CodebookError, match=r"has 20 units; set codebook\.num_units, now 500"):
        take(run_copy, small_run / "codebook", num_units=500)
    facts = {"encoder": {**load_encoder(EncoderConfig()).describe(), "fingerprint": "another"}}
    codebook.save(str(tmp_path / "other"), np.ones((20, 39), np.float32), facts)
    with pytest.raises(CodebookError, match="fitted on another encoder"):
        take(run_copy, tmp_path / "other")
    with pytest.raises(CodebookError, match="nowhere is neither a file of centroids nor the folder of a codebook"):
        take(run_copy, tmp_path / "nowhere")
    assert not (run_copy / "codebook/DONE").exists()


@pytest.mark.parametrize(
    "settings", [{"max_hours": 1.0}, {"max_frames": 9}, {"num_iterations": 3}, {"seed": 1}], ids=str
)
def test_settings_of_a_fit_are_refused_beside_a_given_codebook(settings: dict[str, Any]) -> None:
    with pytest.raises(TwistError, match=r"is of no use with codebook\.path"):
        CodebookConfig(path="km.bin", **settings)


@pytest.mark.parametrize(
    "settings",
    [{"num_units": 1}, {"num_units": 65537}, {"max_hours": 0.0}, {"max_frames": 0}, {"num_iterations": 0}],
    ids=str,
)
def test_impossible_settings_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(TwistError, match="codebook"):
        CodebookConfig(**settings)
