from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.corpora.librivox import section_of_stem, section_of_title
from pipeline.corpora.manifest import make_manifest
from pipeline.corpora.source import CorpusConfig
from pipeline.errors import TwistError
from pipeline.files import parquet
from pipeline.language.config import LanguageConfig
from pipeline.language.filter import filter_languages, read_decisions
from pipeline.language.same_speech import Corpus, Mark, SameSpeechConfig, Spoken, find_same_speech
from pipeline.stage import StageError, read_facts
from pipeline.work.cluster import ClusterConfig
from tests.progress import silently

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path


def spoken(id: str, *origins: str, at: tuple[float | None, float | None] = (0.0, None), **more: Any) -> Spoken:
    """A recording of corpus `id[0]`; by default it covers all of its origins."""
    known = {"speaker": None, "split": None, **more}
    return Spoken(id, id[0], known["speaker"], known["split"], list(origins) or None, *at)


def marks_of(
    recordings: Sequence[Spoken],
    config: SameSpeechConfig | None = None,
    evaluation: Sequence[str] = (),
    libri: str = "",
) -> dict[str, Mark]:
    corpora = [Corpus(name, name in libri) for name in sorted({recording.corpus for recording in recordings})]

    def of_corpus(name: str) -> Any:
        return iter([recording for recording in recordings if recording.corpus == name])

    return find_same_speech(of_corpus, corpora, config or SameSpeechConfig(), frozenset(evaluation))


A_CHAPTER = [
    spoken("a/chapter", "x"),
    spoken("b/1", "x", at=(0.0, 12.0)),
    spoken("b/2", "x", at=(12.5, 20.0)),
    spoken("b/3", "y", at=(0.0, 9.0)),
    spoken("c/somewhere", "x", at=(None, None)),
    spoken("c/elsewhere"),
]


def test_one_of_each_speech_stays_by_the_order_of_the_recipe() -> None:
    marks = marks_of(A_CHAPTER)
    assert {id: mark.other_id for id, mark in marks.items()} == {
        "b/1": "a/chapter",
        "b/2": "a/chapter",
        "c/somewhere": "a/chapter",
    }
    assert marks["b/1"] == Mark("same_speech", "a/chapter", "same speech as a/chapter")


def test_the_order_of_preference_is_the_user_s() -> None:
    assert marks_of(A_CHAPTER, SameSpeechConfig(prefer=("b",))).keys() == {"a/chapter"}, (
        "somewhere in it is no proof against a part of it"
    )
    assert marks_of(A_CHAPTER, SameSpeechConfig(prefer=("c", "b"))).keys() == {"a/chapter"}
    assert marks_of(A_CHAPTER, SameSpeechConfig(drop=False)) == {}
    with pytest.raises(TwistError, match=r"prefer names 'd', which is none of the corpora a, b, c"):
        marks_of(A_CHAPTER, SameSpeechConfig(prefer=("d",)))
    with pytest.raises(TwistError, match="names a corpus twice"):
        SameSpeechConfig(prefer=("a", "a"))


@pytest.mark.parametrize(
    ("one", "other", "is_same"),
    [
        ((0.0, 10.0), (0.0, 10.0), True),
        ((0.0, 10.0), (4.0, 14.0), True),
        ((0.0, 10.0), (6.0, 16.0), False),
        ((0.0, 100.0), (70.0, 75.0), True),
        ((0.0, 100.0), (99.0, 104.0), False),
        ((59.0, 61.0), (59.5, 61.5), True),
        ((0.0, None), (5000.0, 5001.0), True),
        ((None, None), (0.0, None), True),
        ((None, None), (3.0, 4.0), False),
    ],
)
@pytest.mark.parametrize("swap", [False, True])
def test_more_than_half_of_the_shorter(one: Any, other: Any, is_same: bool, swap: bool) -> None:
    if swap:
        one, other = other, one
    marks = marks_of([spoken("a/1", "x", at=one), spoken("b/1", "x", at=other)])
    assert marks.keys() == ({"b/1"} if is_same else set())


def test_pieces_of_what_the_same_corpus_holds_whole() -> None:
    recordings = [spoken("a/session", "x"), spoken("a/piece", "x", at=(10.0, 20.0)), spoken("a/other", "y")]
    assert marks_of(recordings).keys() == {"a/piece"}
    neighbours = [spoken("a/1", "x", at=(0.0, 20.0)), spoken("a/2", "x", at=(5.0, 25.0))]
    assert marks_of(neighbours) == {}, "a corpus' own cutting is its own affair"


