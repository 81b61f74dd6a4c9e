"""The primer: few words, no sentence twice, the same bytes each time, and words where they are said."""

from __future__ import annotations

import csv
import dataclasses
import itertools
import json
import random
from typing import TYPE_CHECKING

import pytest
import soundfile

from pipeline.corpora.manifest import make_manifest
from pipeline.corpora.source import CorpusConfig
from pipeline.errors import TwistError
from pipeline.synthetic.config import PrimerConfig, PrimerTextConfig
from pipeline.synthetic.demo_text import write_primer_text
from pipeline.synthetic.primer import MOST_SENTENCES, primer_sentences, write_primer

if TYPE_CHECKING:
    from pathlib import Path

SMALL = PrimerConfig(num_sentences=12)


@pytest.fixture(scope="module")
def primer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made") / "primer"
    write_primer(folder, SMALL)
    return folder


def test_sentences_are_of_few_words_and_none_comes_twice() -> None:
    sentences = list(primer_sentences(random.Random(0)))
    assert len(sentences) == len(set(sentences)) == MOST_SENTENCES
    words = {word for sentence in sentences for word in sentence.rstrip(".").split()}
    assert len(words) < 100
    assert {5, 10} <= {len(sentence.split()) for sentence in sentences} <= set(range(5, 11))


def test_the_same_settings_give_the_same_bytes(primer: Path, tmp_path: Path) -> None:
    write_primer(tmp_path / "again", SMALL)
    for path in primer.iterdir():
        assert path.read_bytes() == (tmp_path / "again" / path.name).read_bytes(), f"{path.name} differs"
    write_primer(tmp_path / "other", dataclasses.replace(SMALL, seed=1))
    assert (tmp_path / "other/metadata.csv").read_bytes() != (primer / "metadata.csv").read_bytes()


def test_words_are_those_of_the_text_and_lie_in_the_recording(primer: Path) -> None:
    with (primer / "metadata.csv").open(newline="") as file:
        texts = {row["path"]: row["text"] for row in csv.DictReader(file)}
    lines = [json.loads(line) for line in (primer / "aligned_text.jsonl").read_text().splitlines()]
    assert [line["file_name"] for line in lines] == sorted(texts)
    duration_s = 0.0
    for line in lines:
        info = soundfile.info(primer / line["file_name"])
        assert (info.samplerate, info.channels) == (16_000, 1)
        duration_s += info.duration
        assert "".join(word for word, _, _ in line["aligned_text"]).strip() == line["text"] == texts[line["file_name"]]
        edges = [time for _, start_s, end_s in line["aligned_text"] for time in (start_s, end_s)]
        assert edges == sorted(edges)
        assert edges[0] >= 0 and edges[-1] <= info.duration
    assert write_primer(primer, SMALL) == pytest.approx(duration_s), "what is there is found"


def test_it_is_a_corpus(primer: Path, tmp_path: Path) -> None:
    make_manifest(str(tmp_path / "run"), [CorpusConfig(str(primer))], lambda *_: None)
    assert (tmp_path / "run" / "manifest" / "DONE").is_file()


def test_its_text_has_other_sentences_of_the_same_words(tmp_path: Path) -> None:
    config = PrimerTextConfig(num_sentences=200, num_tokens=400)
    num_words, num_tokens = write_primer_text(tmp_path / "text", config)
    lines = (tmp_path / "text/text.txt").read_text().splitlines()
    assert (len(lines), num_words, num_tokens) == (200, sum(len(line.split()) for line in lines), 400)
    spoken = list(itertools.islice(primer_sentences(random.Random("primer 0")), 200))
    assert len(set(lines) & set(spoken)) < 10, "it is drawn anew: a sentence comes in both by chance alone"
    known = {word for sentence in spoken for word in sentence.rstrip(".").split()}
    assert {word for line in lines for word in line.rstrip(".").split()} == known


def test_other_content_is_left_alone(primer: Path, tmp_path: Path) -> None:
    with pytest.raises(TwistError, match="made with"):
        write_primer(primer, PrimerConfig(num_sentences=13))
    (tmp_path / "mine").write_text("mine")
    with pytest.raises(TwistError, match="not by a primer"):
        write_primer(tmp_path, SMALL)
    for count in (0, 20_001):
        with pytest.raises(TwistError, match="num_sentences is 1 to 20000"):
            PrimerConfig(num_sentences=count)
