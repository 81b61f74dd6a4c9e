"""Sequences, batches and training on units, pitch and style: spans are cut out of the stream of the whole sample."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from model.lm.loader_config import LoaderConfig
from model.lm.mixture.batches import MixtureBatches
from model.lm.mixture.config import (
    INTERLEAVED,
    KINDS,
    SPEECH,
    SPEECH_TEXT,
    TEXT_SPEECH,
    MixtureConfig,
    SpanConfig,
)
from model.lm.mixture.data import STREAM_BASELINE
from model.lm.mixture.sequences import interleaved_sequences, pair_sequences
from model.lm.mixture.sources import AlignedSource, Source, StreamSource
from model.lm.mixture.spans import draw_speech
from model.lm.samples import AlignedSample, AlignedSamples, StreamSamples, UnitSamples
from model.lm.speech_lm import load_speech_lm
from model.lm.streams import StreamRates, Streams, merge
from model.lm.text_tokenizer import fingerprint_of_tokenizer
from model.lm.trainer import train
from model.lm.vocab import Vocabulary
from pipeline.errors import TwistError
from pipeline.shards import open_dataset, read_shard
from tests.model.conftest import streams_of, words_over, write_streams_dataset, write_text_dataset
from tests.model.lm.mixture.test_sequences import sequences_of
from tests.model.lm.mixture.test_training import World, config_of, weights_of
from tests.model.lm.test_text_lm import ROWS, write_text_lm

if TYPE_CHECKING:
    from pipeline.shards import Dataset

TEXT_SIZE = 100
RATES = StreamRates(25.0, 12.5, 1.0)
VOCABULARY = Vocabulary(
    20,
    TEXT_SIZE + 2,
    codebook_fingerprint="codebook-1",
    text_size=TEXT_SIZE,
    num_pitch=6,
    num_style=4,
    pitch_offset=TEXT_SIZE + 22,
    pitch_fingerprint="pitch-1",
    style_fingerprint="style-1",
)
SPANS = SpanConfig(text_words=(1, 4), speech_words=(1, 3))


def draw_sample(rng: np.random.Generator, num_words: int) -> AlignedSample:
    streams = streams_of(rng, int(rng.integers(num_words + 20, 6 * num_words + 60)))
    words = words_over(streams, num_words, rng, TEXT_SIZE)
    return AlignedSample(streams.units, words.tokens, words.table, streams, words.cuts)


def by_hand(sample: AlignedSample, is_speech: list[bool]) -> list[int]:
    """The rule in plain Python: of a span [t0, t1) the units without repeats, and pitch and style said there."""
    assert sample.streams is not None and sample.cuts is not None
    frames = np.repeat(sample.streams.units, sample.streams.durations).tolist()
    pitch, style = sample.streams.pitch.tolist(), sample.streams.style.tolist()
    edges = [*sample.cuts.tolist(), len(frames)]
    tokens_before = [0, *np.cumsum(sample.words[:, 0]).tolist()]
    ids: list[int] = []
    word = 0
    while word < len(is_speech):
        end = word
        while end < len(is_speech) and is_speech[end] == is_speech[word]:
            end += 1
        if not is_speech[word]:
            ids += [TEXT_SIZE, *sample.tokens[tokens_before[word] : tokens_before[end]].tolist()]
        else:
            first, stop = edges[word], edges[end]
            t0, t1 = first / 25, np.inf if end == len(is_speech) else stop / 25
            said = [(i / 1.0, 0, VOCABULARY.style_offset + code) for i, code in enumerate(style)]
            said += [
                (i / 12.5, 1, VOCABULARY.pitch_offset + code)
                for i, code in enumerate(pitch)
                if i == 0 or pitch[i - 1] != code
            ]
            said = [one for one in said if t0 <= one[0] < t1]
            said += [
                (f / 25, 2, VOCABULARY.offset + frames[f])
                for f in range(first, stop)
                if f == first or frames[f] != frames[f - 1]
            ]
            ids += [TEXT_SIZE + 1, *(one[2] for one in sorted(said))]
        word = end
    return ids


@pytest.mark.parametrize("seed", range(30))
def test_spans_are_cut_out_of_the_stream(seed: int) -> None:
    rng = np.random.default_rng(seed)
    samples = [draw_sample(rng, int(n)) for n in rng.integers(2, 30, 6)]
    num_words = np.array([len(sample.words) for sample in samples])
    is_speech = draw_speech(num_words, np.arange(6), seed, SPANS)
    found = sequences_of(interleaved_sequences(samples, is_speech, VOCABULARY, 10_000, RATES))
    of_samples = np.split(is_speech, np.cumsum(num_words)[:-1])
    assert found == [by_hand(sample, of_one.tolist()) for sample, of_one in zip(samples, of_samples, strict=True)]


@pytest.mark.parametrize("seed", range(10))
def test_all_as_speech_is_the_stream_of_the_sample(seed: int) -> None:
    rng = np.random.default_rng(seed)
    samples = [draw_sample(rng, int(n)) for n in rng.integers(1, 20, 4)]
    every = np.ones(sum(len(sample.words) for sample in samples), np.bool_)
    found = sequences_of(interleaved_sequences(samples, every, VOCABULARY, 10_000, RATES))
    for sample, sequence in zip(samples, found, strict=True):
        assert sample.streams is not None
        assert sequence == [TEXT_SIZE + 1, *merge([sample.streams], VOCABULARY, RATES).ids.tolist()]


@pytest.mark.parametrize("seed", range(10))
def test_long_samples_go_on_at_a_word_and_batched_is_alone(seed: int) -> None:
    rng = np.random.default_rng(seed)
    samples = [draw_sample(rng, int(n)) for n in rng.integers(2, 40, 5)]
    num_words = np.array([len(sample.words) for sample in samples])
    is_speech = draw_speech(num_words, np.arange(5), seed, SPANS)
    together = sequences_of(interleaved_sequences(samples, is_speech, VOCABULARY, 40, RATES))
    assert max(map(len, together)) <= 40
    alone = [
        sequence
        for sample, words in zip(samples, np.split(is_speech, np.cumsum(num_words)[:-1]), strict=True)
        for sequence in sequences_of(interleaved_sequences([sample], words, VOCABULARY, 40, RATES))
    ]
    assert together == alone


def test_pairs_have_the_whole_stream() -> None:
    sample = draw_sample(np.random.default_rng(0), 4)
    assert sample.streams is not None
    speech = [TEXT_SIZE + 1, *merge([sample.streams], VOCABULARY, RATES).ids.tolist()]
    text = [TEXT_SIZE, *sample.tokens.tolist()]
    (forward,) = sequences_of(pair_sequences([sample], VOCABULARY, SPEECH_TEXT, RATES))
    (backward,) = sequences_of(pair_sequences([sample], VOCABULARY, TEXT_SPEECH, RATES))
    assert (forward, backward) == (speech + text, text + speech)


MAX_TOKENS = 48


def contents(rng: np.random.Generator, count: int, vocab_size: int = TEXT_SIZE) -> list[Any]:
    """Samples with their words; every third has none."""
    drawn = []
    for number in range(count):
        streams = streams_of(rng, int(rng.integers(14, 70)))
        words = words_over(streams, int(rng.integers(2, 9)), rng, vocab_size) if number % 3 else None
        drawn.append((streams, words))
    return drawn


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """60 samples to train on, of which number 4 and 7 have units alone, and 12 to validate on."""
    rng = np.random.default_rng(0)
    folder = str(tmp_path_factory.mktemp("expressive"))
    return write_streams_dataset(folder, {"train": contents(rng, 60), "validation": contents(rng, 12)}, without=(4, 7))


def sources_of(dataset: Dataset, data: LoaderConfig | None = None) -> dict[str, Source]:
    speech = StreamSamples(dataset, "train", data, longest=MAX_TOKENS - 1)
    aligned = StreamSamples(dataset, "train", data, with_words=True)
    found: dict[str, Source] = {SPEECH: StreamSource(speech, VOCABULARY, MAX_TOKENS)}
    for kind in (INTERLEAVED, SPEECH_TEXT, TEXT_SPEECH):
        found[kind] = AlignedSource(kind, aligned, VOCABULARY, 200, SPANS)
    return found


def test_readers_get_what_was_packed(shards: Dataset) -> None:
    packed = {
        sample.key: sample
        for shard in shards.info["shards"]
        for sample in read_shard(shards.uri, shard)
        if sample.split == "train"
    }
    assert sum(sample.pitch is None for sample in packed.values()) == 2
    samples = StreamSamples(shards, "train")
    assert len(samples) == 58, "samples without pitch and style are left out"
    for number, found in enumerate(samples.read(np.arange(58))):
        one = packed[samples.key(number)]
        assert found is not None and found.streams is not None and one.pitch is not None and one.style is not None
        expected = Streams(one.units, one.durations, one.pitch, one.style)
        assert [values.tolist() for values in found.streams] == [values.tolist() for values in expected]
        assert samples.num_speech[number] == len(merge([expected], VOCABULARY, RATES).ids)
        if one.words is not None:
            assert (
                found.words.tolist() == one.words.table.tolist() and found.tokens.tolist() == one.words.tokens.tolist()
            )
            assert found.cuts is not None and one.words.cuts is not None
            assert found.cuts.tolist() == one.words.cuts.tolist()
    with_words = StreamSamples(shards, "train", with_words=True)
    assert len(with_words) == sum(sample.pitch is not None and sample.words is not None for sample in packed.values())


def test_models_of_units_read_the_same_shards(shards: Dataset) -> None:
    assert len(UnitSamples(shards, "train", 1000)) == 60
    aligned = AlignedSamples(shards, "train")
    assert len(aligned) == 40
    assert all(sample is not None and sample.streams is None for sample in aligned.read(np.arange(40)))


def test_pieces_are_the_stream(shards: Dataset) -> None:
    """Long samples come as consecutive pieces, which together are the sample's stream but for pieces of one token."""
    source = sources_of(shards)[SPEECH]
    every = np.arange(len(source.blocks))
    batch, num_skipped = source.sequences(every, every, 0)
    assert num_skipped == 0
    assert list(batch.lengths) == source.lengths.tolist(), "lengths are known before samples are read"
    assert max(batch.lengths) == MAX_TOKENS
    by_key: dict[str, list[int]] = {}
    for number, sequence in enumerate(sequences_of(batch)):
        by_key.setdefault(source.key(number), []).extend(sequence[1:])
    samples = StreamSamples(shards, "train")
    for number, sample in enumerate(samples.read(np.arange(len(samples)))):
        assert sample is not None and sample.streams is not None
        whole = merge([sample.streams], VOCABULARY, RATES).ids.tolist()
        assert by_key[samples.key(number)] in (whole, whole[:-1])


