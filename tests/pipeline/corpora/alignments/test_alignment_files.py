"""Alignments: the same words from every format, given to the recording that they belong to and to no other."""

from __future__ import annotations

import gzip
import json
import math
import tracemalloc
from typing import TYPE_CHECKING

import pytest

from pipeline.corpora.alignments.files import AlignmentFiles
from pipeline.corpora.alignments.labelled import AlignmentError
from pipeline.words.times import without_silences

if TYPE_CHECKING:
    from pathlib import Path

EXPECTED = [("the", 0.25, 0.5), ("cat", 0.5, 1.0)]

LONG = '''File type = "ooTextFile"
Object class = "TextGrid"

xmin = 0
xmax = 1.0
tiers? <exists>
size = 2
item []:
    item [1]:
        class = "TextTier"
        name = "clicks"
        xmin = 0
        xmax = 1.0
        points: size = 1
        points [1]:
            number = 0.5
            mark = "a ""click"""
    item [2]:
        class = "IntervalTier"
        name = "words"
        xmin = 0
        xmax = 1.0
        intervals: size = 3
        intervals [1]:
            xmin = 0
            xmax = 0.25
            text = ""
        intervals [2]:
            xmin = 0.25
            xmax = 0.5
            text = "the"
        intervals [3]:
            xmin = 0.5
            xmax = 1.0
            text = "cat"
'''
SHORT = """File type = "ooTextFile"
Object class = "TextGrid"

0
1.0
<exists>
1
"IntervalTier"
"words"
0
1.0
3
0
0.25
""
0.25
0.5
"the"
0.5
1.0
"cat"
"""
WHISPER_WORDS = [{"word": " the", "start": 0.25, "end": 0.5}, {"word": " cat", "start": 0.5, "end": 1.0}]
ENTRIES = [[0, 0.25, ""], [0.25, 0.5, "the"], [0.5, 1.0, "cat"]]
LHOTSE = {"id": "s1", "recording_id": "19-198-0001", "start": 0, "duration": 1, "channel": 0}

FILES = {
    "19-198-0001.TextGrid": LONG,
    "19-198-0001.textgrid": SHORT,
    "sub/19-198-0001.TextGrid": SHORT.replace('"words"', '"Ann - words"').replace("\n", "\r\n"),
    "19-198.alignment.txt": '19-198-0001 ",THE,CAT," "0.25,0.5,1.0,1.0"\n19-198-0002 ",DOG" "0.1,0.5"\n'.lower(),
    "all.ctm": ";; words\n19-198-0001 1 0 0.25 <eps>\n19-198-0001 1 0.25 0.25 the 0.9\n19-198-0001 1 0.5 0.5 cat\n",
    "mfa/19-198-0001.json": json.dumps({"start": 0, "end": 1, "tiers": {"words": {"entries": ENTRIES}}}),
    "mfa/19-198-0001.csv": "Begin,End,Label,Type,Speaker\n0.0,0.25,,words,19\n0.25,0.5,the,words,19\n"
    "0.25,0.5,dh ah,phones,19\n0.5,1.0,cat,words,19\n",
    "aligned.jsonl": json.dumps(
        {
            "file_name": "x/19-198-0001.flac",
            "text": "the cat",
            "aligned_text": [[" the", 0.25, 0.5], [" cat", 0.5, 1.0]],
        }
    ),
    "whisper/19-198-0001.json": json.dumps({"text": "the cat", "segments": [{"words": WHISPER_WORDS}]}),
    "openai/19-198-0001.json": json.dumps({"text": "the cat", "words": WHISPER_WORDS}),
    "timestamped/19-198-0001.json": json.dumps(
        {"segments": [{"words": [{"text": w["word"], "start": w["start"], "end": w["end"]} for w in WHISPER_WORDS]}]}
    ),
    "pipeline/19-198-0001.json": json.dumps(
        {"chunks": [{"text": w["word"], "timestamp": [w["start"], w["end"]]} for w in WHISPER_WORDS]}
    ),
    "phones/19-198-0001.json": json.dumps(
        {"words": {str(n): {"xmin": b, "xmax": e, "text": w} for n, (b, e, w) in enumerate(ENTRIES)}}
    ),
    "supervisions.jsonl": json.dumps(
        {**LHOTSE, "alignment": {"word": [["the", 0.25, 0.25, 0.9], {"symbol": "cat", "start": 0.5, "duration": 0.5}]}}
    ),
}


