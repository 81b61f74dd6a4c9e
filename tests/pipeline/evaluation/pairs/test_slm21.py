"""sWUGGY and sBLIMP: the challenge's own figures from scores, whatever the order of rows."""

from __future__ import annotations

import random

import pytest

from pipeline.errors import TwistError
from pipeline.evaluation.measures import figure
from pipeline.evaluation.pairs import slm21, submission
from pipeline.evaluation.pairs.likelier import ItemScore, pair_table
from pipeline.evaluation.results import LeftOut

LEXICAL = "filename,id,voice,frequency,word,phones,length,correct"
SYNTACTIC = "filename,id,voice,type,subtype,transcription,correct"
# Computed with the challenge's own evaluation: (id, voice, frequency, score of the word, of the non-word).
WORDS = [
    (1, "v1", 0, -1, -2),
    (1, "v2", 0, -3, -3),
    (2, "v1", 1, -1, -2),
    (2, "v2", 1, -5, -4),
    (3, "v1", 5, -1, -1),
    (4, "v1", 100, -2, -1),
    (5, "v1", 21, -1, -9),
]
SENTENCES = [("agr", "s1", 1, -1, -2), ("npi", "s2", 1, -1, -1), ("agr", "s1", 2, -9, -8)]


def write_gold(folder, task, head, rows):
    place = folder / task / "dev"
    place.mkdir(parents=True)
    (place / "gold.csv").write_text("\n".join([head, *rows]) + "\n")


def lexical_rows():
    for id, voice, frequency, *_ in WORDS:
        yield f"w{id}{voice},{id},{voice},{frequency},word{id},W,4,1"
        yield f"n{id}{voice},{id},{voice},,nonword{id},N,4,0"


def syntactic_rows():
    for type, subtype, id, *_ in SENTENCES:
        yield f"g{type}{id},{id},v,{type},{subtype},good,1"
        yield f"b{type}{id},{id},v,{type},{subtype},bad,0"


def figures(pairs, scores, measures, left_out=()):
    sums = {name: ItemScore(score, 1) for name, score in scores.items()}
    items, broken = pair_table(pairs, sums, left_out)
    items, told = measures(items)
    return {one.name: figure(items, one, level=0.95, seed=0).value for one in told}, broken


def word_scores():
    words = {f"w{id}{voice}": float(word) for id, voice, _, word, _ in WORDS}
    return words | {f"n{id}{voice}": float(other) for id, voice, _, _, other in WORDS}


@pytest.mark.parametrize("seed", range(4))
def test_words_as_the_challenge_scores_them(tmp_path, seed):
    rows = list(lexical_rows())
    random.Random(seed).shuffle(rows)
    write_gold(tmp_path, "lexical", LEXICAL, rows)
    pairs, unpaired = slm21.read_pairs(str(tmp_path), "lexical", "dev")
    assert not unpaired
    found, _ = figures(pairs, word_scores(), slm21.lexical_measures)
    expected = {"all": 0.55, "in-vocab": 0.5, "frequency oov": 0.75, "frequency 1-5": 0.5, "frequency 6-20": 0.5}
    expected |= {"frequency 21-100": 1.0, "frequency >100": 0.0}
    assert {name: found[f"{name}, sum"] for name in expected} == pytest.approx(expected)


@pytest.mark.parametrize("seed", range(4))
def test_sentences_as_the_challenge_should_score_them(tmp_path, seed):
    # Its own tool pairs rows by order: a shuffled table gives it other figures.
    rows = list(syntactic_rows())
    random.Random(seed).shuffle(rows)
    write_gold(tmp_path, "syntactic", SYNTACTIC, rows)
    pairs, _ = slm21.read_pairs(str(tmp_path), "syntactic", "dev")
    scores = {f"g{type}{id}": float(good) for type, _, id, good, _ in SENTENCES}
    scores |= {f"b{type}{id}": float(bad) for type, _, id, _, bad in SENTENCES}
    found, _ = figures(pairs, scores, slm21.syntactic_measures)
    assert found["type agr, sum"] == found["type npi, sum"] == found["by id, sum"] == found["mean of types, sum"] == 0.5