@pytest.mark.parametrize("world_size", [2, 3])
def test_ranks_part_a_step_among_them(shards: Dataset, world_size: int) -> None:
    mixture = MixtureConfig(speech=1, interleaved=1, speech_text=1, text_speech=1)

    def batches(rank: int, size: int) -> MixtureBatches:
        return MixtureBatches(
            sources_of(shards),
            mixture,
            VOCABULARY,
            batch_size=12,
            num_micro_batches=1,
            seed=5,
            rank=rank,
            world_size=size,
        )

    def sequences(of: MixtureBatches, step: int) -> list[list[int]]:
        return [one for micro_batch in of[step].micro_batches for one in sequences_of(micro_batch)]

    whole = batches(0, 1)
    for step in (0, 7, 3):
        parts = [one for rank in range(world_size) for one in sequences(batches(rank, world_size), step)]
        assert sorted(parts) == sorted(sequences(whole, step))


def test_shards_without_pitch_are_refused(tmp_path: Path) -> None:
    from tests.model.conftest import write_dataset

    dataset = write_dataset(str(tmp_path), {"train": [np.arange(9, dtype=np.uint16)] * 4})
    with pytest.raises(TwistError, match="carries no pitch and style"):
        StreamSamples(dataset, "train")
    with pytest.raises(TwistError, match="carries no pitch and style"):
        Vocabulary.of_streams(dataset, 100)