def words_in(folder: Path, *recordings: tuple[str, str], tier: str = "words") -> list[object]:
    """What belongs to recordings, given as id and URI."""
    files = AlignmentFiles(str(folder), tier, "/a/run")
    for recording in recordings:
        files.claim(*recording)
    found = (files.words_of(*recording) for recording in recordings)
    return [None if words is None else without_silences(words) for words in found]


def write(folder: Path, name: str, content: str | bytes) -> None:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())


@pytest.mark.parametrize("name", FILES)
def test_every_format_says_the_same(tmp_path: Path, name: str) -> None:
    write(tmp_path, name, FILES[name])
    recording = ("19-198-0001", "/data/19/198/19-198-0001.flac")
    assert words_in(tmp_path, recording) == [EXPECTED]
    assert words_in(tmp_path / name, recording) == [EXPECTED], "the file itself can be named"


def test_praat_writes_utf_16_too(tmp_path: Path) -> None:
    write(tmp_path, "a.TextGrid", LONG.encode("utf-16"))
    assert words_in(tmp_path, ("a", "/a.wav")) == [EXPECTED]


def test_an_alignment_goes_to_the_recording_of_its_name(tmp_path: Path) -> None:
    for name in ("ann/1", "bob/1", "only"):
        write(tmp_path, f"{name}.TextGrid", SHORT.replace('"cat"', f'"{name}"'))
    recordings = [("bob/1.wav", "/b.wav"), ("ann/1.wav", "/a.wav"), ("clips/only.wav", "/c.wav"), ("1", "/d.wav")]
    told = words_in(tmp_path, *recordings)
    assert [words and words[-1][0] for words in told] == ["bob/1", "ann/1", "only", None]  # type: ignore[index]


def test_a_member_of_a_tar_is_found_by_its_own_name(tmp_path: Path) -> None:
    write(tmp_path, "talk.TextGrid", SHORT)
    uri = "/data/0.tar#offset=512&length=100&member=in%2Ftalk.flac"
    assert words_in(tmp_path, ("0001", uri)) == [EXPECTED]


def test_channels_have_words_of_their_own(tmp_path: Path) -> None:
    write(tmp_path, "all.ctm", "call A 0.25 0.25 the\ncall A 0.5 0.5 cat\ncall B 0.1 0.2 dog\n")
    told = words_in(tmp_path, ("call-0", "/call.sph"), ("call-1", "/call.sph"))
    assert told == [EXPECTED, [("dog", 0.1, pytest.approx(0.3))]]


def test_a_name_that_recordings_share_belongs_to_none_and_strays_are_named(tmp_path: Path) -> None:
    write(tmp_path, "1.TextGrid", SHORT)
    write(tmp_path, "stray.TextGrid", SHORT)
    write(tmp_path, "stray.json", "{}")
    write(tmp_path, "bad.ctm", "one two\n")
    files = AlignmentFiles(str(tmp_path), "words", "/a/run")
    for id in ("ann/1", "bob/1"):
        files.claim(id, f"/{id}.wav")
    assert [files.words_of(id, f"/{id}.wav") for id in ("ann/1", "bob/1")] == [None, None]
    assert files.notices() == {
        "alignments without a recording": {"count": 1, "example": "stray"},
        "alignments that several recordings would take": {"count": 1, "example": "1"},
        "files of alignments that cannot be read": {
            "count": 1,
            "example": f"{tmp_path}/bad.ctm: line 1 is not: file channel start duration label",
        },
    }


