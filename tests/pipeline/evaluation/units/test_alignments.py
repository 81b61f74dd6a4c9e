"""Alignments: the same intervals from every kind of file, and a sentence or a count for those that do not fit."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from pipeline.corpora.alignments.labelled import AlignmentError
from pipeline.corpora.alignments.textgrid import read_textgrid
from pipeline.errors import TwistError
from pipeline.evaluation.units.alignments import (
    SILENCE,
    Interval,
    intervals_of,
    labels_at,
    read_alignments,
    require_within,
)
from pipeline.files import parquet
from pipeline.synthetic.many_voices import PHONEMES_SCHEMA

EXPECTED = [Interval("HH", 0.0, 0.25), Interval("AH", 0.25, 0.5), Interval(SILENCE, 0.5, 1.0)]

LONG = '''File type = "ooTextFile"
Object class = "TextGrid"

xmin = 0
xmax = 1.0
tiers? <exists>
size = 3
item []:
    item [1]:
        class = "IntervalTier"
        name = "words"
        xmin = 0
        xmax = 1.0
        intervals: size = 1
        intervals [1]:
            xmin = 0
            xmax = 1.0
            text = "she said ""intervals [2]"""
    item [2]:
        class = "TextTier"
        name = "clicks"
        xmin = 0
        xmax = 1.0
        points: size = 1
        points [1]:
            number = 0.5
            mark = "click"
    item [3]:
        class = "IntervalTier"
        name = "phones"
        xmin = 0
        xmax = 1.0
        intervals: size = 3
        intervals [1]:
            xmin = 0
            xmax = 0.25
            text = "HH"
        intervals [2]:
            xmin = 0.25
            xmax = 0.5
            text = "AH1"
        intervals [3]:
            xmin = 0.5
            xmax = 1.0
            text = ""
