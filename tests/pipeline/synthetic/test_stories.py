"""Spoken StoryCloze from a table of stories: pairs that differ in their ending alone."""

from __future__ import annotations

import json
import random

import numpy as np
import pytest
import soundfile

from pipeline.errors import TwistError
from pipeline.evaluation.pairs.cloze import read_cloze
from pipeline.evaluation.pairs.numbered_pairs import numbered_pairs
from pipeline.synthetic.mini_stories import mini_stories
from pipeline.synthetic.stories import COLUMNS, PAIRS, PAUSE_S, Story, endings_of_others, read_stories, write_storycloze
from tests.progress import silently

RATE_HZ = 1000


def rows(columns, number=3):
    for story in range(number):
        values = [f"id{story}", *(f"Sentence {story} {place}." for place in range(4)), f"A{story}", f"B{story}", "2"]
        yield dict(zip(columns, values, strict=True))


@pytest.mark.parametrize("columns", COLUMNS)
@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl"])
def test_tables_as_they_are_published(tmp_path, columns, suffix):
    path = tmp_path / f"stories{suffix}"
    if suffix == ".jsonl":
        path.write_text("\n".join(map(json.dumps, rows(columns))))
    else:
        delimiter = "," if suffix == ".csv" else "\t"
        lines = [columns, *(row.values() for row in rows(columns))]
        path.write_text("\n".join(delimiter.join(line) for line in lines))
    first = read_stories(str(path))[0]
    assert first == Story("id0", tuple(f"Sentence 0 {place}." for place in range(4)), right="B0", wrong="A0")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("story,end\na,b\n", ", 2: it has the columns story, end; a story has InputStoryid"),
        (",".join(COLUMNS[0]) + "\n1,a,b,c,d,e,f,3\n", "AnswerRightEnding is neither 1 nor 2"),
        (",".join(COLUMNS[0]) + "\n1,a,,c,d,e,f,1\n", "a sentence or the id is empty"),
        (",".join(COLUMNS[0]) + "\n1,a,b,c,d,e,f,1\n1,a,b,c,d,e,f,1\n", "two stories of one id"),
        (",".join(COLUMNS[0]) + "\n", "holds no stories"),
    ],
)
def test_a_table_that_cannot_be_used_is_told(tmp_path, content, says):
    (tmp_path / "stories.csv").write_text(content)
    with pytest.raises(TwistError, match=says):
        read_stories(str(tmp_path / "stories.csv"))


@pytest.mark.parametrize("seed", range(5))
def test_topic_endings_are_each_used_once_and_never_the_own_text(seed):
    stories = [Story(str(number), ("", "", "", ""), f"ending {number // 2}", "") for number in range(11)]
    others = endings_of_others(stories, seed)
    assert sorted(other.story_id for other in others) == sorted(story.story_id for story in stories)
    assert all(other.right != story.right for other, story in zip(others, stories, strict=True))
    assert others == endings_of_others(stories, seed)


def test_stories_that_all_end_alike_have_no_topic_endings():
    stories = [Story(str(number), ("", "", "", ""), "the end", "") for number in range(4)]
    with pytest.raises(TwistError, match="too few of these stories end differently"):
        endings_of_others(stories, 0)


def test_the_members_of_a_pair_differ_in_their_ending_alone(tmp_path):
    noise = np.random.default_rng(0)

    def speak(text):  # a voice that never says anything twice in the same way
        return noise.integers(-1000, 1000, 100 + len(text), dtype=np.int16), RATE_HZ

    stories = mini_stories(random.Random(0), 5)
    write_storycloze(tmp_path, stories, speak, 0, silently)
    for name in ("sSC", "tSC"):
        pairs, unpaired = numbered_pairs(str(tmp_path / name), "_")
        assert len(pairs) == len(stories)
        assert not unpaired
        for pair, story in zip(pairs, stories, strict=True):
            right, wrong = (soundfile.read(item.uri, dtype="int16")[0] for item in (pair.positive, pair.negative))
            context = sum(100 + len(text) for text in story.sentences) + round(4 * PAUSE_S * RATE_HZ)
            assert np.array_equal(right[:context], wrong[:context])
            assert not np.array_equal(right[context : context + 50], wrong[context : context + 50])
            assert (
                (tmp_path / name / pair.positive.item_id).with_suffix(".txt").read_text().endswith(f"{story.right}\n")
            )


def test_contexts_and_endings_are_where_the_pairs_say(tmp_path):
    def speak(text):
        return np.full(100 + len(text), len(text), np.int16), RATE_HZ

    stories = mini_stories(random.Random(0), 5)
    write_storycloze(tmp_path, stories, speak, 0, silently)
    others = endings_of_others(stories, 0)
    for name, wrong in (("sSC", [story.wrong for story in stories]), ("tSC", [other.right for other in others])):
        pairs = read_cloze(str(tmp_path / name / PAIRS))
        assert [pair.pair_id for pair in pairs] == [story.story_id for story in stories]
        for pair, story, wrong_ending in zip(pairs, stories, wrong, strict=True):
            assert [one.text for one in pair.pieces] == [" ".join(story.sentences), story.right, wrong_ending]
            for piece, sentences in ((pair.context, story.sentences), (pair.right, [story.right])):
                wav, _ = soundfile.read(piece.audio.uri, dtype="int16")
                end = len(wav) if piece.audio.end_s is None else round(piece.audio.end_s * RATE_HZ)
                heard = wav[round(piece.audio.start_s * RATE_HZ) : end]
                pause = np.zeros(round(PAUSE_S * RATE_HZ), np.int16)
                said = [part for sentence in sentences for part in (pause, speak(sentence)[0])]
                assert np.array_equal(heard, np.concatenate(said[1:]))


def test_what_is_there_is_neither_mixed_with_nor_lost(tmp_path):
    def speak(_):
        return np.ones(10, np.int16), RATE_HZ

    write_storycloze(tmp_path, mini_stories(random.Random(0), 5), speak, 0, silently)
    with pytest.raises(TwistError, match="holds sSC already"):
        write_storycloze(tmp_path, mini_stories(random.Random(0), 3), speak, 0, silently)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["sSC", "stories.jsonl", "tSC"]


def test_a_line_separator_inside_a_story_is_text(tmp_path):
    (row,) = rows(COLUMNS[1], 1)
    row["input_sentence_1"] = "One\u2028two."
    (tmp_path / "stories.jsonl").write_text(json.dumps(row, ensure_ascii=False) + "\n", encoding="utf-8")
    assert read_stories(str(tmp_path / "stories.jsonl"))[0].sentences[0] == "One\u2028two."