def test_what_a_corpus_says_in_one_file_is_not_held_in_memory(tmp_path: Path) -> None:
    """Each recording gets its own lines, in their order, wherever they stand; once they are read, few are in memory."""
    words = [["word" * 20, float(second), second + 0.5] for second in range(40)]
    lines = [{"file_name": f"{number}.wav", "aligned_text": words} for number in range(1000)]
    lines.append({"file_name": "7.wav", "aligned_text": [["last", 50, 51]]})
    write(tmp_path, "all.jsonl", "".join(json.dumps(line) + "\n" for line in lines))
    files = AlignmentFiles(str(tmp_path), "words", "/a/run")
    tracemalloc.start()
    for number in range(1000):
        files.claim(str(number), f"/{number}.wav")
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert held < (tmp_path / "all.jsonl").stat().st_size / 4
    assert files.words_of("7", "/7.wav") == [*map(tuple, words), ("last", 50, 51)]
    assert files.words_of("999", "/999.wav") == [*map(tuple, words)]


def test_a_table_that_breaks_off_is_told(tmp_path: Path) -> None:
    content = gzip.compress("".join(FILES["aligned.jsonl"] + "\n" for _ in range(9)).encode())
    write(tmp_path, "a.jsonl.gz", content[:-9])
    files = AlignmentFiles(str(tmp_path), "words", "/a/run")
    files.claim("19-198-0001", "/19-198-0001.flac")
    assert files.words_of("19-198-0001", "/19-198-0001.flac") is None
    assert "not a whole gzip file" in files.notices()["files of alignments that cannot be read"]["example"]


def test_words_without_a_time_are_told_as_such(tmp_path: Path) -> None:
    words = [*WHISPER_WORDS, {"word": "1999"}]
    write(tmp_path, "a.json", json.dumps({"segments": [{"words": words}]}))
    ((*known, (word, start_s, end_s)),) = words_in(tmp_path, ("a", "/a.wav"))  # type: ignore[misc]
    assert known == EXPECTED and word == "1999" and math.isnan(start_s) and math.isnan(end_s)


@pytest.mark.parametrize("content", ["{}", '{"words": []}', '{"speaker": "x", "segments": [{"text": "a"}]}', "[]", "{"])
def test_other_json_is_no_alignment(tmp_path: Path, content: str) -> None:
    write(tmp_path, "a.json", content)
    write(tmp_path, "metadata.jsonl", '{"file_name": "a.wav", "text": "x"}\n')
    write(tmp_path, "b.csv", "path,text\na.wav,x\n")
    assert words_in(tmp_path, ("a", "/a.wav"), ("b", "/b.wav")) == [None, None]


@pytest.mark.parametrize(
    ("name", "content", "reason", "detail"),
    [
        ("a.TextGrid", SHORT[: SHORT.index('"cat"')], "bad_alignment", "it is no TextGrid, or ends too early"),
        ("a.TextGrid", SHORT.replace('"words"', '"phones"'), "no_tier", "no tier 'words'; its tiers of .*: phones"),
        ("a.TextGrid", b"\xe9\x00", "bad_alignment", "neither UTF-8 nor UTF-16"),
        ("a.csv", "Begin,End,Label,Type\nsoon,1,a,words\n", "bad_alignment", "line 2: 'soon' is no time"),
        ("a.json", '{"words": [{"word": "a", "start": "x", "end": 1}]}', "bad_alignment", "a: 'x' is no time"),
        ("a.json", '{"aligned_text": [["a", 1]]}', "bad_alignment", "not as others of its kind"),
    ],
)
def test_a_damaged_alignment_says_what_is_wrong(
    tmp_path: Path, name: str, content: str | bytes, reason: str, detail: str
) -> None:
    write(tmp_path, name, content)
    with pytest.raises(AlignmentError, match=detail) as raised:
        words_in(tmp_path, ("a", "/a.wav"))
    assert raised.value.reason == reason and str(tmp_path / name) in raised.value.detail


def test_only_what_lies_in_the_run_is_the_run_s_own(tmp_path: Path) -> None:
    """Speech often lies beside its run, in a folder whose name begins as the run's does."""
    write(tmp_path, "demo-speech/a.TextGrid", SHORT)
    write(tmp_path, "demo/b.TextGrid", SHORT)
    for place in (tmp_path, tmp_path / "demo-speech"):
        files = AlignmentFiles(str(place), "words", str(tmp_path / "demo"))
        files.claim("a", "/a.wav")
        assert files.words_of("a", "/a.wav") is not None
        assert files.words_of("b", "/b.wav") is None