def test_types_and_pairs_differ_as_in_slm_scaling(tmp_path):
    """Two right pairs of a common type and a wrong one of a rare type."""
    kinds = {"g1": "common", "g2": "common", "g3": "rare"}
    rows = [f"{half}{name},{name},v,{kind},s,t,{half == 'g'}" for name, kind in kinds.items() for half in "gb"]
    write_gold(tmp_path, "syntactic", SYNTACTIC, [row.replace("True", "1").replace("False", "0") for row in rows])
    pairs, _ = slm21.read_pairs(str(tmp_path), "syntactic", "dev")
    scores = {"gg1": 1.0, "bg1": 0.0, "gg2": 1.0, "bg2": 0.0, "gg3": 0.0, "bg3": 1.0}
    found, _ = figures(pairs, scores, slm21.syntactic_measures)
    assert (found["by pair, sum"], found["mean of types, sum"]) == (pytest.approx(2 / 3), 0.5)


def test_a_score_that_is_none_is_no_right_pair(tmp_path):
    write_gold(tmp_path, "lexical", LEXICAL, list(lexical_rows()))
    pairs, _ = slm21.read_pairs(str(tmp_path), "lexical", "dev")
    found, _ = figures(pairs, word_scores() | {"n5v1": float("nan")}, slm21.lexical_measures)
    assert (found["all, sum"], found["in-vocab, sum"]) == pytest.approx((0.35, 0.25))


def test_pairs_ids_and_types_are_weighed_apart(tmp_path):
    rows = [
        f"{half}{kind}{id}{voice},{id},{voice},{kind},s,t,{correct}"
        for kind, id, voices in (("common", 1, "ab"), ("common", 2, "a"), ("rare", 1, "a"))
        for voice in voices
        for half, correct in (("g", 1), ("b", 0))
    ]
    write_gold(tmp_path, "syntactic", SYNTACTIC, rows)
    pairs, _ = slm21.read_pairs(str(tmp_path), "syntactic", "dev")
    right = {"common1a": 1, "common1b": 0, "common2a": 1, "rare1a": 0}
    scores = {f"g{name}": float(is_right) for name, is_right in right.items()} | {f"b{name}": 0.25 for name in right}
    found, _ = figures(pairs, scores, slm21.syntactic_measures)
    by_hand = {"by pair": 2 / 4, "by id": (0.5 + 1 + 0) / 3, "mean of types": (0.75 + 0) / 2}
    assert {name: found[f"{name}, sum"] for name in by_hand} == pytest.approx(by_hand)


def test_columns_in_any_order_and_files_with_a_suffix(tmp_path):
    head = "id,filename,correct,voice,word,frequency"
    write_gold(tmp_path, "lexical", head, ["7,a.wav,1,v,cat,3", "7,b.wav,0,v,cet,"])
    ((pair,), _) = slm21.read_pairs(str(tmp_path), "lexical", "dev")
    assert (pair.positive.item_id, pair.negative.item_id) == ("a", "b")
    assert pair.facts == {"voice": "v", "frequency": 3.0, "word": "cat", "non_word": "cet"}


def test_only_audio_is_taken_for_an_item(tmp_path):
    """Whatever else lies beside it under the same name, and whatever its suffix."""
    write_gold(tmp_path, "lexical", LEXICAL, ["a.flac,1,v,3,cat,k,3,1", "b.1,1,v,,cet,k,3,0"])
    for name in ("a.flac", "a.txt", "b.1.wav", "b.1.TextGrid"):
        (tmp_path / "lexical/dev" / name).touch()
    ((pair,), _) = slm21.read_pairs(str(tmp_path), "lexical", "dev")
    assert [item.uri.rpartition("/")[2] for item in (pair.positive, pair.negative)] == ["a.flac", "b.1.wav"]


def test_phones_stand_for_spellings_that_no_non_word_has(tmp_path):
    rows = ["a,1,v,3,cat,k ae t,3,1", "b,1,v,,,k eh t,3,0"]
    write_gold(tmp_path, "lexical", LEXICAL, rows)
    ((pair,), _) = slm21.read_pairs(str(tmp_path), "lexical", "dev")
    assert (pair.facts["word"], pair.facts["non_word"]) == ("k ae t", "k eh t")