def test_a_damaged_sample_is_told_or_left_out(shards: Dataset, tmp_path: Path) -> None:
    import shutil

    folder = tmp_path / "shards"
    shutil.copytree(shards.uri, folder)
    dataset = open_dataset(str(folder))
    row = dataset.row(0)
    tar = folder / row["shard"]
    content = bytearray(tar.read_bytes())
    content[row["pitch_offset"]] ^= 1
    tar.write_bytes(content)
    with pytest.raises(TwistError, match="the streams of sample"):
        StreamSamples(dataset, "train").read(np.arange(58))
    with pytest.warns(UserWarning, match="left out"):
        found = StreamSamples(dataset, "train", LoaderConfig(damaged="skip")).read(np.arange(58))
    assert sum(sample is None for sample in found) == 1


def make_world(folder: Path) -> World:
    text_lm = write_text_lm(folder / "text-lm", "llama")
    rng = np.random.default_rng(0)
    tokenizer = fingerprint_of_tokenizer(str(text_lm))
    write_streams_dataset(
        str(folder / "shards"),
        {"train": contents(rng, 40, ROWS), "validation": contents(rng, 12, ROWS)},
        vocab_size=ROWS,
        tokenizer=tokenizer,
    )
    text = {"train": [rng.integers(0, 40, 30) for _ in range(40)], "validation": [rng.integers(0, 40, 30)] * 8}
    write_text_dataset(str(folder / "text"), text, vocab_size=ROWS, tokenizer=tokenizer)
    return World(str(text_lm), str(folder / "shards"), str(folder / "text"))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def trained(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    checkpoints = tmp_path_factory.mktemp("trained")
    train(config_of(world, expressive=True), world.shards, str(checkpoints), text=world.text)
    return checkpoints


def test_resumed_is_uninterrupted(world: World, trained: Path, tmp_path: Path) -> None:
    train(config_of(world, expressive=True, num_steps=4), world.shards, str(tmp_path), text=world.text)
    train(config_of(world, expressive=True), world.shards, str(tmp_path), text=world.text)
    resumed, whole = weights_of(tmp_path, 8), weights_of(trained, 8)
    assert all(torch.equal(resumed[name], whole[name]) for name in whole)


def test_a_run_on_units_does_not_go_on_with_streams(world: World, trained: Path) -> None:
    with pytest.raises(TwistError, match="expressive"):
        train(config_of(world, num_steps=12), world.shards, str(trained), text=world.text)


def test_pitch_and_style_are_learned(world: World, trained: Path, tmp_path: Path) -> None:
    state = json.loads((trained / "00000008/trainer_state.json").read_text())
    assert STREAM_BASELINE in state["progress"]["unigram"]["corpora"]
    config = config_of(world, expressive=True, num_steps=60, validate_every=60)
    result = train(config, world.shards, str(tmp_path), text=world.text)
    assert tuple(result.initial.corpora) == KINDS and result.best is not None
    for kind in KINDS:
        assert result.best.corpora[kind].perplexity < 0.8 * result.initial.corpora[kind].perplexity, kind


def test_a_checkpoint_names_its_pitch_and_style(trained: Path) -> None:
    folder = trained / "00000008"
    _, vocabulary = load_speech_lm(str(folder))
    assert (vocabulary.num_pitch, vocabulary.num_style) == (6, 4)
    assert (vocabulary.pitch_fingerprint, vocabulary.style_fingerprint) == ("pitch-1", "style-1")
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder)
    assert len(tokenizer) == len(model.get_input_embeddings().weight) == vocabulary.vocab_size
    names = ["[Hu19]", "[Pi0]", "[Pi5]", "[St0]", "[St3]"]
    assert tokenizer.convert_tokens_to_ids(names) == [ROWS + 21, *(ROWS + n for n in (22, 27, 28, 31))]


def test_speech_alone_can_be_expressive(world: World, tmp_path: Path) -> None:
    config = config_of(world, expressive=True, mixture=MixtureConfig(speech=1), spans=None, num_steps=2)
    result = train(config, world.shards, str(tmp_path))
    assert tuple(result.initial.corpora) == ("speech",)


def test_expressive_needs_speech(world: World) -> None:
    for mixture in (None, MixtureConfig(text=1)):
        with pytest.raises(TwistError, match="mixture with speech"):
            config_of(world, expressive=True, mixture=mixture, spans=None)
