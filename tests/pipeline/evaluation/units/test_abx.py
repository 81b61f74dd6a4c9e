"""ABX: against a loop over all triples, on printed values, and what must not change it."""

from __future__ import annotations

import itertools
from collections import defaultdict

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import TwistError
from pipeline.evaluation.measures import Measure, figure
from pipeline.evaluation.units.abx import Token, abx, abx_error
from pipeline.evaluation.units.dtw import angular, dtw_distances, unequal

units = st.lists(st.integers(0, 2), min_size=1, max_size=3).map(np.array)
features = st.lists(st.tuples(st.integers(-2, 2), st.integers(-2, 2)), min_size=1, max_size=3).map(
    lambda rows: np.array(rows, np.float32)
)


def tokens_with(frames):
    letters = (st.sampled_from("abc"), st.sampled_from("xy"), st.just("z"), st.sampled_from("pqr"))
    return st.lists(st.builds(Token, *letters, frames), max_size=14)


conditions = pytest.mark.parametrize(
    ("speakers", "contexts"), list(itertools.product(("within", "across"), ("within", "any")))
)


def triple_by_triple(tokens, speakers, contexts, distance) -> float:
    """The error by its definition: every A, B and X, one after the other."""

    def far(x, y):
        return dtw_distances([x.frames], [y.frames], distance).item()

    def context(token):
        return (token.previous, token.following) if contexts == "within" else None

    wrong = defaultdict(list)
    for a, b, x in itertools.permutations(tokens, 3):
        same_speaker = x.speaker == a.speaker
        if (
            a.phone == x.phone != b.phone
            and a.speaker == b.speaker
            and same_speaker == (speakers == "within")
            and context(a) == context(b) == context(x)
        ):
            to_a, to_b = far(x, a), far(x, b)
            key = (a.phone, b.phone, a.speaker, context(a), x.speaker)
            wrong[key].append(0.5 if to_a == to_b else float(to_a > to_b))
    by_speaker, by_pair = defaultdict(list), defaultdict(list)
    for (phone, other, speaker, _, _), of_key in wrong.items():
        by_speaker[phone, other, speaker].append(np.mean(of_key))
    for (phone, other, _), errors in by_speaker.items():
        by_pair[phone, other].append(np.mean(errors))
    return float(np.mean([np.mean(errors) for errors in by_pair.values()])) if by_pair else float("nan")


@conditions
@given(tokens=tokens_with(units))
def test_the_error_of_units_is_that_of_all_triples(tokens, speakers, contexts):
    errors = abx(tokens, speakers=speakers, contexts=contexts, max_tokens=99, max_x_speakers=99)
    expected = triple_by_triple(tokens, speakers, contexts, unequal)
    assert abx_error(errors) == pytest.approx(expected, nan_ok=True)


@conditions
@given(tokens=tokens_with(features))
def test_the_error_of_features_is_that_of_all_triples(tokens, speakers, contexts):
    # So that distances which are equal on paper tie in both computations.
    def rounded(first, second):
        return np.round(angular(first, second), 6)

    errors = abx(tokens, speakers=speakers, contexts=contexts, distance=rounded, max_tokens=99, max_x_speakers=99)
    expected = triple_by_triple(tokens, speakers, contexts, rounded)
    assert abx_error(errors) == pytest.approx(expected, nan_ok=True)


@given(tokens=tokens_with(units))
def test_distances_of_one_hot_vectors_give_the_error_of_units(tokens):
    hot = [Token(t.phone, t.previous, t.following, t.speaker, np.eye(3)[t.frames]) for t in tokens]
    of_units, of_vectors = (abx(some, speakers="across", contexts="any") for some in (tokens, hot))
    assert abx_error(of_units) == pytest.approx(abx_error(of_vectors), nan_ok=True)


def test_the_error_is_libri_lights():
    def euclidean(first, second):
        return np.sqrt(((first[:, None] - second[None]) ** 2).sum(axis=-1))

    near = ([(0, 1), (0, 0), (1, 1)], [(0, 2), (0, 1), (1, 1), (-1, 0)], [(0, 0), (0, 1)])
    tokens = [Token("a", "", "", "s", np.array(frames, float)) for frames in near]
    tokens.append(Token("b", "", "", "s", np.array([(0, 1), (1, 2), (0, 0)], float)))
    errors = abx(tokens, speakers="within", contexts="within", distance=euclidean)
    assert errors.to_pylist() == [{"item_id": "a b s", "group": "s", "pair": "a b", "error": 0.5, "num_means": 1}]


def many_tokens(count=600, num_speakers=9):
    generator = np.random.default_rng(0)
    return [
        Token(
            "abcd"[generator.integers(4)],
            "",
            "",
            f"s{generator.integers(num_speakers)}",
            generator.integers(6, size=generator.integers(1, 5)),
        )
        for _ in range(count)
    ]


def test_what_is_drawn_depends_on_the_seed_and_on_nothing_else():
    tokens = many_tokens()
    first = abx(tokens, speakers="across", contexts="any", seed=1)
    assert abx(tokens, speakers="across", contexts="any", seed=1).equals(first)
    assert not abx(tokens, speakers="across", contexts="any", seed=2).equals(first)
    fewer = abx([token for token in tokens if token.phone != "d"], speakers="within", contexts="any", seed=1)
    whole = abx(tokens, speakers="within", contexts="any", seed=1).to_pylist()
    assert fewer.to_pylist() == [row for row in whole if "d" not in row["pair"]], "another phone changes no other pair"


def test_no_more_tokens_and_speakers_are_taken_than_told():
    tokens = many_tokens()
    errors = abx(tokens, speakers="across", contexts="any", max_x_speakers=3)
    assert set(errors["num_means"].to_pylist()) == {3}
    one_each = abx(tokens, speakers="across", contexts="any", max_tokens=1, max_x_speakers=1)
    assert set(one_each["error"].to_pylist()) <= {0.0, 0.5, 1.0}, "one A, B and X each"


def test_units_that_tell_phones_apart_have_no_error_and_others_one_half():
    told = [Token(t.phone, "", "", t.speaker, np.array(["abcd".index(t.phone)])) for t in many_tokens()]
    deaf = [Token(t.phone, "", "", t.speaker, np.array([7])) for t in many_tokens()]
    for speakers in ("within", "across"):
        assert abx_error(abx(told, speakers=speakers, contexts="any")) == 0.0
        assert abx_error(abx(deaf, speakers=speakers, contexts="any")) == 0.5


def test_the_mean_of_a_result_is_the_error():
    errors = abx(many_tokens(60), speakers="across", contexts="any")
    told = figure(errors, Measure("abx", "error", mean_over="pair"), level=0.95, seed=0)
    assert told.value == pytest.approx(abx_error(errors))
    assert told.num_groups == 9, "speakers are drawn"


def test_tokens_that_make_no_triple_give_no_rows():
    lonely = [Token("a", "", "", "s", np.array([1])), Token("b", "", "", "s", np.array([2]))]
    for speakers in ("within", "across"):
        errors = abx(lonely, speakers=speakers, contexts="any")
        assert len(errors) == 0
        assert np.isnan(abx_error(errors))


def test_a_token_without_frames_is_refused():
    with pytest.raises(TwistError, match="a token of a by s has no frame"):
        abx([Token("a", "", "", "s", np.array([], int))], speakers="within", contexts="any")