def test_evaluation_sets_never_enter_training() -> None:
    recordings = [
        spoken("l/dev", "chapter 1", at=(None, None), speaker="librivox/1", split="validation"),
        spoken("l/test", "chapter 2", at=(None, None), speaker="librivox/2", split="test"),
        spoken("l/train", "chapter 3", at=(None, None), speaker="librivox/3", split="train"),
        spoken("a/chapter 1", "chapter 1", speaker="librivox/1"),
        spoken("a/other of 1", "chapter 9", speaker="librivox/1"),
        spoken("a/chapter 2 by somebody", "chapter 2", speaker="librivox/7"),
        spoken("a/chapter 3", "chapter 3", speaker="librivox/3"),
        spoken("a/free", "chapter 4", speaker="librivox/4"),
    ]
    marks = marks_of(recordings, SameSpeechConfig(prefer=("a",)), libri="l")
    assert {id: (mark.reason, mark.other_id) for id, mark in marks.items()} == {
        "a/chapter 1": ("evaluation", "l/dev"),
        "a/other of 1": ("evaluation", "l/dev"),
        "a/chapter 2 by somebody": ("evaluation", "l/test"),
        "l/train": ("same_speech", "a/chapter 3"),
    }
    unprotected = marks_of(recordings, SameSpeechConfig(prefer=("a",), protect_librispeech=False), libri="l")
    assert unprotected.keys() == {"l/dev", "l/test", "l/train"}
    assert marks_of(recordings, SameSpeechConfig(drop=False), libri="l").keys() == marks.keys() - {"l/train"}, (
        "evaluation data are kept out whether or not speech may come twice"
    )


def test_recordings_that_the_user_names() -> None:
    marks = marks_of(A_CHAPTER, SameSpeechConfig(drop=False), ["b/1"])
    assert {id: mark.reason for id, mark in marks.items()} == {
        "b/1": "evaluation",
        "a/chapter": "evaluation",
        "c/somewhere": "evaluation",
    }, "what may hold any of it goes too"
    with pytest.raises(TwistError, match="none of the 1 ids"):
        marks_of(A_CHAPTER, SameSpeechConfig(), ["b/7"])


@given(
    st.lists(
        st.tuples(
            st.sampled_from("abc"), st.sampled_from("xyz"), st.integers(0, 200), st.integers(1, 90), st.booleans()
        ),
        max_size=25,
    ),
    st.permutations("abc"),
)
def test_what_stays_is_no_speech_twice(rows: list[tuple[str, str, int, int, bool]], prefer: list[str]) -> None:
    recordings = [
        spoken(f"{corpus}/{n}", origin, at=(0.0, None) if whole else (float(start), float(start + length)))
        for n, (corpus, origin, start, length, whole) in enumerate(rows)
    ]
    present = tuple(name for name in prefer if any(recording.corpus == name for recording in recordings))
    marks = marks_of(recordings, SameSpeechConfig(prefer=present))
    stays = [recording for recording in recordings if recording.recording_id not in marks]
    for one in stays:
        for other in stays:
            if one.corpus < other.corpus and one.origins == other.origins:
                assert not one.is_whole and not other.is_whole
                assert one.origin_start_s is not None and one.origin_end_s is not None
                assert other.origin_start_s is not None and other.origin_end_s is not None
                shared_s = min(one.origin_end_s, other.origin_end_s) - max(one.origin_start_s, other.origin_start_s)
                shorter_s = min(one.origin_end_s - one.origin_start_s, other.origin_end_s - other.origin_start_s)
                assert shared_s <= shorter_s / 2
    ids = {recording.recording_id for recording in stays}
    assert all(mark.other_id in ids for mark in marks.values()), "something went for the sake of what goes too"


@pytest.mark.parametrize(
    ("title", "section"),
    [("Chapter 07", 7), ("02 - The Storm", 2), ("Book 2, Chapter 3", None), ("Preface", None), ("Chapter 12a", 12)],
)
def test_sections_by_title(title: str, section: int | None) -> None:
    assert section_of_title(title) == section


