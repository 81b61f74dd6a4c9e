"""Words in samples: they tile the units, and text and units come back whole; whatever the words and their times are."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer
from transformers import AutoTokenizer, ByT5Tokenizer

from model.encoder.config import EncoderConfig
from model.lm.samples import AlignedSamples
from model.lm.text_tokenizer import TextTokenizer, tokens_of_words
from pipeline import shards
from pipeline.corpora.manifest import make_manifest
from pipeline.corpora.source import CorpusConfig
from pipeline.errors import TwistError
from pipeline.files import parquet
from pipeline.inspection.describe import describe_run
from pipeline.inspection.text import as_text
from pipeline.inspection.verify import verify_stage
from pipeline.inspection.verify_shards import verify_shards
from pipeline.language.config import LanguageConfig
from pipeline.language.filter import filter_languages
from pipeline.packing import write
from pipeline.packing.config import PackConfig, SplitConfig
from pipeline.packing.pack import pack
from pipeline.packing.words import tile, times_in_sample, words_of_segments
from pipeline.records import WORDS_SCHEMA
from pipeline.segments.config import SegmentConfig
from pipeline.segments.segment import make_segments
from pipeline.shards import Sample, Words, open_dataset, read_shard, write_index, write_shard
from pipeline.units.codebook_fit import fit_codebook
from pipeline.units.config import CodebookConfig
from pipeline.units.tokenize import tokenize
from pipeline.words.align import align_words
from pipeline.words.config import WordsConfig
from pipeline.work.cluster import ClusterConfig
from tests.progress import silently
from tests.text_models import TEXT, write_tokenizer

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

RATE_HZ = 16_000
FRAME_RATE_HZ = 25.0
CLUSTER = ClusterConfig()
PACK = PackConfig(split=SplitConfig(validation=0.2, test=0), units_per_shard=300)


@pytest.fixture(scope="module")
def byte_tokenizer(tmp_path_factory: pytest.TempPathFactory) -> TextTokenizer:
    return TextTokenizer(str(write_tokenizer(tmp_path_factory.mktemp("bytes"))))


def check(words: Words, units: NDArray[np.uint16], durations: NDArray[np.uint16], text: str) -> None:
    """What must hold of every sample with words."""
    num_tokens, first, end = words.table.T.astype(np.int64)
    assert words.text == text, "the words' own texts are not the sample's text"
    assert len(words.timed) == len(words.table)
    assert num_tokens.sum() == len(words.tokens)
    assert (num_tokens > 0).all()
    assert first[0] == 0
    assert end[-1] == len(units), "the last word does not end with the sample"
    assert (end > first).all(), "a word has no unit"
    assert np.isin(end[:-1] - first[1:], [0, 1]).all(), "words do not tile the units"
    joined = np.concatenate([units[start:stop] for start, stop in zip(first, end, strict=True)])
    assert joined[np.flatnonzero(np.concatenate([[True], joined[1:] != joined[:-1]]))].tolist() == units.tolist()
    times = np.array([time for _, *of_word in words.timed for time in of_word])
    assert (np.diff(times) >= 0).all(), "times do not rise"
    assert times[0] >= 0
    assert times[-1] <= durations.sum() / FRAME_RATE_HZ + 1e-6


@st.composite
def spoken(draw: st.DrawFn) -> tuple[list[tuple[str, float, float]], NDArray[np.int64], NDArray[np.uint16]]:
    """Words with rising times, tokens of each, and durations of the units beneath, however they lie to each other."""
    durations = np.array(draw(st.lists(st.integers(1, 12), min_size=1, max_size=30)), np.uint16)
    length_s = int(durations.sum()) / FRAME_RATE_HZ
    num_words = draw(st.integers(1, 12))
    places = draw(st.lists(st.floats(0, 1), min_size=2 * num_words, max_size=2 * num_words))
    times = np.sort(np.array(places)) * length_s
    timed = [(f"w{n}", float(times[2 * n]), float(times[2 * n + 1])) for n in range(num_words)]
    counts = draw(st.lists(st.integers(0, 3), min_size=num_words, max_size=num_words))
    return timed, np.array(counts, np.int64), durations


@given(spoken())
def test_words_tile_the_units(case: tuple[Any, ...]) -> None:
    timed, counts, durations = case
    units = (np.arange(len(durations)) % 7).astype(np.uint16)
    words = tile(timed, np.arange(counts.sum(), dtype=np.uint32), counts, durations, FRAME_RATE_HZ)
    assert (words is None) == (counts.sum() == 0)
    if words is not None:
        check(words, units, durations, " ".join(word for word, _, _ in timed))


def test_a_sample_is_cut_at_the_middle_of_pauses() -> None:
    # Frames 0 0 0 1 1 2 3 3 3 3; cuts at 0.10 s (frame 2.5, so 2) and 0.24 s (frame 6).
    timed = [("one", 0.0, 0.08), ("two", 0.12, 0.2), ("three", 0.28, 0.4)]
    durations = np.array([3, 2, 1, 4], np.uint16)
    words = tile(timed, np.arange(6, dtype=np.uint32), np.array([1, 2, 3]), durations, FRAME_RATE_HZ)
    assert words is not None
    assert words.table.tolist() == [[1, 0, 1], [2, 0, 3], [3, 3, 4]], "frame 2 divides the first unit, which both have"


def test_words_without_a_frame_or_a_token_join_their_neighbour() -> None:
    durations = np.ones(10, np.uint16)
    tokens = np.arange(4, dtype=np.uint32)
    timed = [("a", 0.0, 0.1), ("b", 0.19, 0.2), ("c", 0.2, 0.21), ("d", 0.3, 0.4)]
    words = tile([*timed[:2], ("c", 0.2, 0.2), timed[3]], tokens, np.ones(4, np.int64), durations, 10.0)
    assert words is not None
    assert [word for word, _, _ in words.timed] == ["a", "b", "c d"], "c has no frame of its own"
    words = tile(timed, tokens[:3], np.array([1, 1, 1, 0]), np.ones(100, np.uint16), 250.0)
    assert words is not None
    assert [word for word, _, _ in words.timed] == ["a", "b", "c d"], "d has no token"


def test_times_go_on_over_joins_in_frames() -> None:
    one = [{"word": "a", "start_s": 0.1, "end_s": 1.03}]
    two = [{"word": "b", "start_s": 0.0, "end_s": 0.5}]
    # The first segment lasts 1.03 s, of which 25 frames were made.
    assert times_in_sample([one, two], [25, 20], FRAME_RATE_HZ) == [("a", 0.1, 1.0), ("b", 1.0, 1.5)]
    assert times_in_sample([one, None], [25, 20], FRAME_RATE_HZ) is None


@pytest.mark.parametrize("kind", ["bytes", "word_starts"])
def test_tokens_of_words_decode_to_the_text(tmp_path: Path, kind: Any) -> None:
    folder = str(write_tokenizer(tmp_path, kind))
    tokenizer, plain = TextTokenizer(folder), AutoTokenizer.from_pretrained(folder)
    sentences = [text.split() for text in (*TEXT, "the", "a  b")]
    sentences.append(["on the", "other", "side"])
    for words, (tokens, counts) in zip(sentences, tokenizer.encode_words(sentences), strict=True):
        assert plain.decode(tokens) == " ".join(words)
        assert tokens.tolist() == plain(" ".join(words), add_special_tokens=False)["input_ids"]
        assert len(counts) == len(words)
        assert counts.sum() == len(tokens)
        for place, end in enumerate(np.cumsum(counts).tolist(), start=1):
            assert plain.decode(tokens[:end]) == " ".join(words[:place]), "a token belongs to another word"


@pytest.mark.parametrize("kind", ["bytes", "word_starts"])
def test_texts_are_tokenized_as_by_transformers_without_special_tokens(tmp_path: Path, kind: Any) -> None:
    folder = str(write_tokenizer(tmp_path, kind))
    tokenizer, plain = TextTokenizer(folder), AutoTokenizer.from_pretrained(folder)
    texts = [*TEXT, "", " a  b ", "x" * 2000, "tab\tand\nline"]
    for text, tokens in zip(texts, tokenizer.encode(texts), strict=True):
        assert tokens.tolist() == plain(text, add_special_tokens=False)["input_ids"]
    (marked,) = tokenizer.encode(["the end</s> <s> of it"])
    assert not set(marked.tolist()) & set(plain.convert_tokens_to_ids(["<s>", "</s>"])), "a text ended a document"
    assert tokenizer.encode([]) == []


def test_a_tokenizer_that_cuts_or_pads_does_neither_here(tmp_path: Path) -> None:
    folder = write_tokenizer(tmp_path)
    whole = TextTokenizer(str(folder)).encode(TEXT)
    rust = Tokenizer.from_file(str(folder / "tokenizer.json"))
    rust.enable_truncation(4)
    rust.enable_padding(length=100)
    rust.save(str(folder / "tokenizer.json"))
    assert [tokens.tolist() for tokens in TextTokenizer(str(folder)).encode(TEXT)] == [
        tokens.tolist() for tokens in whole
    ]


def test_a_tokenizer_without_offsets_goes_word_by_word(tmp_path: Path) -> None:
    ByT5Tokenizer().save_pretrained(str(tmp_path))
    tokenizer = TextTokenizer(str(tmp_path))
    ((tokens, counts),) = tokenizer.encode_words([["ab", "c"]])
    assert counts.tolist() == [2, 2]
    assert tokens.tolist() == tokenizer.encode(["ab c"])[0].tolist()


@given(words=st.lists(st.text("abé 日😀'-", min_size=1).filter(str.strip), min_size=1, max_size=8))
def test_any_words_come_back_from_their_tokens(words: list[str], byte_tokenizer: TextTokenizer) -> None:
    ((tokens, counts),) = byte_tokenizer.encode_words([words])
    assert byte_tokenizer._tokenizer.decode(tokens) == " ".join(words)
    assert len(counts) == len(words)
    assert counts.sum() == len(tokens)
    ends = np.cumsum(counts).tolist()
    for place, end in enumerate(ends, start=1):
        assert byte_tokenizer._tokenizer.decode(tokens[:end]) == " ".join(words[:place])


def test_a_token_over_two_words_is_told() -> None:
    assert tokens_of_words(["ab", "cd"], [(0, 2), (2, 5)]) is not None, "a blank belongs to the word behind it"
    assert tokens_of_words(["ab", "cd"], [(0, 2), (3, 5)]) is not None
    assert tokens_of_words(["ab", "cd"], [(0, 5)]) is None
    assert tokens_of_words(["ab", "cd"], [(0, 3), (3, 5)]) is None, "a blank at the end of a token"
    counts = tokens_of_words(["é", "b"], [(0, 1), (0, 1), (1, 3)])
    assert counts is not None
    assert counts.tolist() == [2, 1]


def test_words_are_tokenized_one_by_one_where_a_token_reaches_over_two(tmp_path: Path) -> None:
    tokenizer = TextTokenizer(str(write_tokenizer(tmp_path, rows=400)))
    tokens, counts = tokenizer._word_by_word(["the", "quick"])
    assert tokens.tolist() == [*tokenizer.encode(["the"])[0], *tokenizer.encode([" quick"])[0]]
    assert counts.sum() == len(tokens)
    assert tokenizer.vocab_size == 400


def test_a_folder_without_a_tokenizer_says_so(tmp_path: Path) -> None:
    with pytest.raises(TwistError, match=r"holds no tokenizer; text\.tokenizer must name the text LM's folder"):
        TextTokenizer(str(tmp_path))
    with pytest.raises(TwistError, match=r"nowhere does not exist; text\.tokenizer must"):
        TextTokenizer(str(tmp_path / "nowhere"))
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(TwistError, match="holds no tokenizer that transformers can read"):
        TextTokenizer(str(tmp_path))


# --- the stage


@pytest.fixture(scope="module")
def aligned_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 8 recordings of 8 s in segments of 4 s, up to units, with the words of all but the last recording."""
    from pipeline.work import cluster, dataflow
    from tests.conftest import map_here, run_here

    folder = tmp_path_factory.mktemp("aligned")
    audio, run = folder / "sounds", str(folder / "run")
    audio.mkdir()
    generator = np.random.default_rng(0)
    lines = []
    for number in range(8):
        pitches_hz = np.repeat(generator.uniform(100, 3000, 64), RATE_HZ // 8)
        wav = 0.3 * np.sin(2 * np.pi * np.cumsum(pitches_hz) / RATE_HZ) + 0.003 * generator.standard_normal(8 * RATE_HZ)
        soundfile.write(audio / f"{number}.wav", wav, RATE_HZ)
        words = TEXT[number % 3].split()
        step_s = 8 / len(words)
        timed = [[f" {word}", place * step_s + 0.01, (place + 1) * step_s - 0.02] for place, word in enumerate(words)]
        # No word over the edge at 4 s.
        timed = [word for word in timed if not word[1] < 4 < word[2]]
        if number < 7:
            lines.append({"file_name": f"{number}.wav", "aligned_text": timed})
    (audio / "aligned_text.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    rows = [{"path": f"{number}.wav", "speaker": f"s{number}"} for number in range(8)]
    (audio / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dataflow, "run_chunks", run_here)
        patch.setattr(cluster, "map_tasks", map_here)
        make_manifest(run, [CorpusConfig(str(audio))], silently)
        filter_languages(run, LanguageConfig(unknown="keep"), CLUSTER, silently)
        config = SegmentConfig(min_s=2.0, max_s=4.0, detect_speech="none", work_unit_minutes=0.3)
        make_segments(run, config, CLUSTER, silently)
        align_words(run, WordsConfig(), CLUSTER, silently)
        fit_codebook(run, CodebookConfig(num_units=20, num_iterations=5), EncoderConfig(), CLUSTER, silently)
        tokenize(run, EncoderConfig(), CLUSTER, silently)
    write_tokenizer(folder / "lm", rows=400)
    return folder


@pytest.fixture
def run(aligned_run: Path, tmp_path: Path, without_ray: None) -> Path:  # noqa: ARG001
    return Path(shutil.copytree(aligned_run / "run", tmp_path / "run"))


@pytest.fixture
def tokenizer(aligned_run: Path) -> str:
    return str(aligned_run / "lm")


def packed(run: Path, tokenizer: str | None, config: PackConfig = PACK) -> list[Sample]:
    shutil.rmtree(run / "shards", ignore_errors=True)
    pack(str(run), config, silently, None, tokenizer)
    dataset = open_dataset(str(run / "shards"))
    return [sample for shard in dataset.info["shards"] for sample in read_shard(dataset.uri, shard)]


def words_in_run(run: Path) -> dict[str, list[dict[str, Any]] | None]:
    rows = [row for uri in sorted((run / "words").glob("part-*")) for row in parquet.read(str(uri)).to_pylist()]
    return {row["segment_id"]: row["words"] for row in rows}


def content_of(run: Path) -> dict[str, bytes]:
    files = [*run.glob("shards/*/*.tar"), run / "shards/manifest.parquet", run / "shards/dataset.json"]
    return {str(path.relative_to(run)): path.read_bytes() for path in files}


@pytest.mark.parametrize("sample_s", [0.0, 20.0])
def test_samples_carry_the_words_of_their_segments(run: Path, tokenizer: str, sample_s: float) -> None:
    samples = packed(run, tokenizer, replace(PACK, sample_s=sample_s))
    words_of = words_in_run(run)
    plain = AutoTokenizer.from_pretrained(tokenizer)
    assert sum(sample.words is None for sample in samples) == (1 if sample_s else 2)
    for sample in samples:
        ids = sample.segments or (sample.segment_id,)
        told = [words_of[id] for id in ids]
        if sample.words is None:
            assert None in told
            continue
        text = " ".join(word["word"] for words in told for word in words or ())
        check(sample.words, sample.units, sample.durations, text)
        assert plain.decode(sample.words.tokens) == text
        # The pieces of a text are those of the words, in whose stretches they are heard.
        ends = np.cumsum(sample.words.table[:, 0])
        for (word, start_s, end_s), end, row in zip(sample.words.timed, ends, sample.words.table, strict=True):
            assert plain.decode(sample.words.tokens[end - row[0] : end]).strip() == word
            unit_ends = np.cumsum(sample.durations)
            first_s, last_s = (unit_ends - sample.durations)[row[1]] / 25, unit_ends[row[2] - 1] / 25
            assert first_s <= (start_s + end_s) / 2 <= last_s, "a word is heard elsewhere than in its units"


def test_dataset_tells_hours_with_words_by_split(run: Path, tokenizer: str) -> None:
    samples = [sample for sample in packed(run, tokenizer) if sample.words is not None]
    told = open_dataset(str(run / "shards")).info["text"]
    assert told["vocab_size"] == 400
    assert told["tokenizer"] == TextTokenizer(tokenizer).fingerprint
    for total in told["totals"]:
        of_split = [sample for sample in samples if sample.split == total["split"]]
        assert total["num_samples"] == len(of_split)
        assert total["hours"] == pytest.approx(sum(sample.duration_s for sample in of_split) / 3600, abs=1e-6)
        assert total["num_words"] == sum(len(sample.words.table) for sample in of_split if sample.words)
        assert total["num_text_tokens"] == sum(len(sample.words.tokens) for sample in of_split if sample.words)


def test_the_same_words_give_the_same_bytes(run: Path, tokenizer: str) -> None:
    packed(run, tokenizer)
    first = content_of(run)
    packed(run, tokenizer)
    assert content_of(run) == first


def test_without_a_tokenizer_shards_are_as_they_were_before_there_were_words(run: Path) -> None:
    packed(run, None)
    with_words = content_of(run)
    shutil.rmtree(run / "words")
    packed(run, None)
    assert content_of(run) == with_words
    assert "text" not in open_dataset(str(run / "shards")).info
    assert not open_dataset(str(run / "shards")).has_words


def test_units_are_the_same_with_and_without_words(run: Path, tokenizer: str) -> None:
    with_words = {sample.key: (sample.units.tolist(), sample.split) for sample in packed(run, tokenizer)}
    assert with_words == {sample.key: (sample.units.tolist(), sample.split) for sample in packed(run, None)}


def test_packing_with_another_tokenizer_or_other_words_is_refused(run: Path, tokenizer: str, tmp_path: Path) -> None:
    packed(run, tokenizer)
    other = str(write_tokenizer(tmp_path / "other", vocab_size=300))
    with pytest.raises(TwistError, match="its input tokenizer has changed since"):
        pack(str(run), PACK, silently, None, other)
    (run / "words/DONE").write_text("another")
    with pytest.raises(TwistError, match="its input words has changed since"):
        pack(str(run), PACK, silently, None, tokenizer)


def test_readers_get_what_was_packed(run: Path, tokenizer: str) -> None:
    samples = {sample.key: sample for sample in packed(run, tokenizer)}
    dataset = open_dataset(str(run / "shards"))
    for split in ("train", "validation"):
        aligned = AlignedSamples(dataset, split)
        for index in range(len(aligned)):
            one, sample = aligned[index], samples[aligned.key(index)]
            assert sample.words is not None
            assert one.units.tolist() == sample.units.tolist()
            assert one.tokens.tolist() == sample.words.tokens.tolist()
            assert one.words.tolist() == sample.words.table.tolist()


def test_shards_with_words_are_verified_and_described(run: Path, tokenizer: str) -> None:
    packed(run, tokenizer)
    assert list(verify_stage(str(run), "shards")) == []
    assert list(verify_stage(str(run), "shards", checksums=False)) == []
    told = as_text({"path": str(run), "kind": "run", **describe_run(str(run))})
    assert "samples with words" in told
    assert "400 kinds of tokens, tokenizer" in told


def sealed(run: Path, edit: Callable[[Words], Words]) -> list[str]:
    """Writes shards whose first sample with words has other ones, with fitting checksums; returns what is wrong."""
    dataset = open_dataset(str(run / "shards"))
    descriptions, rows = [], []
    is_changed = False
    for shard in dataset.info["shards"]:
        samples = list(read_shard(dataset.uri, shard))
        for place, sample in enumerate(samples):
            if sample.words is not None and not is_changed:
                samples[place] = replace(sample, words=edit(sample.words))
                is_changed = True
        description, shard_rows = write_shard(dataset.uri, shard["path"], samples)
        descriptions.append(description)
        rows += shard_rows
    info = {name: value for name, value in dataset.info.items() if name not in ("format_version", "fingerprint")}
    write_index(dataset.uri, {**info, "shards": descriptions}, rows)
    return [violation for violation in verify_shards(dataset.uri) if "dataset.json" not in violation]


def with_table(words: Words, place: tuple[int, int], by: int) -> Words:
    table = words.table.astype(np.int64)
    table[place] += by
    return replace(words, table=table.astype(np.uint32))


@pytest.mark.parametrize(
    ("edit", "message"),
    {
        "cut moved": (lambda w: with_table(w, (1, 1), 2), "words do not tile its"),
        "start moved": (lambda w: with_table(w, (0, 1), 1), "words do not tile its"),
        "end moved": (lambda w: with_table(w, (-1, 2), 1), "words do not tile its"),
        "token too many": (lambda w: with_table(w, (0, 0), 1), "its words have .* tokens, its text"),
        "no token": (lambda w: with_table(w, (0, 0), -int(w.table[0, 0])), "its words have .* tokens"),
        "token of none": (lambda w: replace(w, tokens=w.tokens + np.uint32(400)), "outside the vocabulary of 400"),
        "times fall": (lambda w: replace(w, timed=w.timed[1:] + w.timed[:1]), "times of its words do not rise"),
        "a word less": (lambda w: replace(w, timed=w.timed[1:]), "words are uint32"),
        "other numbers": (lambda w: replace(w, table=w.table.astype(np.int64)), "words are int64"),
    }.values(),
)
def test_words_that_do_not_fit_their_units_are_found(run: Path, tokenizer: str, edit: Any, message: str) -> None:
    packed(run, tokenizer)
    assert sealed(run, lambda words: words) == []
    assert any(re.search(message, violation) for violation in sealed(run, edit))


def test_a_killed_packing_goes_on_to_the_same_bytes(run: Path, tokenizer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    packed(run, tokenizer)
    whole = content_of(run)
    shutil.rmtree(run / "shards")
    for where in (write.Deal, write.Fill):
        with monkeypatch.context() as patch:
            patch.setattr(where, "__call__", _dies)
            with pytest.raises(KeyboardInterrupt):
                pack(str(run), PACK, silently, None, tokenizer)
    pack(str(run), PACK, silently, None, tokenizer)
    assert content_of(run) == whole


def _dies(*_: object) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("part", ["json", "text", "words"])
def test_damage_to_a_member_of_words_is_found(run: Path, tokenizer: str, part: str) -> None:
    packed(run, tokenizer)
    dataset = open_dataset(str(run / "shards"))
    row = next(row for row in dataset.manifest.to_pylist() if row["num_words"])
    path = run / "shards" / row["shard"]
    content = bytearray(path.read_bytes())
    place = content.index(b'"speaker": "s') + 12 if part == "json" else row[f"{part}_offset"]
    content[place] ^= 1
    path.write_bytes(content)
    assert any("does not have the checksum" in violation for violation in verify_shards(dataset.uri))
    # With a tar's checksum that fits, those of the sample do not.
    info = json.loads((run / "shards/dataset.json").read_text())
    shard = next(shard for shard in info["shards"] if shard["path"] == row["shard"])
    shard["sha256"] = hashlib.sha256(content).hexdigest()
    info["fingerprint"] = shards.dataset_fingerprint(info)
    (run / "shards/dataset.json").write_text(json.dumps(info))
    found = [violation for violation in verify_shards(dataset.uri) if "are not those of" in violation]
    assert any("sample_crc32" in violation for violation in found)
    assert any("words_crc32" in violation for violation in found) == (part != "json")


def words_part(folder: Path, words: list[tuple[str, float, float]] | None, length_s: float = 4.0) -> str:
    row = {
        "segment_id": "a#0",
        "recording_id": "a",
        "start_s": 10.0,
        "end_s": 10.0 + length_s,
        "words": words and [dict(zip(("word", "start_s", "end_s"), word, strict=True)) for word in words],
    }
    uri = str(folder / "part-a.parquet")
    parquet.write(uri, pa.Table.from_pylist([row], schema=WORDS_SCHEMA))
    return uri


def segment(start_s: float = 10.0, end_s: float = 14.0) -> pa.Table:
    return pa.table({"segment_id": ["a#0"], "start_s": [start_s], "end_s": [end_s]})


@pytest.mark.parametrize(
    ("words", "what"),
    {
        "overlap": ([("a", 0.1, 1.0), ("b", 0.8, 2.0)], "'b' from 0.800 to 2.000 s"),
        "behind the end": ([("a", 0.1, 1.0), ("b", 3.0, 4.5)], "'b' from 3.000 to 4.500 s"),
        "before the start": ([("a", -0.1, 1.0)], "'a' from -0.100 to 1.000 s"),
        "no length": ([("a", 0.5, 0.5)], "'a' from 0.500 to 0.500 s"),
        "backwards": ([("a", 2.0, 3.0), ("b", 1.0, 1.5)], "'b' from 1.000 to 1.500 s"),
        "no word": ([(" ", 2.0, 3.0)], "' ' from 2.000"),
        "no time": ([("a", float("nan"), 3.0)], "'a' from nan"),
    }.values(),
    ids=str,
)
def test_words_whose_times_cannot_be_are_refused(tmp_path: Path, words: Any, what: str) -> None:
    with pytest.raises(TwistError, match=rf"part-a\.parquet has {what}.* in a#0, .*run `twist align` again"):
        words_of_segments(segment(), words_part(tmp_path, words))


def test_words_follow_what_became_units(tmp_path: Path) -> None:
    uri = words_part(tmp_path, [("a", 1.0, 1.5), ("b", 2.0, 2.5)])
    assert words_of_segments(segment(), uri).to_pylist() == [
        [{"word": "a", "start_s": 1.0, "end_s": 1.5}, {"word": "b", "start_s": 2.0, "end_s": 2.5}]
    ]
    # The first half second was damaged: words are that much earlier in the units.
    (late,) = words_of_segments(segment(start_s=10.5), uri).to_pylist()
    assert [word["start_s"] for word in late] == [0.5, 1.5]
    assert words_of_segments(segment(start_s=11.2), uri).to_pylist() == [None], "a word was lost with its audio"
    assert words_of_segments(segment(end_s=12.2), uri).to_pylist() == [None]
    assert words_of_segments(segment(), words_part(tmp_path, None)).to_pylist() == [None]


def test_a_part_of_words_that_is_missing_or_of_other_segments_is_told(tmp_path: Path) -> None:
    with pytest.raises(TwistError, match=r"part-a\.parquet is missing; delete .* and run `twist align` again"):
        words_of_segments(segment(), str(tmp_path / "part-a.parquet"))
    other = segment().set_column(0, "segment_id", pa.array(["b#0"]))
    with pytest.raises(TwistError, match="says nothing of b#0"):
        words_of_segments(other, words_part(tmp_path, None))
