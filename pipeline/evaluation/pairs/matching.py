"""Does a model of text and speech know which text belongs to which speech? Measured on a run's own held-out samples.

Of a text with its own speech and another's, the own should be likelier; so should, of a speech with its own text and
another's. Another speech has other units, which are more or less likely by themselves, so that is taken off:

    speech    log p(speech | text) - log p(speech), of the own speech above that of another
    text      log p(speech | own text) above log p(speech | another text)

The other one is a neighbour in length, so that length tells nothing. Chance is 0.5. This measure is ours.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from model.lm.samples import AlignedSamples
from model.lm.scoring import max_units, token_scores
from model.lm.text_tokenizer import TextTokenizer
from model.training import checkpoint
from pipeline.errors import TwistError
from pipeline.evaluation.measures import GROUP, Measure
from pipeline.evaluation.pairs.likelier import points
from pipeline.evaluation.results import LeftOut
from pipeline.files import storage
from pipeline.runs import SHARDS
from pipeline.shards import open_dataset, read_sample

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from model.lm.samples import AlignedSample
    from model.lm.vocab import Vocabulary
    from pipeline.evaluation.results import Result
    from pipeline.evaluation.subject import Subject
    from pipeline.shards import Dataset
    from pipeline.speaking.speech_lm import SpeechLM

SPLIT = "validation"
GAINS = ("own", "other_speech", "other_text")  # log p(speech | text) - log p(speech), of each
COLUMNS = ("item_id", GROUP, "other", *GAINS, "right_speech_sum", "right_speech_mean", "right_text")
# Samples of like length among which the other one is drawn.
NEIGHBOURS = 4
# Samples whose words are tokenized again, to see that the model's tokenizer is theirs.
SAMPLES_SPELLED = 8


def matching(subject: Subject) -> Iterator[Result]:
    """Whether a model matches text and speech.

    Raises:
        TwistError: the model knows no text, or the run has no samples with words of its tokenizer.
    """
    vocabulary = subject.lm.vocabulary
    if not vocabulary.text_size:
        raise TwistError(f"matching needs a model of text and speech, and {subject.lm.path} is one of units alone")
    if not subject.run:
        raise TwistError("matching is measured on the samples of a run: give --run")
    dataset = open_dataset(storage.join(subject.run, SHARDS))
    samples = AlignedSamples(dataset, SPLIT)
    if len(samples) < 2:
        raise TwistError(f"{dataset.uri} has a single sample with words in {SPLIT}; two are needed")
    _require_tokenizer(subject.lm, dataset, samples)
    max_items = subject.config.matching.max_items
    chosen = np.arange(len(samples))
    if max_items is not None and max_items < len(samples):
        chosen = np.unique(np.linspace(0, len(samples) - 1, max(2, max_items)).astype(np.int64))
    left_out: list[LeftOut] = []
    pairs: list[tuple[int, int]] = []
    longest = max_units(subject.lm.model, vocabulary) - 1  # and [TEXT]
    others = chosen[neighbours_in_length(samples.num_units[chosen], subject.seed)]
    for i, j in zip(chosen.tolist(), others.tolist(), strict=True):
        num_tokens = max(int(samples.num_text_tokens[k] + samples.num_units[m]) for k in (i, j) for m in (i, j))
        if num_tokens > longest:
            left_out.append(
                LeftOut(samples.key(i), "too_long", f"{num_tokens} tokens, but the model takes {longest:.0f}")
            )
        elif np.array_equal(samples[i].tokens, samples[j].tokens):
            left_out.append(LeftOut(samples.key(i), "same_text", f"as that of {samples.key(j)}"))
        else:
            pairs.append((i, j))
    table = _table(subject.lm, samples, pairs)
    measures = [
        Measure("speech, sum", "right_speech_sum"),
        Measure("speech, mean", "right_speech_mean"),
        Measure("text", "right_text"),
    ]
    yield subject.result(
        "matching",
        measures,
        table,
        rule="log p(speech | text) - log p(speech), share of samples where the own is above another's; ties 0.5",
        settings={"shards": dataset.uri, "split": SPLIT, "max_items": max_items},
        data=dataset.fingerprint,
        left_out=left_out,
        notes=["Chance is 0.5."],
    )


def _require_tokenizer(lm: SpeechLM, dataset: Dataset, samples: AlignedSamples) -> None:
    """Refuses shards of another tokenizer than a model's: whether some samples' words give the tokens that they carry.

    Raises:
        TwistError: they give others.
    """
    tokenizer = TextTokenizer(str(checkpoint.fetch(lm.path)))
    fits = dataset.info["text"]["vocab_size"] == lm.vocabulary.text_size
    rows = samples.manifest_rows()
    for place in np.unique(np.linspace(0, len(rows) - 1, SAMPLES_SPELLED).astype(np.int64)).tolist() if fits else ():
        words = read_sample(dataset.uri, dataset.row(int(rows[place]))).words
        assert words is not None, f"{samples.key(place)} is listed with words and has none"
        ((tokens, _),) = tokenizer.encode_words([[word for word, _, _ in words.timed]])
        fits = fits and np.array_equal(tokens, words.tokens)
    if not fits:
        raise TwistError(
            f"{dataset.uri} has text of another tokenizer than {lm.path}: the same numbers mean other text; measure "
            f"it on the run that it was trained on"
        )


def neighbours_in_length(lengths: NDArray[np.integer], seed: int) -> NDArray[np.int64]:
    """Another item of like length for each [N]; each is another's once."""
    order = np.argsort(lengths, kind="stable")
    generator = np.random.Generator(np.random.PCG64(seed))
    others = np.empty(len(order), np.int64)
    # The last group has at least two: one alone has no other.
    edges = np.append(np.arange(0, max(1, len(order) - 1), NEIGHBOURS), len(order))
    for start, end in itertools.pairwise(edges):
        group = generator.permutation(order[start:end])
        others[group] = np.roll(group, 1)
    return others