@pytest.mark.parametrize(
    ("stem", "section"),
    [
        ("01_baum_sea_fairies_64kb", 1),
        ("seafairies_01_baum_64kb", 1),
        ("twenty_years_after_102_dumas_64kb", 102),
        ("book2_chapter_03_x_64kb", None),
        ("preface_64kb", None),
        ("letters_1862_05_x_64kb", 5),
    ],
)
def test_sections_by_stem(stem: str, section: int | None) -> None:
    assert section_of_stem(stem) == section


# On the trees of the corpora


@pytest.fixture
def run(corpus_tree: Callable[[str], Path], tmp_path: Path) -> str:
    """LibriSpeech, Libri-Light, MLS and VoxPopuli."""
    kinds = ("librispeech", "libri_light", "mls", "voxpopuli")
    corpora = [CorpusConfig(str(corpus_tree(kind)), kind) for kind in kinds]  # type: ignore[arg-type]
    make_manifest(str(tmp_path / "run"), corpora, silently)
    return str(tmp_path / "run")


def dropped(run: str) -> dict[str, tuple[str, str]]:
    rows = parquet.read(f"{run}/language/dropped.parquet").to_pylist()
    return {row["id"]: (row["reason"], row["detail"]) for row in rows if row["reason"] in ("same_speech", "evaluation")}


CHAPTER = "libri_light/small/100/sea_fairies_0812_librivox_64kb_mp3/02_baum_sea_fairies_64kb"
SESSION = "voxpopuli/20180206-0900-PLENARY"


def test_corpora_that_hold_the_same(run: str) -> None:
    filter_languages(run, LanguageConfig(languages=("en", "de")), ClusterConfig(), silently)
    found = dropped(run)
    assert found[CHAPTER] == ("same_speech", "same speech as librispeech/100-121669-0000")
    mls = [id for id in found if id.startswith("mls/")]
    assert mls == ["mls/english/201_900_000000", "mls/english/201_900_000001"]
    chapter = "libri_light/small/201/a_book_librivox_64kb_mp3/abook_07_author_64kb"
    assert {found[id] for id in mls} == {("same_speech", f"same speech as {chapter}")}
    evaluation = [id for id, (reason, _) in found.items() if reason == "evaluation"]
    assert evaluation == ["libri_light/medium/102/third_book_librivox_64kb_mp3/third_05_author_64kb"]
    sessions = {id for id in found if id.startswith("voxpopuli/")}
    assert len(sessions) == 7, "cut files and utterances of a session that is there whole"
    assert all(
        detail in (f"same speech as {SESSION}_en", f"same speech as {SESSION}_original")
        for id, (_, detail) in found.items()
        if id in sessions
    )
    counts = read_facts(run, "language")["counts"]
    assert counts["input"]["items"] == counts["kept"]["items"] + sum(t["items"] for t in counts["dropped"].values())


def test_preference_and_a_list_of_ids(run: str, tmp_path: Path) -> None:
    evaluation = tmp_path / "evaluation.txt"
    evaluation.write_text("# our own test set\nmls/english/301_910_000001\n\nvoxpopuli/20180206-0900-PLENARY_en_0\n")
    config = SameSpeechConfig(prefer=("mls", "libri_light"), evaluation=str(evaluation))
    filter_languages(run, LanguageConfig(), ClusterConfig(), silently, config)
    found = dropped(run)
    assert "mls/english/201_900_000000" not in found
    assert found["librispeech/100-121669-0002"] == ("same_speech", f"same speech as {CHAPTER}")
    assert found["mls/english/301_910_000001"][0] == "evaluation"
    assert found[f"{SESSION}_en"][0] == "evaluation", "a session that holds it"
    keep = {id: decision.keep for id, decision in read_decisions(run).items()}
    assert keep["librispeech/102-121671-0000"], "LibriSpeech's dev set stays what it is"
    evaluation.write_text("mls/english/301_910_000000\n")
    with pytest.raises(StageError, match="evaluation_ids"):
        filter_languages(run, LanguageConfig(), ClusterConfig(), silently, config)
    with pytest.raises(TwistError, match="does not exist"):
        filter_languages(
            run, LanguageConfig(), ClusterConfig(), silently, SameSpeechConfig(evaluation=str(tmp_path / "none.txt"))
        )
