"""Frames of a run to train a classifier of languages on: who is held out, what is kept, and what is refused."""

from __future__ import annotations

import csv
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import soundfile

from model.language_id.augment import SPEED
from model.language_id.train_config import LanguageTrainConfig
from pipeline.corpora.manifest import make_manifest
from pipeline.corpora.source import CorpusConfig
from pipeline.errors import TwistError
from pipeline.language import train_frames
from pipeline.language.config import LanguageConfig
from pipeline.language.filter import filter_languages
from pipeline.language.train_frames import read_language_frames
from pipeline.language.train_segments import choose_segments
from pipeline.segments.config import SegmentConfig
from pipeline.segments.segment import make_segments
from pipeline.work.cluster import ClusterConfig
from tests.progress import silently

if TYPE_CHECKING:
    from pathlib import Path

CONFIG = LanguageTrainConfig(layer=1, views=2, max_minutes_per_speaker=0.1, validation_share=0.01, device="cpu")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Two corpora: one of a speaker who says more than is wanted, one with a split of its own and no tag for a file."""
    root = tmp_path_factory.mktemp("frames")
    rows: dict[str, list[tuple[str, str, str, str]]] = {
        "long": [(f"{number}.wav", "en", "anna", "") for number in range(5)],
        "mixed": [
            ("a.wav", "de", "bert", ""),
            ("b.wav", "fr", "cora", "validation"),
            ("c.wav", "", "dora", ""),
            ("d.wav", "en", "emma", "validation"),
        ],
    }
    generator = np.random.default_rng(0)
    for corpus, files in rows.items():
        (root / corpus).mkdir()
        for path, *_ in files:
            soundfile.write(root / corpus / path, 0.1 * generator.standard_normal(3 * 16_000), 16_000)
        with (root / corpus / "metadata.csv").open("w", newline="") as file:
            csv.writer(file).writerows([("path", "language", "speaker", "split"), *files])
    folder = str(root / "run")
    make_manifest(folder, [CorpusConfig(str(root / name), "folder", name=name) for name in rows], silently)
    languages = LanguageConfig(languages=("en", "de", "fr"), unknown="keep")
    filter_languages(folder, languages, ClusterConfig(), silently)
    make_segments(folder, SegmentConfig(detect_speech="none", min_s=1.0), ClusterConfig(), silently)
    return folder


def test_who_is_held_out_and_what_is_left_out(run: str, tmp_path: Path) -> None:
    train, validation, account = read_language_frames(run, CONFIG, str(tmp_path), silently)
    assert sorted(set(train.languages)) == ["de", "en"] and set(validation.languages) == {"en", "fr"}
    assert {*train.speakers}.isdisjoint(validation.speakers)
    assert len(validation) == 2, "what is held out is used as it is"
    # Six seconds of a speaker are two of the five.
    assert (account.num_used, account.num_without_language, account.num_beyond, account.num_unread) == (5, 1, 3, 0)
    assert sum(speaker.endswith("anna") for speaker in train.speakers) == 2 * CONFIG.views
    assert train.frames.dtype == np.float16 and len(train.frames) == train.offsets[-1]
    assert not np.array_equal(train[0], train[len(train) // 2]), "the second view is the first"


def test_a_language_has_no_more_than_its_limit(run: str) -> None:
    every = choose_segments(run, CONFIG)
    few = choose_segments(run, replace(CONFIG, max_hours_per_language=1e-6))
    assert sorted(one.language for one in few.segments) == sorted({one.language for one in every.segments})
    assert len(few.segments) + few.num_beyond == len(every.segments) + every.num_beyond
    assert few.is_bounded and not every.is_bounded


def test_a_limit_that_leaves_nothing_out_changes_nothing(run: str, tmp_path: Path) -> None:
    one, _, _ = read_language_frames(run, CONFIG, str(tmp_path), silently)
    other, _, _ = read_language_frames(run, replace(CONFIG, max_hours_per_language=7.0), str(tmp_path), silently)
    assert one.fingerprint == other.fingerprint and len(list(tmp_path.glob("frames-*"))) == 1


def test_there_is_room_for_the_slowest_views(run: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def slowed(wav: np.ndarray, _: np.random.Generator) -> np.ndarray:
        return np.resize(wav, round(len(wav) / SPEED[0]))

    monkeypatch.setattr(train_frames, "augment", slowed)
    train, _, _ = read_language_frames(run, replace(CONFIG, views=4), str(tmp_path), silently)
    assert len(train) == 4 * 3, "two segments of anna and one of bert"
    assert len(train[len(train) - 1]) > 1.1 * len(train[0]), "changed views are longer"


def test_more_frames_than_memory_has_room_for_are_refused(
    run: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train_frames, "_made", lambda *_: pytest.fail("frames are made"))
    monkeypatch.setattr(train_frames, "memory_bytes", lambda: 400_000)
    monkeypatch.setattr(train_frames._Side, "_frames", property(lambda _: pytest.fail("memory is taken")))
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    with pytest.raises(TwistError, match=r"in 2 process.*lower max_hours_per_language \(now 20\)"):
        read_language_frames(run, CONFIG, str(tmp_path), silently)


def test_kept_frames_are_those_made_and_more_views_only_add(
    run: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, _, _ = read_language_frames(run, replace(CONFIG, views=1), str(tmp_path), silently)
    both, _, _ = read_language_frames(run, CONFIG, str(tmp_path), silently)
    assert np.array_equal(both.frames[: len(one.frames)], one.frames)
    monkeypatch.setattr(train_frames, "_made", lambda *_: pytest.fail("it is made again"))
    again, _, _ = read_language_frames(run, CONFIG, str(tmp_path), silently)
    assert np.array_equal(again.frames, both.frames) and again.fingerprint == both.fingerprint


def test_a_corpus_may_have_views_of_its_own(run: str, tmp_path: Path) -> None:
    config = replace(CONFIG, views_of={"long": 1})
    train, _, _ = read_language_frames(run, config, str(tmp_path), silently)
    assert list(train.corpora).count("long") == 2 and list(train.corpora).count("mixed") == 2
    with pytest.raises(TwistError, match="views_of names 'nowhere', of which there are no segments"):
        read_language_frames(run, replace(CONFIG, views_of={"nowhere": 1}), str(tmp_path), silently)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"wanted": "es"}, "speech to train on is without es"),
        ({"wanted": "fr"}, "speech to train on is without fr"),
        ({"wanted": "de"}, "held-out speech is without de"),
        ({"calibrate_on": ("long",)}, "held-out speech of long, to calibrate on, is without any language"),
    ],
)
def test_speech_of_one_side_is_refused_before_frames_are_made(
    run: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], told: str
) -> None:
    monkeypatch.setattr(train_frames, "_made", lambda *_: pytest.fail("frames are made"))
    with pytest.raises(TwistError, match=told):
        read_language_frames(run, replace(CONFIG, **changes), str(tmp_path), silently)


def test_damaged_frames_are_refused(run: str, tmp_path: Path) -> None:
    read_language_frames(run, replace(CONFIG, views=1), str(tmp_path), silently)
    (path,) = tmp_path.glob("frames-*/0-00000.safetensors")
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(TwistError, match=r"0-00000\.safetensors is damaged .*; delete it"):
        read_language_frames(run, replace(CONFIG, views=1), str(tmp_path), silently)
