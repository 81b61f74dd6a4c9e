"""Forced alignment by CTC: words are where their letters are heard, whatever else is in the chunk."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from pipeline.audio.read import AudioError, Clip, Hole, Span
from pipeline.records import RECORDING_WORDS_SCHEMA, SAMPLE_RATE_HZ
from pipeline.words.ctc import LONGEST_SHARE_OF_PAUSE_S, AlignByCtc, word_edges
from pipeline.work.plan import Chunk
from tests.ctc_models import VOCABULARY, write_ctc

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

FRAME_S = 0.02


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("ctc")
    write_ctc(path)
    return path


@pytest.fixture(scope="module")
def align(folder: Path) -> AlignByCtc:
    return AlignByCtc(str(folder), "cpu")


def chunk_of(texts: Sequence[str]) -> Chunk:
    spans = tuple(Span("a.wav", None, 0.0, 1.0) for _ in texts)
    return Chunk("chunk", tuple(f"r{place}" for place in range(len(texts))), spans, tuple(texts))


def noise(duration_s: float) -> Clip:
    samples = np.random.default_rng(round(duration_s * 1000)).standard_normal(round(duration_s * SAMPLE_RATE_HZ))
    return Clip((0.1 * samples).astype(np.float32))


def test_words_come_back_in_order_within_the_audio_whatever_the_chunk(align: AlignByCtc) -> None:
    texts = ["Hello there, world", "A", "It was 1999 — or so", "yes"]
    clips = [noise(length_s) for length_s in (1.5, 0.4, 2.0, 1.5)]
    part = align(chunk_of(texts), clips)
    assert part.schema.equals(RECORDING_WORDS_SCHEMA)
    for text, clip, row in zip(texts, clips, part.to_pylist(), strict=True):
        assert " ".join(word["word"] for word in row["words"]) == text
        before_s = 0.0
        for word in row["words"]:
            assert before_s <= word["start_s"] < word["end_s"] <= clip.duration_s
            before_s = word["end_s"]
    for place, text in enumerate(texts):
        alone = align(chunk_of([text]), [clips[place]])
        assert alone["words"].to_pylist() == [part["words"].to_pylist()[place]], "it depends on the rest of the chunk"


def test_words_are_where_their_letters_are(align: AlignByCtc, monkeypatch: pytest.MonkeyPatch) -> None:
    """Letters are heard at single frames, as CTC's models have it."""
    spikes = {10: "A", 14: "T", 17: "|", 20: "I", 40: "N", 60: "|", 80: "O", 81: "N"}
    log_probs = torch.full((100, len(VOCABULARY)), -9.0)
    log_probs[:, 0] = -0.01
    for frame, letter in spikes.items():
        log_probs[frame] = -9.0
        log_probs[frame, VOCABULARY.index(letter)] = -0.01
    monkeypatch.setattr(type(align._recognize), "__call__", lambda _, wavs: [log_probs for _ in wavs])
    (words,) = align(chunk_of(["at 9 on"]), [noise(2.0)])["words"].to_pylist()
    assert [word["word"] for word in words] == ["at", "9", "on"]
    monkeypatch.setattr(type(align._recognize), "__call__", lambda _, wavs: [log_probs for _ in wavs])
    (words,) = align(chunk_of(["at in on"]), [noise(2.0)])["words"].to_pylist()
    # Half of what lies between words and all that lies around them, but no more than so much of a pause.
    share = round(LONGEST_SHARE_OF_PAUSE_S / FRAME_S)
    expected = [("at", 0, 17), ("in", 17, 41 + share), ("on", 80 - share, 82 + share)]
    assert [(word["word"], round(word["start_s"] / FRAME_S), round(word["end_s"] / FRAME_S)) for word in words] == (
        expected
    )


def test_edges_of_words_share_what_is_between() -> None:
    word_of_frame = np.array([-1, 0, -1, 0, -1, -1, -1, 1, 2, -1])
    assert word_edges(word_of_frame, 3, 10).tolist() == [[0, 5], [5, 8], [8, 10]]
    assert word_edges(word_of_frame, 3, 1).tolist() == [[0, 5], [6, 8], [8, 10]]
    assert word_edges(np.array([-1, -1, 0, -1, -1, -1]), 1, 2).tolist() == [[0, 5]], "a word alone"


def test_what_cannot_be_aligned_says_why(align: AlignByCtc) -> None:
    clip = noise(1.0)
    damaged = Clip(clip.wav, (Hole(0.5, 0.7, "undecodable", "a bad block"),))
    rows = align(
        chunk_of(["gone", "damaged", "1984", "far too many words for a second of audio, and then some more", "short"]),
        [AudioError("missing", "no such file"), damaged, clip, clip, Clip(clip.wav[:100])],
    ).to_pylist()
    assert [row["drop_reason"] for row in rows] == [
        "missing",
        "undecodable",
        "unspellable",
        "text_too_long",
        "too_short",
    ]
    assert all(row["words"] is None for row in rows)
    assert rows[3]["drop_detail"] == "49 frames are too few for 59 letters"