def test_a_pair_with_a_missing_half_is_counted_and_named(tmp_path):
    write_gold(tmp_path, "lexical", LEXICAL, [*lexical_rows(), "w9,9,v1,3,lone,L,4,1"])
    pairs, unpaired = slm21.read_pairs(str(tmp_path), "lexical", "dev")
    assert [(one.item_id, one.reason) for one in unpaired] == [("9/v1", "unpaired")]
    scores = word_scores()
    del scores["n1v1"]
    _, broken = figures(pairs, scores, slm21.lexical_measures, [LeftOut("n1v1", "missing", "there is no such file")])
    assert [(one.item_id, one.reason) for one in broken] == [("1/v1", "missing")]


@pytest.mark.parametrize(
    ("head", "rows", "says"),
    [
        ("filename,id,voice,correct", ["a,1,v,1"], "lacks the columns frequency; it has filename, id, voice, correct"),
        (LEXICAL, ["a,1,v,3,cat,k,3,yes"], "line 2: `correct` is 0 or 1, not 'yes'"),
        (LEXICAL, ["a,1,v,3,cat,k,3"], "line 2: it has 7 fields; the first line names 8"),
        (LEXICAL, ["a,1,v,3,cat,k,3,1", "b,1,v,3,cat,k,3,1"], "b and a are the same half of one pair"),
        (LEXICAL, ["../../a,1,v,3,cat,k,3,1"], r"line 2: \.\./\.\./a is no file in this folder"),
        (LEXICAL, ["a,1,v,often,cat,k,3,1", "b,1,v,,cet,k,3,0"], "the frequency of a is no number: 'often'"),
    ],
)
def test_a_table_that_cannot_be_used_is_told(tmp_path, head, rows, says):
    write_gold(tmp_path, "lexical", head, rows)
    with pytest.raises(TwistError, match=says):
        slm21.read_pairs(str(tmp_path), "lexical", "dev")


def test_another_layout_is_told_with_what_was_found(tmp_path):
    (tmp_path / "audio").mkdir()
    (tmp_path / "audio" / "a.wav").touch()
    with pytest.raises(TwistError, match=r"neither lexical/dev/gold.csv \(sLM21\) nor .*: it holds audio"):
        slm21.read_pairs(str(tmp_path), "lexical", "dev")


def test_slamkits_folders_are_paired_by_number(tmp_path):
    for name in ("anaphor/2+a.wav", "anaphor/3+b.wav", "anaphor/10+c.wav", "anaphor/11+d.wav", "npi/0+e.wav"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    pairs, unpaired = slm21.read_pairs(str(tmp_path), "syntactic", "dev")
    assert [(pair.positive.item_id, pair.negative.item_id) for pair in pairs] == [
        ("anaphor/2+a.wav", "anaphor/3+b.wav"),
        ("anaphor/10+c.wav", "anaphor/11+d.wav"),
    ]
    assert [one.item_id for one in unpaired] == ["npi/0"]


def test_a_submission_has_each_file_once(tmp_path):
    submission.write(str(tmp_path), "lexical", "dev", {"b": -1.5, "a": -20.25}, [])
    assert (tmp_path / "lexical/dev.txt").read_text() == "a -20.25\nb -1.5\n"
    (tmp_path / "meta.yaml").write_text("mine\n")
    submission.write(str(tmp_path), "syntactic", "dev", {"c": 1.0}, [])
    assert (tmp_path / "meta.yaml").read_text() == "mine\n"
    with pytest.raises(TwistError, match="finite scores, but that of b is -inf"):
        submission.write(str(tmp_path), "lexical", "dev", {"a": 1.0, "b": float("-inf")}, [])
    with pytest.raises(TwistError, match=r"a score for every file, but 1 pairs were left out, e\.g\. 3/v"):
        submission.write(str(tmp_path), "lexical", "dev", {"a": 1.0}, [LeftOut("3/v", "missing", "no file")])
