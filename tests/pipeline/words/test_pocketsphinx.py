"""Forced alignment by pocketsphinx, on speech whose times are known."""

from __future__ import annotations

import numpy as np
import pytest
import soxr

from pipeline.audio.read import Clip, Span
from pipeline.records import SAMPLE_RATE_HZ
from pipeline.synthetic.espeak import speak
from pipeline.synthetic.word_times import word_times
from pipeline.words.pocketsphinx import AlignByPocketsphinx
from pipeline.work.plan import Chunk

TEXT = "She opened the door, and a well-known story began."
OTHER = "Thirty children were playing behind the railway station."


@pytest.fixture(scope="module")
def align() -> AlignByPocketsphinx:
    pytest.importorskip("pocketsphinx")
    return AlignByPocketsphinx()


def said(text: str) -> tuple[Clip, list[tuple[str, float, float]]]:
    speech = speak(text, "en-us+f1", words_per_minute=150)
    wav = soxr.resample(speech.wav.astype(np.float32) / 2**15, speech.sample_rate_hz, SAMPLE_RATE_HZ)
    return Clip(wav), word_times(text, speech)


def rows_of(align: AlignByPocketsphinx, texts: list[str], clips: list[Clip]) -> list[dict[str, object]]:
    spans = tuple(Span("a.wav", None, 0.0, clip.duration_s) for clip in clips)
    rows: list[dict[str, object]] = align(
        Chunk("chunk", tuple(map(str, range(len(texts)))), spans, tuple(texts)), clips
    ).to_pylist()
    return rows


def test_words_are_where_they_were_spoken(align: AlignByPocketsphinx) -> None:
    clip, expected = said(TEXT)
    (row,) = rows_of(align, [TEXT], [clip])
    words = row["words"]
    assert isinstance(words, list), row
    assert [word["word"] for word in words] == TEXT.split()
    starts_s = {word["word"]: word["start_s"] for word in words}
    for word, start_s, _ in expected:
        assert starts_s[word.split()[0]] == pytest.approx(start_s, abs=0.15), word
    assert words[-1]["end_s"] <= clip.duration_s


def test_a_recording_does_not_change_the_next(align: AlignByPocketsphinx) -> None:
    clips = [said(TEXT)[0], said(OTHER)[0]]
    there, back = rows_of(align, [TEXT, OTHER], clips), rows_of(align, [OTHER, TEXT], clips[::-1])
    assert [row["words"] for row in there] == [row["words"] for row in reversed(back)]


def test_words_are_looked_up_as_they_are_written_first(align: AlignByPocketsphinx) -> None:
    assert align._entries("'em") == ["'em"]
    assert align._entries("'door'") == ["door"]
    assert align._entries("well-known") == ["well-known"] or align._entries("well-known") == ["well", "known"]
    assert align._entries("'-") == []


def test_another_text_and_unknown_words_are_refused(align: AlignByPocketsphinx) -> None:
    clip, _ = said(TEXT)
    rows = rows_of(align, [f"{OTHER} {OTHER} {OTHER}", "She zxqvy the 1984 door."], [clip, clip])
    assert [row["drop_reason"] for row in rows] == ["not_followed", "unspellable"]
    assert rows[1]["drop_detail"] == "pocketsphinx's dictionary lacks zxqvy, 1984"
