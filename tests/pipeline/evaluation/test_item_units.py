"""Units of a benchmark's files: what is kept, and what is tried again."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
import soundfile
import torch

from pipeline.errors import TwistError
from pipeline.evaluation import item_units
from pipeline.evaluation.item_units import AudioItem, CodeSource, units_of_items
from pipeline.files import parquet
from pipeline.speaking.code_models import load_code_models
from pipeline.speaking.tokenizer import encoder_of, find_codebook
from pipeline.work.cluster import ClusterConfig
from tests.progress import silently


@pytest.fixture
def files(tmp_path):
    rng = np.random.default_rng(0)
    for name in "abc":
        soundfile.write(tmp_path / f"{name}.wav", 0.1 * rng.standard_normal(8000), 16_000)
    (tmp_path / "d.wav").write_bytes(b"no audio")
    return [AudioItem(name, str(tmp_path / f"{name}.wav")) for name in "abcde"]


@pytest.fixture
def made(monkeypatch):
    """The chunks that were made, by this process in place of a cluster."""
    chunks = []

    def run_chunks(plan, parts, processor, arguments, _quarantine, _cluster, _report):
        process = processor(**arguments)
        for chunk in plan:
            uri = f"{parts}/part-{chunk.name}.parquet"
            if not item_units.storage.exists(uri):
                chunks.append(chunk.ids)
                clips = [item_units_clip(span) for span in chunk.spans]
                parquet.write(uri, process(chunk, clips))
        return {}

    monkeypatch.setattr(item_units.dataflow, "run_chunks", run_chunks)
    return chunks


def item_units_clip(span):
    from pipeline.audio.read import read_clips

    (clip,) = read_clips([span])
    return clip


def units(files, folder, codes=None):
    book = find_codebook("hubert-tiny-25hz")
    return units_of_items(str(folder), files, encoder_of(book, "cpu"), book, ClusterConfig(), silently, codes)


def test_units_are_made_once_and_what_cannot_be_read_is_named(files, made, tmp_path):
    first = units(files, tmp_path / "out")
    assert list(first.of) == ["a", "b", "c"]
    assert {one.item_id: one.reason for one in first.left_out} == {"d": "unreadable", "e": "missing"}
    again = units(files, tmp_path / "out")
    assert len(made) == 1
    assert again.fingerprint == first.fingerprint


def test_another_file_of_the_name_is_another_item(files, made, tmp_path):
    before = units(files, tmp_path / "out")
    soundfile.write(files[0].uri, np.zeros(8000) + 0.01 * np.sin(np.arange(8000)), 16_000)
    after = units(files, tmp_path / "out")
    assert len(made) == 2
    assert after.fingerprint != before.fingerprint


def test_what_failed_for_reasons_that_may_have_passed_is_tried_again(files, made, tmp_path):
    first = units(files, tmp_path / "out")
    (uri,) = (tmp_path / "out").rglob("part-*.parquet")
    rows = parquet.read(str(uri)).to_pylist()
    rows[1] |= {"units": None, "durations": None, "drop_reason": "io_error", "drop_detail": "the disk was gone"}
    parquet.write(str(uri), pa.Table.from_pylist(rows, schema=item_units.SCHEMA))
    assert units(files, tmp_path / "out").of.keys() == first.of.keys()
    assert len(made) == 2


def test_two_items_of_one_name_are_refused(files, tmp_path):
    with pytest.raises(TwistError, match="two items that are called a"):
        units([*files, AudioItem("a", files[1].uri)], tmp_path)


def test_an_item_that_would_fill_memory_is_named_and_not_decoded(files, made, tmp_path):
    second = np.zeros(4000, np.int16)
    with soundfile.SoundFile(tmp_path / "long.flac", "w", 4000, 1, "PCM_16") as file:
        for _ in range(int(item_units.MOST_ITEM_S) + 1):
            file.write(second)
    long = AudioItem("long", str(tmp_path / "long.flac"))
    stretch = AudioItem("stretch", str(tmp_path / "long.flac"), 0.0, 3.0)
    found = units([files[0], long, stretch], tmp_path / "out")
    told = {one.item_id: (one.reason, one.detail) for one in found.left_out}
    assert told["long"] == ("too_long", "1801 s, but an item has at most 1800")
    assert told["stretch"][0] == "silent", "a stretch of a long file is an item like others"
    assert sorted(name for chunk in made for name in chunk) == ["a", "stretch"]


def test_an_expressive_model_hears_pitch_and_style_beside_the_same_units(files, made, tmp_path):
    soundfile.write(files[2].uri, np.full(1000, 0.1), 16_000)
    alone = units(files, tmp_path / "out")
    models = load_code_models("pitch-tiny", "style-tiny-25hz", "cpu")
    codes = CodeSource("pitch-tiny", "style-tiny-25hz", (models["pitch"].fingerprint, models["style"].fingerprint))
    both = units(files, tmp_path / "out", codes)
    assert len(made) == 2 and both.fingerprint != alone.fingerprint
    assert list(alone.of) == ["a", "b", "c"] and list(both.of) == ["a", "b"], "c is shorter than a code of pitch"
    assert {one.item_id: one.reason for one in both.left_out}["c"] == "too_short"
    for name, row in both.of.items():
        np.testing.assert_array_equal(row.frames, alone.of[name].frames)
        wav = torch.from_numpy(soundfile.read(tmp_path / f"{name}.wav", dtype="float32")[0])
        assert row.pitch.tolist() == models["pitch"].codes([wav])[0].tolist()
        assert row.style.tolist() == models["style"].codes([wav])[0].tolist()
    again = units(files, tmp_path / "out", codes)
    assert len(made) == 2 and again.fingerprint == both.fingerprint
    assert again.of["a"].pitch.tolist() == both.of["a"].pitch.tolist()


def test_pitch_is_heard_with_the_extractor_that_is_named():
    pytest.importorskip("amfm_decompy")
    source = CodeSource("pitch-tiny", "style-tiny-25hz", ("", ""), "yaapt")
    assert source.load("cpu")["pitch"].extractor == "yaapt"