def _table(lm: SpeechLM, samples: AlignedSamples, pairs: Sequence[tuple[int, int]]) -> pa.Table:
    both = {i: samples[i] for i in sorted({i for pair in pairs for i in pair})}
    alone = dict(zip(both, _nats(lm, [(None, sample) for sample in both.values()]), strict=True))
    matched = dict(zip(both, _nats(lm, [(sample, sample) for sample in both.values()]), strict=True))
    other_speech = _nats(lm, [(both[i], both[j]) for i, j in pairs])
    other_text = _nats(lm, [(both[j], both[i]) for i, j in pairs])
    columns: dict[str, list[object]] = {name: [] for name in COLUMNS}
    for (i, j), with_other_speech, with_other_text in zip(pairs, other_speech, other_text, strict=True):
        gain, other_gain = matched[i] - alone[i], with_other_speech - alone[j]
        row = (
            samples.key(i),
            samples.key(i),
            samples.key(j),
            gain,
            other_gain,
            with_other_text - alone[i],
            points(gain, other_gain),
            points(gain / len(both[i].units), other_gain / len(both[j].units)),
            points(matched[i], with_other_text),
        )
        for name, value in zip(columns, row, strict=True):
            columns[name].append(value)
    return pa.table(columns)


def _nats(lm: SpeechLM, pairs: Sequence[tuple[AlignedSample | None, AlignedSample]]) -> list[float]:
    """log p(units) of each second sample, behind the text of the first if there is one."""
    sequences = [_sequence(text, speech, lm.vocabulary) for text, speech in pairs]
    scores = token_scores(lm.model, sequences)
    sums = [float(nats[-len(speech.units) :].sum()) for nats, (_, speech) in zip(scores, pairs, strict=True)]
    if not np.isfinite(sums).all():
        raise TwistError(f"{lm.path} gives likelihoods that are not finite; take another checkpoint")
    return sums


def _sequence(text: AlignedSample | None, speech: AlignedSample, vocabulary: Vocabulary) -> NDArray[np.int64]:
    assert vocabulary.text_id is not None and vocabulary.speech_id is not None
    written = [] if text is None else [np.array([vocabulary.text_id]), text.tokens.astype(np.int64)]
    start = [] if vocabulary.bos_id is None else [np.array([vocabulary.bos_id])]
    return np.concatenate([*start, *written, np.array([vocabulary.speech_id]), vocabulary.encode(speech.units)])
