from __future__ import annotations

import csv
from typing import TYPE_CHECKING

import pytest

from pipeline.errors import TwistError
from pipeline.languages import ISO_639_1
from pipeline.synthetic.config import LanguagesConfig
from pipeline.synthetic.language_sentences import OF_LANGUAGE, VOICES
from pipeline.synthetic.many_languages import write_languages_corpus

if TYPE_CHECKING:
    from pathlib import Path

SMALL = LanguagesConfig(minutes=0.15, english_minutes=0.3)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("languages") / "corpus"
    write_languages_corpus(folder, SMALL)
    return folder


def rows_of(folder: Path) -> list[dict[str, str]]:
    with (folder / "metadata.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_every_language_has_sentences_and_a_code() -> None:
    assert VOICES.keys() - {"en"} == OF_LANGUAGE.keys() and set(VOICES) <= ISO_639_1
    assert all(len(set(sentences)) >= 10 for sentences in OF_LANGUAGE.values())


def test_every_language_is_there_by_voices_that_speak_others_too(corpus: Path) -> None:
    rows = rows_of(corpus)
    assert {row["language"] for row in rows} == VOICES.keys()
    assert all((corpus / row["path"]).is_file() and row["path"].startswith(f"{row['language']}/") for row in rows)
    speakers = {row["speaker"] for row in rows}
    assert any(len({row["language"] for row in rows if row["speaker"] == speaker}) > 1 for speaker in speakers)


def test_more_minutes_begin_as_fewer_do(corpus: Path, tmp_path: Path) -> None:
    write_languages_corpus(tmp_path / "again", LanguagesConfig(minutes=0.3, english_minutes=0.3))
    longer = {row["path"]: row for row in rows_of(tmp_path / "again")}
    for row in rows_of(corpus):
        assert longer[row["path"]] == row
        assert (tmp_path / "again" / row["path"]).read_bytes() == (corpus / row["path"]).read_bytes()


def test_another_corpus_is_not_overwritten(corpus: Path) -> None:
    assert write_languages_corpus(corpus, SMALL) > 60
    with pytest.raises(TwistError, match="name another folder, or delete this one"):
        write_languages_corpus(corpus, LanguagesConfig(minutes=1.0))
    with pytest.raises(TwistError, match="english_minutes is above 0"):
        LanguagesConfig(english_minutes=0)
