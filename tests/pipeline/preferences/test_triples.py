"""Triples as others write them: wav files, texts, SWAG's table, SpokenSwag's Parquet."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile

from pipeline.audio.read import probe
from pipeline.errors import TwistError
from pipeline.preferences.triples import read_triples

TEXTS = {"prompt_text": "A man sits.", "chosen_text": "He stands up.", "rejected_text": "He is a tree."}
PATHS = {"prompt_path": "p.wav", "chosen_path": "c.wav", "rejected_path": "/abs/r.wav"}


def write_jsonl(path: Path, *rows: dict[str, Any]) -> str:
    path.write_text("\n".join(map(json.dumps, rows)))
    return str(path)


def test_wav_files_and_texts_of_a_jsonl(tmp_path: Path) -> None:
    rows = [PATHS, {**PATHS, **TEXTS, "split": "validation", "id": "x", "speaker": "s"}, TEXTS]
    first, second, third = read_triples(write_jsonl(tmp_path / "t.jsonl", *rows), 0)
    assert first.audio == (f"{tmp_path}/p.wav", f"{tmp_path}/c.wav", "/abs/r.wav")
    assert (first.texts, first.split, first.pair_id) == (None, None, "1")
    assert (second.texts, second.split) == (tuple(TEXTS.values()), "validation")
    assert (second.pair_id, second.speaker) == ("x", "s")
    assert (third.audio, third.texts) == (None, tuple(TEXTS.values()))


def test_swag_gives_the_right_ending_and_a_wrong_one(tmp_path: Path) -> None:
    path = tmp_path / "swag.csv"
    with path.open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["gold-source", "sent1", "sent2", "ending0", "ending1", "ending2", "ending3", "label"])
        for number in range(40):
            table.writerow(["gold" if number % 2 else "gen", "A man sits.", "He", "e0", "e1", "e2", "e3", number % 4])
    found = read_triples(str(path), 0)
    assert len(found) == 20, "only rows whose right ending is the film's own"
    wrong = set()
    for triple in found:
        prompt, chosen, rejected = triple.texts or ("", "", "")
        assert prompt == "A man sits." and chosen in ("He e1", "He e3") and rejected != chosen
        wrong.add(rejected)
    assert len(wrong) > 2
    assert read_triples(str(path), 0) == found
    assert read_triples(str(path), 1) != found


def test_spoken_swag_has_audio_in_parquet(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    soundfile.write(buffer, np.zeros(24_000, np.float32), 24_000, format="WAV")
    audio = {"bytes": buffer.getvalue(), "path": "x.wav"}
    rows = [
        {"speaker": "af_heart", **TEXTS, "prompt": audio, "chosen": audio, "rejected": audio, "auto_bleu2": 0.1}
    ] * 3
    for name in ("train-00000-of-00001", "validation-00000-of-00001"):
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / f"{name}.parquet", row_group_size=2)
    found = read_triples(str(tmp_path), 0)
    assert [triple.split for triple in found] == ["train"] * 3 + ["validation"] * 3
    assert {triple.speaker for triple in found} == {"af_heart"}
    assert found[2].texts == tuple(TEXTS.values())
    for triple in found:
        assert triple.audio is not None
        assert [probe(uri).duration_s for uri in triple.audio] == [1.0] * 3


def test_speakers_of_parquet_may_be_numbers_and_damage_is_told(tmp_path: Path) -> None:
    row = {"speaker": 7, **TEXTS, "prompt": {"bytes": b""}, "chosen": {"bytes": b""}, "rejected": {"bytes": b""}}
    path = tmp_path / "train.parquet"
    pq.write_table(pa.Table.from_pylist([row] * 5), path, row_group_size=3)
    found = read_triples(str(path), 0)
    assert [(triple.pair_id, triple.speaker) for triple in found][3:] == [("train-1-0", "7"), ("train-1-1", "7")]
    pq.write_table(pa.Table.from_pylist([{"prompt": b"", "chosen": b""}]), path)
    with pytest.raises(TwistError, match="lacks the columns rejected"):
        read_triples(str(path), 0)
    path.write_bytes(b"PAR1 but no more")
    with pytest.raises(TwistError, match="cannot be read as Parquet"):
        read_triples(str(path), 0)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "holds no triples"),
        ("{", "line 1 is no JSON"),
        ("[1]", "line 1 is no JSON object"),
        ('{"prompt_path": "a"}', "line 1 has neither"),
        ('{"prompt_path": "a", "chosen_path": "../b", "rejected_path": "c"}', "line 1: the path '../b' leaves"),
        (json.dumps({**TEXTS, "split": "test"}), "must be train or validation"),
        ("\n".join([json.dumps({**TEXTS, "id": 1})] * 2), "two triples that are called 1"),
    ],
)
def test_what_is_no_table_of_triples_is_refused(text: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "t.jsonl").write_text(text)
    with pytest.raises(TwistError, match=words):
        read_triples(str(tmp_path / "t.jsonl"), 0)
    with pytest.raises(TwistError, match=r"there is no|holds no"):
        read_triples(str(tmp_path / "none.jsonl"), 0)