'''
SHORT = """File type = "ooTextFile"
Object class = "TextGrid"

0
1.0
<exists>
1
"IntervalTier"
"phones"
0
1.0
3
0
0.25
"HH"
0.25
0.5
"AH1"
0.5
1.0
""
"""


def test_all_kinds_of_files_say_the_same(tmp_path):
    for folder, name, content in (
        ("long", "a.TextGrid", LONG.encode()),
        ("short", "a.textgrid", SHORT.encode()),
        ("utf16", "a.TextGrid", LONG.encode("utf-16")),
        ("windows", "a.TextGrid", LONG.replace("\n", "\r\n").encode()),
        ("speaker", "a.TextGrid", SHORT.replace('"phones"', '"Ann - phones"').encode()),
        ("htk", "a.lab", b"0 2500000 HH -41.5\n2500000 5000000 AH1 -22.0\n5000000 10000000 sil\n"),
        ("seconds", "a.lab", b"0.0 0.25 HH\n\n0.25 0.5 AH0\n0.5 1.0\n"),
        ("ctm", "all.ctm", b";; phones\na 1 0 0.25 HH 0.9\na 1 0.25 0.25 AH1\na 1 0.5 0.5 <eps>\n"),
    ):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / name).write_bytes(content)
        assert read_alignments(str(tmp_path / folder)) == ({"a": EXPECTED}, []), folder
        assert read_alignments(str(tmp_path / folder / name))[0] == {"a": EXPECTED}, f"{folder}: the file itself"


def test_made_speech_has_its_phones_beside_it(tmp_path):
    phones = [
        {"name": name, "start_s": start_s, "end_s": end_s}
        for name, start_s, end_s in (("HH", 0.0, 0.25), ("AH", 0.25, 0.5), ("", 0.5, 1.0))
    ]
    row = {"path": "voice/a.flac", "speaker": "voice", "sentence": 0, "phonemes": phones, "words": []}
    (tmp_path / "test").mkdir()
    table = pa.Table.from_pylist([row], PHONEMES_SCHEMA)
    parquet.write(str(tmp_path / "test" / "phonemes.parquet"), table)
    assert read_alignments(str(tmp_path))[0] == {"test/voice/a": EXPECTED}


def test_another_tier_can_be_named():
    assert read_textgrid(LONG)["words"] == [('she said "intervals [2]"', 0.0, 1.0)]


def test_what_is_damaged_is_named_and_the_rest_is_read(tmp_path):
    files = {
        "good.TextGrid": SHORT,
        "cut.TextGrid": SHORT[: SHORT.index('"AH1"')],
        "other.TextGrid": "not one",
        "endless.TextGrid": SHORT.replace("\n3\n", "\n1e999\n"),
        "backwards.TextGrid": SHORT.replace("\n3\n", "\n-1e999\n"),
        "never.ctm": "z 1 inf 0.5 HH\n",
        "far.lab": f"0 {'9' * 5000} HH\n",
        "words.TextGrid": SHORT.replace('"phones"', '"words"'),
        "time.lab": "0.0 soon HH\n",
        "back.lab": "0.5 0.25 HH\n",
        "twice.lab": "0.0 0.5 HH\n0.25 0.75 AH\n",
        "all.ctm": "x 1 0.0 0.5 HH\ny 1 0.0 0.5 HH\ny 1 0.25 0.5 AH\n",
        "short.ctm": "x 1 0.0 0.5\n",
        "notes.txt": "",
    }
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    parquet.write(str(tmp_path / "phonemes.parquet"), pa.table({"path": ["a.wav"]}))
    (tmp_path / "latin.lab").write_bytes(b"0.0 0.5 \xe9\n")
    alignments, left_out = read_alignments(str(tmp_path))
    assert sorted(alignments) == ["good", "x"]
    reasons = {item.item_id: item.reason for item in left_out}
    assert reasons == {
        "cut.TextGrid": "bad_alignment",
        "other.TextGrid": "bad_alignment",
        "endless.TextGrid": "bad_alignment",
        "backwards.TextGrid": "bad_alignment",
        "z": "bad_alignment",
        "far": "bad_alignment",
        "phonemes.parquet": "bad_alignment",
        "words.TextGrid": "no_tier",
        "time.lab": "bad_alignment",
        "back": "bad_alignment",
        "twice": "overlap",
        "y": "overlap",
        "short.ctm": "bad_alignment",
        "latin.lab": "bad_alignment",
    }
    details = {item.item_id: item.detail for item in left_out}
    assert "no tier 'phones'; its tiers of intervals: words" in details["words.TextGrid"]
    assert details["twice"] == "HH until 0.500 s overlaps AH from 0.250"
    assert "line 1: 'soon' is no time" in details["time.lab"]


def test_a_folder_without_alignments_and_two_of_one_name_are_refused(tmp_path):
    with pytest.raises(TwistError, match=r"has no alignments: \.TextGrid, \.lab"):
        read_alignments(str(tmp_path))
    for name in ("a.lab", "a.TextGrid"):
        (tmp_path / name).write_text(SHORT if name.endswith("Grid") else "0.0 0.5 HH")
    with pytest.raises(TwistError, match="two alignments of a"):
        read_alignments(str(tmp_path))


def test_intervals_are_put_in_order_and_empty_ones_dropped():
    rows = [("b", 0.5, 1.0), ("a", 0.0, 0.501), ("none", 0.5, 0.5)]
    assert [interval.label for interval in intervals_of(rows)] == ["a", "b"]


@pytest.mark.parametrize("row", [("a", -0.1, 0.5), ("a", 0.5, 0.1), ("a", 0.0, float("inf")), ("a", float("nan"), 1.0)])
def test_impossible_times_are_refused(row):
    with pytest.raises(AlignmentError, match="a goes from"):
        intervals_of([row])


def test_an_alignment_of_longer_audio_is_refused():
    require_within(EXPECTED, 0.95)
    with pytest.raises(AlignmentError, match=r"the alignment ends at 1\.00 s, the audio at 0\.60 s"):
        require_within(EXPECTED, 0.6)


def test_labels_are_those_in_force():
    intervals = [Interval("a", 0.1, 0.5), Interval("b", 0.7, 1.0)]
    times_s = np.array([0.0, 0.1, 0.499, 0.5, 0.7, 1.0, 7.0])
    assert labels_at(times_s, intervals) == [None, "a", "a", None, "b", None, None]
    assert labels_at(times_s[:1], []) == [None]


def test_stress_is_no_part_of_a_phone_but_a_tone_is():
    labels = [interval.label for interval in intervals_of([("ER0", 0, 1), ("a1", 1, 2), ("A2", 2, 3), ("spn", 3, 4)])]
    assert labels == ["ER", "a1", "A2", SILENCE]
