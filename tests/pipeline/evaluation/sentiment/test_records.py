"""The layout of STSP's archive: sets, splits, paths, examples; and the prompts that are made of them."""

from __future__ import annotations

import json
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest

from pipeline.errors import TwistError
from pipeline.evaluation.sentiment.prompts import half_name, stsp_prompt
from pipeline.evaluation.sentiment.records import Shot, draw_shots, read_records, read_shots

if TYPE_CHECKING:
    from pathlib import Path

    from pipeline.evaluation.sentiment.predictions import Sentiment
    from pipeline.evaluation.sentiment.records import Direction


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """The archive's layout, with a record or two a file."""
    manifest = tmp_path / "manifest"
    emov = [{"id": -12, "emotion": "amused", "wav_path": "emov/sam/a.wav", "split": "test", "speaker": "sam"}]
    write(manifest / "emov" / "emov.test.jsonl", emov)
    write(manifest / "emov" / "emov.dev.jsonl", [{**emov[0], "id": 13}])
    read = {"id": 1, "emotion": "sad", "sentiment": "negative", "wav_path": "data/expresso/read/b.wav"}
    write(manifest / "expresso" / "expresso_read.test.jsonl", [read])
    asr = {**read, "asr": " I am sad. ", "wav_path": "data/expresso/conversational/c.wav"}
    write(manifest / "expresso" / "expresso_asr.test.jsonl", [asr])
    shots = [
        {"prompt": "data/c.wav", "generation": "so it is", "sentiment": told}
        for told in ("positive", "negative", "neutral")
    ]
    write(manifest / "few_shot" / "s2t.jsonl", shots)
    (tmp_path / "data" / "emov" / "sam").mkdir(parents=True)
    (tmp_path / "data" / "emov" / "sam" / "a.wav").touch()
    return tmp_path


def test_texts_are_those_of_asr_sets_and_recordings_those_of_all_others(archive: Path) -> None:
    spoken = read_records(str(archive), "speech", "test")
    assert list(spoken) == ["emov", "expresso_read"]
    (emov,) = spoken["emov"]
    assert (emov.item_id, emov.sentiment, emov.speaker) == ("emov/-12", "positive", "sam")
    assert emov.content == str(archive / "data/emov/sam/a.wav"), "looked for in the folder, then in data/"
    assert spoken["expresso_read"][0].content == str(archive / "data/expresso/read/b.wav")
    written = read_records(str(archive), "text", "test")
    assert {name: [one.content for one in of_set] for name, of_set in written.items()} == {
        "expresso_asr": ["I am sad."]
    }


def test_sets_may_be_named(archive: Path) -> None:
    assert list(read_records(str(archive), "speech", "test", ["expresso_asr"])) == ["expresso_asr"]
    assert [one.record_id for one in read_records(str(archive), "speech", "dev")["emov"]] == ["13"]
    with pytest.raises(TwistError, match=r"has no emovv.test.jsonl: it has emov, expresso_asr, expresso_read"):
        read_records(str(archive), "speech", "test", ["emovv"])
    with pytest.raises(TwistError, match="no set of text in the split dev"):
        read_records(str(archive), "text", "dev")
    with pytest.raises(TwistError, match="it has no manifest of this split"):
        read_records(str(archive / "data"), "text", "dev")


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"emotion": "sad", "wav_path": "a.wav"}, "has no id"),
        ({"id": 1, "emotion": "sad"}, "has no wav_path"),
        ({"id": 1, "emotion": "sad", "wav_path": " "}, "has no wav_path"),
        ({"id": 1, "wav_path": "a.wav"}, "emotion None"),
        ({"id": 1, "emotion": "sad", "wav_path": "../../etc/a.wav"}, "does not lie in it"),
        ({"id": 1, "emotion": "sad", "wav_path": "/etc/a.wav"}, "does not lie in it"),
        ({"id": 1, "emotion": "sad", "wav_path": "s3://bucket/a.wav"}, "does not lie in it"),
    ],
)
def test_records_that_are_none_are_refused(archive: Path, row: dict[str, Any], words: str) -> None:
    write(archive / "manifest" / "emov" / "emov.test.jsonl", [row])
    with pytest.raises(TwistError, match=words):
        read_records(str(archive), "speech", "test")


def test_an_id_comes_once(archive: Path) -> None:
    row = {"id": 1, "emotion": "sad", "wav_path": "a.wav"}
    write(archive / "manifest" / "emov" / "emov.test.jsonl", [row, row])
    with pytest.raises(TwistError, match="line 2 has the id '1'"):
        read_records(str(archive), "speech", "test")


def test_examples_are_read(archive: Path) -> None:
    shots = read_shots(str(archive), "s2t")
    assert shots[0] == Shot(str(archive / "data/c.wav"), "so it is", "positive")
    with pytest.raises(TwistError, match=r"there is no file .*t2t.jsonl"):
        read_shots(str(archive), "t2t")


@pytest.mark.parametrize(("num_shots", "each"), [(1, 1), (3, 1), (4, 2), (9, 3), (10, 4)])
def test_examples_are_balanced_and_rounded_up(num_shots: int, each: int) -> None:
    sentiments: tuple[Sentiment, ...] = ("positive", "negative", "neutral")
    shots = [Shot(f"p{number}", f"g{number}", sentiments[number % 3]) for number in range(30)]
    drawn = draw_shots(shots, num_shots, seed=1)
    assert [shot.sentiment for shot in drawn] == ["negative"] * each + ["neutral"] * each + ["positive"] * each
    assert len(set(drawn)) == 3 * each
    assert draw_shots(shots, num_shots, seed=1) == drawn
    assert Counter(tuple(draw_shots(shots, 3, seed)) for seed in range(10)).most_common(1)[0][1] < 10
    with pytest.raises(TwistError, match="need 11 negative examples, but there are 10"):
        draw_shots(shots, 31, seed=0)


@pytest.mark.parametrize(
    ("direction", "expected"),
    [
        ("t2t", "T:p1 g1\np2 g2\nasked"),
        ("t2s", "T:p1|S:second half of g1|T:\np2|S:second half of g2|T:\nasked"),
        ("s2t", "S:first half of p1|T:g1\n|S:first half of p2|T:g2\n|S:asked"),
        (
            "s2s",
            "S:first half of p1|S:second half of g1|T:\n|S:first half of p2|S:second half of g2|T:\n|S:asked",
        ),
    ],
)
def test_prompts_show_examples_and_then_ask(direction: Direction, expected: str) -> None:
    shots = [Shot("p1", "g1", "negative"), Shot("p2", "g2", "positive")]
    parts = stsp_prompt(direction, shots, "asked")
    assert "|".join(f"{part.modality[0].upper()}:{part.content}" for part in parts) == expected
    alone = stsp_prompt(direction, [], "asked")
    assert [(part.modality[0], part.content) for part in alone] == [(direction[0], "asked")]


def test_halves_have_names_of_their_own() -> None:
    assert half_name("a.wav", "first") != half_name("a.wav", "second")
