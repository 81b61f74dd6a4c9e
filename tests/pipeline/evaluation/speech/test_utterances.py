"""Where speech and its texts come from: tables, corpora, and runs."""

from __future__ import annotations

import json

import pytest

from pipeline.errors import TwistError
from pipeline.evaluation.item_units import AudioItem
from pipeline.evaluation.speech.utterances import Utterance, read_utterances, spread_out


def facts(utterances):
    return [(one.item.item_id, one.item.uri, one.text, one.speaker) for one in utterances]


@pytest.mark.parametrize("suffix", ["jsonl", "csv", "tsv"])
def test_a_table_is_read_by_the_usual_names_of_its_columns(tmp_path, suffix):
    rows = [
        {"audio_filepath": "a.wav", "text": "one, two", "spk": "anna"},
        {"audio_filepath": "/data/b.wav", "text": "", "spk": ""},
    ]
    table = tmp_path / f"clips.{suffix}"
    if suffix == "jsonl":
        table.write_text("\n".join(json.dumps(row) for row in rows))
    else:
        delimiter = {"csv": ",", "tsv": "\t"}[suffix]
        quoted = [[f'"{value}"' for value in row.values()] for row in rows]
        table.write_text("\n".join(delimiter.join(cells) for cells in [list(rows[0]), *quoted]))
    assert facts(read_utterances(str(table), "test")) == [
        ("a.wav", f"{tmp_path}/a.wav", "one, two", "anna"),
        ("/data/b.wav", "/data/b.wav", None, None),
    ]


def test_audio_of_another_split_is_left_alone(tmp_path):
    table = tmp_path / "clips.csv"
    table.write_text("audio,split,id\na.wav,dev,1\nb.wav,test,2\nc.wav,,3\n")
    assert [one.item.item_id for one in read_utterances(str(table), "validation")] == ["1", "3"]
    assert [one.item.item_id for one in read_utterances(str(table), "test")] == ["2", "3"]


def test_a_corpus_is_read_as_by_the_pipeline(speech):
    found = read_utterances(str(speech / "LibriSpeech"), "test")
    assert len(found) == 30
    assert {one.speaker for one in found} == {"1688", "1998", "2033"}
    assert all(one.text for one in found)
    with pytest.raises(TwistError, match="holds no audio of the split validation"):
        read_utterances(str(speech / "LibriSpeech"), "validation")


@pytest.mark.parametrize(
    ("name", "content", "error"),
    [
        ("none.csv", None, "there is no table"),
        ("clips.csv", "file_id,text\na,b\n", "has no column `audio`"),
        ("clips.jsonl", "[1]\n", "is no table"),
        ("clips.jsonl", "{\n", "is no table"),
        ("clips.jsonl", "[" * 200_000, "is no table"),
        ("clips.csv", "audio,text\n,b\n", "a row without audio"),
        ("clips.csv", "audio\na.wav\n../b.wav\n", r"row 2: the path '../b.wav' leaves the folder"),
        ("clips.csv", "audio,text\n", "has no column|holds no audio"),
    ],
)
def test_a_table_that_is_none_is_told(tmp_path, name, content, error):
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(TwistError, match=error):
        read_utterances(str(tmp_path / name), "test")


def test_some_utterances_are_spread_over_all_and_do_not_depend_on_their_order():
    utterances = [Utterance(AudioItem(f"{number:03d}", "")) for number in range(100)]
    some = [one.item.item_id for one in spread_out(utterances[::-1], 4)]
    assert some == ["000", "025", "050", "075"]
    assert spread_out(utterances[::-1], None) == utterances == spread_out(utterances, 1000)
