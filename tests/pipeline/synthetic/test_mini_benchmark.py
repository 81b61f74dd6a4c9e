"""The small benchmark of our own: its texts, and that the readers of the real ones read it."""

from __future__ import annotations

import random

import pytest

from pipeline.errors import TwistError
from pipeline.evaluation.pairs import slm21
from pipeline.evaluation.pairs.numbered_pairs import numbered_pairs
from pipeline.synthetic.config import MiniBenchmarkConfig
from pipeline.synthetic.mini_benchmark import write_mini_benchmark
from pipeline.synthetic.mini_stories import PLOTS, mini_stories
from pipeline.synthetic.minimal_pairs import RULES, sentence_pairs, word_pairs
from tests.progress import silently

SMALL = MiniBenchmarkConfig(num_words=3, num_sentences=5, num_stories=2, num_voices=2)


def test_a_non_word_is_no_word_and_keeps_its_ending():
    pairs = word_pairs(random.Random(1), 200)
    words = {pair.word for pair in pairs}
    assert len(words) == 200
    assert not words & {pair.non_word for pair in pairs}
    assert all(pair.word[-1] == pair.non_word[-1] and pair.frequency >= 1 for pair in pairs)


def test_sentences_are_drawn_once_and_differ_from_their_twin_in_little():
    pairs = sentence_pairs(random.Random(1), 200)
    assert len({pair.good for pair in pairs}) == 200
    assert {pair.subtype for pair in pairs[: len(RULES)]} == {
        "subject and verb", "determiner and noun", "gender", "participle", "noun phrase"
    }  # fmt: skip
    for pair in pairs:
        assert pair.good != pair.bad
        assert abs(len(pair.good) - len(pair.bad)) <= 2, pair


def test_stories_have_all_plots_in_turn():
    stories = mini_stories(random.Random(0), 2 * len(PLOTS))
    assert len({story.story_id for story in stories}) == len(stories)
    assert all("{" not in text for story in stories for text in (*story.sentences, story.right, story.wrong))


def test_the_readers_of_the_real_benchmarks_read_it(tmp_path):
    write_mini_benchmark(tmp_path / "mini", SMALL, silently)
    for task, num_pairs in (("lexical", 3 * 2), ("syntactic", 5 * 2)):
        pairs, unpaired = slm21.read_pairs(str(tmp_path / "mini"), task, "dev")
        assert (len(pairs), unpaired) == (num_pairs, [])
    for name in ("sSC", "tSC"):
        assert len(numbered_pairs(str(tmp_path / "mini" / name), "_")[0]) == 2


def test_one_configuration_gives_the_same_bytes_and_others_are_refused(tmp_path):
    for name in ("one", "two"):
        write_mini_benchmark(tmp_path / name, SMALL, silently)
    files = [
        {path.relative_to(tmp_path / name): path.read_bytes() for path in (tmp_path / name).rglob("*.*")}
        for name in ("one", "two")
    ]
    assert files[0] == files[1]
    write_mini_benchmark(tmp_path / "one", SMALL, silently)
    with pytest.raises(TwistError, match="holds a benchmark made with"):
        write_mini_benchmark(tmp_path / "one", MiniBenchmarkConfig(num_words=4), silently)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").touch()
    with pytest.raises(TwistError, match="is in use, and not by a benchmark"):
        write_mini_benchmark(tmp_path / "other", SMALL, silently)


def test_more_sentences_than_the_templates_give_are_refused():
    with pytest.raises(TwistError, match="ask for fewer"):
        sentence_pairs(random.Random(0), 5000)
