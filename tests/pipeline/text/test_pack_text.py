"""Text shards: every document is there once, as its tokens, or dropped with a reason; however the work is cut."""

from __future__ import annotations

import gzip
import hashlib
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import webdataset
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer

from model.lm.samples import TextSamples
from pipeline.errors import TwistError
from pipeline.files import parquet, storage
from pipeline.inspection.describe import describe_run, kind_of
from pipeline.inspection.text import as_text
from pipeline.inspection.verify import verify_folder, verify_stage
from pipeline.inspection.verify_text import verify_text
from pipeline.stage import read_facts
from pipeline.text import pack_text as pack_text_module
from pipeline.text.config import TextConfig, TextCorpus
from pipeline.text.documents import NoText, read_documents
from pipeline.text.files import Piece, find_files, pieces
from pipeline.text.pack_text import pack_text
from pipeline.text_shards import open_text, text_fingerprint
from tests.progress import silently
from tests.text_models import write_tokenizer

if TYPE_CHECKING:
    from collections.abc import Callable

WORDS = "the quick brown fox jumps over a lazy dog by the sea shore and sells shells on the river"


def sentence(number: int) -> str:
    generator = np.random.default_rng(number)
    return " ".join([f"{number}:", *generator.choice(WORDS.split(), int(generator.integers(3, 30)))])


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_tokenizer(tmp_path_factory.mktemp("lm"), rows=400))


@pytest.fixture
def corpora(tmp_path: Path) -> tuple[TextCorpus, ...]:
    """300 documents in all formats, and 4 without text."""
    wiki, books, news = (tmp_path / name for name in ("wiki", "books", "news"))
    for folder in (wiki / "en", books, news):
        folder.mkdir(parents=True)
    pq.write_table(pa.table({"body": [sentence(n) for n in range(150)]}), wiki / "en/0.parquet", row_group_size=20)
    pq.write_table(pa.table({"body": [*(sentence(n) for n in range(150, 160)), None, "  "]}), wiki / "en/1.parquet")
    lines = [json.dumps({"text": sentence(n), "id": n}) for n in range(160, 220)]
    (news / "a.jsonl").write_text("\n".join([*lines, "{half", json.dumps({"id": 7})]) + "\n")
    with gzip.open(news / "b.jsonl.gz", "wt") as file:
        file.write("\n".join(json.dumps({"text": sentence(n)}) for n in range(220, 260)))
    with pa.CompressedOutputStream(str(news / "c.jsonl.zst"), "zstd") as stream:
        stream.write("\n".join(json.dumps({"text": sentence(n)}) for n in range(260, 280)).encode())
    (books / "paragraphs.txt").write_text("\n\n".join(sentence(n) for n in range(280, 300)) + "\n \n\n")
    (books / "README.md").write_text("no text of the corpus")
    return (
        TextCorpus(str(wiki), column="body"),
        TextCorpus(str(news / "*")),
        TextCorpus(str(books), document="paragraph"),
    )


@pytest.fixture
def config(tokenizer: str, corpora: tuple[TextCorpus, ...]) -> TextConfig:
    return TextConfig(tokenizer, corpora, validation=0.1, tokens_per_shard=1000)


def documents_in(run: Path) -> dict[str, tuple[dict[str, Any], list[int], str]]:
    """By key: what the JSON says, tokens, and split; read by webdataset."""
    found = {}
    for path in sorted(run.glob("text/*/*.tar")):
        for sample in webdataset.WebDataset(str(path), shardshuffle=False).decode():
            assert sample["__key__"] not in found, "a document came twice"
            found[sample["__key__"]] = (sample["json"], sample["tokens.npy"].tolist(), path.parent.name)
    return found


def content_of(run: Path) -> dict[str, bytes]:
    files = [*run.glob("text/*/*.tar"), *(run / f"text/{name}" for name in ("manifest.parquet", "dataset.json"))]
    return {str(path.relative_to(run)): path.read_bytes() for path in sorted(files)}


def test_every_document_is_there_once_as_its_tokens(tmp_path: Path, config: TextConfig, without_ray: None) -> None:  # noqa: ARG001
    run = tmp_path / "run"
    pack_text(str(run), config, silently)
    plain = AutoTokenizer.from_pretrained(config.tokenizer)
    documents = documents_in(run)
    by_number = {}
    for description, tokens, _ in documents.values():
        text = plain.decode(tokens)
        by_number[int(text.partition(":")[0])] = (description, text)
    assert sorted(by_number) == list(range(300))
    assert all(text == sentence(number) for number, (_, text) in by_number.items())
    assert by_number[45][0] == {"corpus": "wiki", "source": "en/0.parquet", "row": 45}
    assert by_number[225][0] == {"corpus": "news", "source": "b.jsonl.gz", "row": 5}
    assert by_number[283][0] == {"corpus": "books", "source": "paragraphs.txt", "row": 3}


def test_kept_and_dropped_are_what_came_in(tmp_path: Path, config: TextConfig, without_ray: None) -> None:  # noqa: ARG001
    run = tmp_path / "run"
    pack_text(str(run), config, silently)
    counts = read_facts(str(run), "text")["counts"]
    dropped = parquet.read(str(run / "text/dropped.parquet")).to_pylist()
    assert (counts["input"]["items"], counts["kept"]["items"]) == (304, 300)
    assert {row["id"]: row["reason"] for row in dropped} == {
        "wiki/en/1.parquet#10": "empty",
        "wiki/en/1.parquet#11": "empty",
        "news/a.jsonl#60": "unreadable",
        "news/a.jsonl#61": "no_text",
    }
    (half,) = [row["detail"] for row in dropped if row["reason"] == "unreadable"]
    assert half.startswith(f"line 61 of {tmp_path}/news/a.jsonl is no JSON")


def test_the_index_says_what_is_in_the_tars(tmp_path: Path, config: TextConfig, without_ray: None) -> None:  # noqa: ARG001
    run = tmp_path / "run"
    pack_text(str(run), config, silently)
    dataset, documents = open_text(str(run / "text")), documents_in(run)
    rows = dataset.manifest.to_pylist()
    assert [row["key"] for row in rows] == list(documents) or {row["key"] for row in rows} == set(documents)
    for row in rows:
        content = (run / "text" / row["shard"]).read_bytes()
        tokens = np.frombuffer(content, "<u2", row["num_tokens"], row["tokens_offset"]).tolist()
        description, expected, split = documents[row["key"]]
        assert (tokens, row["split"], row["corpus"]) == (expected, split, description["corpus"])
    assert (dataset.vocab_size, dataset.token_type) == (400, np.uint16)
    for total in dataset.info["totals"]:
        of_group = [row for row in rows if (row["corpus"], row["split"]) == (total["corpus"], total["split"])]
        assert total["num_documents"] == len(of_group)
        assert total["num_tokens"] == sum(row["num_tokens"] for row in of_group)
    assert sum(total["num_documents"] for total in dataset.info["totals"]) == 300
    sizes = [shard["num_tokens"] for shard in dataset.info["shards"] if shard["path"].startswith("train")]
    assert len(sizes) > 3
    assert max(sizes) < 1.2 * min(sizes), "shards are of uneven size"


def test_readers_get_every_token(tmp_path: Path, config: TextConfig, without_ray: None) -> None:  # noqa: ARG001
    run = tmp_path / "run"
    pack_text(str(run), config, silently)
    documents, dataset = documents_in(run), open_text(str(run / "text"))
    for split in ("train", "validation"):
        samples = TextSamples(dataset, split, 4096)
        assert len(samples) == sum(document[2] == split for document in documents.values())
        for index in range(len(samples)):
            assert samples[index].tolist() == documents[samples.key(index)][1]


def test_a_text_is_in_one_split_wherever_it_comes_again(tmp_path: Path, tokenizer: str, without_ray: None) -> None:  # noqa: ARG001
    for name in "ab":
        (tmp_path / f"{name}.txt").write_text("\n".join(sentence(number) for number in range(200)))
    corpora = tuple(TextCorpus(str(tmp_path / f"{name}.txt"), document="line") for name in "ab")
    pack_text(str(tmp_path / "run"), TextConfig(tokenizer, corpora, validation=0.2), silently)
    splits: dict[tuple[int, ...], set[str]] = {}
    for _, tokens, split in documents_in(tmp_path / "run").values():
        splits.setdefault(tuple(tokens), set()).add(split)
    assert len(splits) == 200
    assert {len(of_text) for of_text in splits.values()} == {1}
    assert 20 < sum(of_text == {"validation"} for of_text in splits.values()) < 60


def test_bytes_depend_on_texts_and_seed_alone(
    tmp_path: Path,
    config: TextConfig,
    monkeypatch: pytest.MonkeyPatch,
    without_ray: None,  # noqa: ARG001
) -> None:
    pack_text(str(tmp_path / "one"), config, silently)
    monkeypatch.setattr(pack_text_module, "PIECE_BYTES", 1000)
    monkeypatch.setattr(pack_text_module, "TOKENS_AT_ONCE", 200)
    monkeypatch.setattr(pack_text_module, "TEXTS_AT_ONCE", 3)
    pack_text(str(tmp_path / "two"), config, silently)
    assert content_of(tmp_path / "one") == content_of(tmp_path / "two"), "shards depend on how the work was cut"
    pack_text(str(tmp_path / "three"), replace(config, seed=1), silently)
    order = [open_text(str(tmp_path / name / "text")).manifest["key"].to_pylist() for name in ("one", "three")]
    assert order[0] != order[1]
    assert sorted(order[0]) == sorted(order[1])


def test_a_killed_run_goes_on_to_the_same_bytes(
    tmp_path: Path,
    config: TextConfig,
    monkeypatch: pytest.MonkeyPatch,
    without_ray: None,  # noqa: ARG001
) -> None:
    monkeypatch.setattr(pack_text_module, "PARTITION_BYTES", 5000)
    pack_text(str(tmp_path / "whole"), config, silently)
    run = tmp_path / "run"
    for where in (pack_text_module.Tokenize, pack_text_module.Fill):
        for survives in (1, 2):
            with monkeypatch.context() as patch:
                patch.setattr(where, "__call__", _dies_after(where.__call__, survives))
                with pytest.raises(KeyboardInterrupt):
                    pack_text(str(run), config, silently)
    pack_text(str(run), config, silently)
    assert content_of(run) == content_of(tmp_path / "whole")
    assert not list(run.glob("text/work/*")), "intermediate files are left"


def _dies_after(call: Callable[[Any, Any], None], survives: int) -> Callable[[Any, Any], None]:
    done = []

    def dying(task: Any, item: Any) -> None:
        if len(done) >= survives:
            raise KeyboardInterrupt
        call(task, item)
        done.append(item)

    return dying


def test_other_files_or_another_tokenizer_are_refused(tmp_path: Path, config: TextConfig, without_ray: None) -> None:  # noqa: ARG001
    run = str(tmp_path / "run")
    pack_text(run, config, silently)
    other = str(write_tokenizer(tmp_path / "other", vocab_size=300))
    with pytest.raises(TwistError, match="its input tokenizer has changed since"):
        pack_text(run, replace(config, tokenizer=other), silently)
    moved = shutil.copytree(config.tokenizer, tmp_path / "moved")
    pack_text(run, replace(config, tokenizer=str(moved)), silently)
    (tmp_path / "books/more.txt").write_text("more")
    with pytest.raises(TwistError, match="its input files has changed since"):
        pack_text(run, config, silently)


def test_text_is_packed_from_and_to_s3(
    s3_folder: str,
    tmp_path: Path,
    tokenizer: str,
    without_ray: None,  # noqa: ARG001
) -> None:
    content = "\n".join(sentence(number) for number in range(30))
    storage.write_bytes(f"{s3_folder}/texts/a/x.txt", content.encode())
    storage.write_bytes(f"{s3_folder}/texts/b/y.md", b"none")
    (tmp_path / "a").mkdir()
    (tmp_path / "a/x.txt").write_text(content)
    for run, root in ((f"{s3_folder}/run", f"{s3_folder}/texts/*/*.txt"), (str(tmp_path / "run"), str(tmp_path / "a"))):
        corpora = (TextCorpus(root, name="texts", document="line"),)
        pack_text(run, TextConfig(tokenizer, corpora, validation=0.2), silently)
    there, here = open_text(f"{s3_folder}/run/text"), open_text(str(tmp_path / "run/text"))
    assert sorted(there.manifest["num_tokens"].to_pylist()) == sorted(here.manifest["num_tokens"].to_pylist())
    assert len(TextSamples(there, "train", 64)[0]) > 1
    assert list(verify_stage(f"{s3_folder}/run", "text")) == []


def test_text_shards_are_verified_and_described(tmp_path: Path, config: TextConfig, without_ray: None) -> None:  # noqa: ARG001
    run = str(tmp_path / "run")
    pack_text(run, config, silently)
    assert list(verify_stage(run, "text")) == list(verify_stage(run, "text", checksums=False)) == []
    assert list(verify_folder(str(shutil.copytree(f"{run}/text", tmp_path / "text")), "text")) == []
    told = as_text({"path": run, "kind": "run", **describe_run(run)})
    assert "300 documents" in told
    assert "empty 2" in told
    assert kind_of(f"{run}/text") == "text"


@pytest.mark.parametrize("member", ["json", "tokens"])
def test_any_flipped_bit_is_found(tmp_path: Path, config: TextConfig, member: str, without_ray: None) -> None:  # noqa: ARG001
    run = tmp_path / "run"
    pack_text(str(run), config, silently)
    row = open_text(str(run / "text")).row(5)
    path = run / "text" / row["shard"]
    content = bytearray(path.read_bytes())
    content[row["offset"] + 600 if member == "json" else row["tokens_offset"]] ^= 4
    path.write_bytes(content)
    assert [f"{path} does not have the checksum that dataset.json gives"] == list(verify_stage(str(run), "text"))
    # With a checksum that fits, the sample's own do not.
    info = json.loads((run / "text/dataset.json").read_text())
    shard = next(shard for shard in info["shards"] if shard["path"] == row["shard"])
    shard["sha256"] = hashlib.sha256(content).hexdigest()
    info["fingerprint"] = text_fingerprint(info)
    (run / "text/dataset.json").write_text(json.dumps(info))
    found = [violation for violation in verify_text(str(run / "text")) if row["key"] in violation]
    assert len(found) == 1
    assert "sample_crc32" in found[0]
    assert ("tokens_crc32" in found[0]) == (member == "tokens")


@pytest.mark.parametrize(
    ("change", "message"),
    {
        "a tar is gone": (lambda f: next(f.glob("train/*.tar")).unlink(), r"train-\d+\.tar is missing"),
        "a tar too many": (lambda f: (f / "train/x.tar").write_bytes(b""), "x.tar is none of the shards"),
        "a manifest cut": (lambda f: (f / "manifest.parquet").write_bytes(b"PAR1"), "not a whole Parquet file"),
        "a total": (lambda f: rewrite(f, lambda i: i["totals"][0].update(num_tokens=1)), r"says .*'num_tokens': 1\}"),
        "a vocabulary": (lambda f: rewrite(f, lambda i: i.update(vocab_size=9)), "outside the vocabulary of 9"),
        "a tokenizer": (lambda f: rewrite(f, lambda i: i.update(tokenizer="x")), "fingerprint is not that of the tok"),
        "a type": (lambda f: rewrite(f, lambda i: i.update(token_type="uint32")), "tokens are uint16 .*, not uint32"),
    }.values(),
)
def test_what_is_wrong_with_text_shards_is_told(
    tmp_path: Path,
    config: TextConfig,
    change: Callable[[Path], Any],
    message: str,
    without_ray: None,  # noqa: ARG001
) -> None:
    pack_text(str(tmp_path / "run"), config, silently)
    folder = tmp_path / "run/text"
    change(folder)
    assert any(re.search(message, violation) for violation in verify_text(str(folder)))


def rewrite(folder: Path, edit: Callable[[dict[str, Any]], Any]) -> None:
    info = json.loads((folder / "dataset.json").read_text())
    edit(info)
    (folder / "dataset.json").write_text(json.dumps(info))


# --- what a user gets wrong


def packed(folder: Path, tokenizer: str, **corpus: Any) -> None:
    pack_text(str(folder / "run"), TextConfig(tokenizer, (TextCorpus(**corpus),), validation=0), silently)


def test_a_path_that_matches_nothing_is_told(tmp_path: Path, tokenizer: str) -> None:
    with pytest.raises(TwistError, match=r"text\.corpora: .*/nowhere matches no file; mend `path` of nowhere"):
        packed(tmp_path, tokenizer, path=str(tmp_path / "nowhere"))
    (tmp_path / "a.doc").write_text("a")
    with pytest.raises(TwistError, match=r"holds none of \.txt, \.jsonl, \.ndjson, \.parquet \(or \.gz, \.zst\)"):
        packed(tmp_path, tokenizer, path=str(tmp_path / "a.*"))


@pytest.mark.parametrize("kind", ["parquet", "jsonl"])
def test_a_column_that_is_not_there_is_told_with_the_nearest(tmp_path: Path, tokenizer: str, kind: str) -> None:
    rows = [{"Texts": "a", "id": 1}]
    if kind == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    else:
        (tmp_path / "a.jsonl").write_text(json.dumps(rows[0]))
    with pytest.raises(TwistError, match=rf"a\.{kind} has no .*'text'.*; did you mean 'Texts'\? Set `column`"):
        packed(tmp_path, tokenizer, path=str(tmp_path / f"a.{kind}"))
    with pytest.raises(TwistError, match=r"; it has 'Texts', 'id': set `column` of its corpus"):
        packed(tmp_path, tokenizer, path=str(tmp_path / f"a.{kind}"), column="zzzzzz")


def test_a_column_that_holds_no_text_is_told(tmp_path: Path, tokenizer: str) -> None:
    pq.write_table(pa.table({"text": [1, 2]}), tmp_path / "a.parquet")
    with pytest.raises(TwistError, match="column 'text' holds int64, not text"):
        packed(tmp_path, tokenizer, path=str(tmp_path / "a.parquet"))


def test_text_of_which_none_can_be_read_is_told_with_file_and_line(tmp_path: Path, tokenizer: str) -> None:
    (tmp_path / "a.jsonl").write_text("\n{half\n[1]\n")
    with pytest.raises(TwistError, match=r"no document with text: 2 were left out, .* because line 2 of .*a\.jsonl"):
        packed(tmp_path, tokenizer, path=str(tmp_path / "a.jsonl"))


def test_a_validation_split_without_documents_is_told(tmp_path: Path, tokenizer: str) -> None:
    (tmp_path / "a.txt").write_text("one text")
    config = TextConfig(tokenizer, (TextCorpus(str(tmp_path / "a.txt")),), validation=0.001)
    with pytest.raises(TwistError, match=r"none of the 1 documents falls to validation at text\.validation 0\.001"):
        pack_text(str(tmp_path / "run"), config, silently)


def test_an_unknown_tokenizer_is_told(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one text")
    with pytest.raises(TwistError, match=r"nowhere does not exist; text\.tokenizer must name the text LM's folder"):
        packed(tmp_path, str(tmp_path / "nowhere"), path=str(tmp_path / "a.txt"))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, r"text\.tokenizer is missing"),
        ({"tokenizer": "x", "validation": 1.0}, r"text\.validation is 1\.0"),
        ({"tokenizer": "x", "tokens_per_shard": 0}, r"text\.tokens_per_shard must be positive"),
        ({"tokenizer": "x", "corpora": (TextCorpus("a/b.txt"), TextCorpus("c/b.jsonl"))}, "has b twice"),
    ],
)
def test_settings_that_cannot_be_are_told(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(TwistError, match=message):
        TextConfig(**settings)


def test_a_corpus_needs_a_name_and_a_known_kind_of_document() -> None:
    assert TextCorpus("data/wiki/*.parquet").label == "wiki"
    assert TextCorpus("s3://texts/news.jsonl.zst").label == "news"
    with pytest.raises(TwistError, match="gives the corpus no name"):
        TextCorpus("*.txt")
    with pytest.raises(TwistError, match="it must be file, paragraph or line"):
        TextCorpus("a.txt", document="page")  # type: ignore[arg-type]


# --- files


def read(path: Path, **settings: Any) -> list[tuple[int, str]]:
    (file,) = find_files(TextCorpus(str(path), name="c", **settings))
    return [
        (row, text.reason if isinstance(text, NoText) else text)
        for piece in pieces([file], 40, map)
        for row, text in read_documents(piece)
    ]


def test_plain_text_is_one_document_or_many(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes("\ufeffone\ntwo\n\n \r\nthree é\r\n\n".encode())
    assert read(path) == [(0, "one\ntwo\n\n \r\nthree é")]
    assert read(path, document="paragraph") == [(0, "one\ntwo"), (1, "three é")]
    assert read(path, document="line") == [(0, "one"), (1, "two"), (4, "three é")]
    path.write_bytes(b"\xff\xfe\xfa")
    assert read(path) == [(0, "unreadable")]


def test_rows_of_parquet_keep_their_numbers_in_pieces(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": [f"t{n}" for n in range(10)]}), path, row_group_size=3)
    (file,) = find_files(TextCorpus(str(path)))
    assert len(list(pieces([file], 1, map))) == 4
    assert len(list(pieces([file], 10**9, map))) == 1
    assert read(path) == [(n, f"t{n}") for n in range(10)]


def test_a_file_that_breaks_off_keeps_what_came_before(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl.gz"
    with gzip.open(path, "wt", compresslevel=0) as file:
        file.write("".join(json.dumps({"text": f"t{n}"}) + "\n" for n in range(1000)))
    path.write_bytes(path.read_bytes()[:5000])
    found = read(path)
    assert found[-1][1] == "unreadable"
    assert [text for _, text in found[:-1]] == [f"t{n}" for n in range(len(found) - 1)]


def test_a_document_longer_than_any_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.text.documents.LONGEST_BYTES", 20)
    path = tmp_path / "a.txt"
    path.write_text("short\n" + "x" * 50 + "\nlast\n\nend\n")
    assert read(path) == [(0, "too_long")]
    assert read(path, document="line") == [(0, "short"), (1, "too_long"), (2, "last"), (4, "end")]
    assert read(path, document="paragraph") == [(0, "too_long"), (1, "end")]
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({"text": "x" * 50}) + "\n" + '{"text": "a"}\n')
    assert read(path) == [(0, "too_long"), (1, "a")]


def test_folders_and_patterns_find_the_files_that_hold_text(tmp_path: Path) -> None:
    for name in ("a/x.txt", "a/y.jsonl.gz", "a/z.parquet", "b/x.txt", "b/notes.md", "a/archive.tar.gz"):
        path = tmp_path / "data" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    found = [file.source for file in find_files(TextCorpus(str(tmp_path / "data")))]
    assert found == ["a/x.txt", "a/y.jsonl.gz", "a/z.parquet", "b/x.txt"]
    assert [file.source for file in find_files(TextCorpus(str(tmp_path / "data/*/x.txt")))] == ["a/x.txt", "b/x.txt"]
    assert [file.source for file in find_files(TextCorpus(str(tmp_path / "data/a/x.txt")))] == ["x.txt"]


@given(
    lines=st.lists(st.text("ab é", max_size=9), max_size=12),
    last=st.booleans(),
    piece_bytes=st.integers(1, 40),
    kind=st.sampled_from(["txt", "jsonl"]),
)
def test_every_line_is_in_one_piece_with_its_number(
    lines: list[str], last: bool, piece_bytes: int, kind: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("lines") / f"a.{kind}"
    written = lines if kind == "txt" else [json.dumps({"text": line}) for line in lines]
    path.write_text("\n".join(written) + ("\n" if last else ""))
    (file,) = find_files(TextCorpus(str(path), document="line"))
    found = [row for piece in pieces([file], piece_bytes, map) for row in read_documents(piece)]
    expected = [(row, line.strip()) for row, line in enumerate(lines) if line.strip()]
    assert [(row, text) for row, text in found if isinstance(text, str)] == expected
    assert all(text.reason == "empty" for _, text in found if isinstance(text, NoText))


def test_text_that_lies_whole_in_a_file_is_one_piece(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a" * 100)
    (file,) = find_files(TextCorpus(str(tmp_path / "a.txt")))
    assert list(pieces([file], 1, map)) == [Piece(0, file, 0, 100)]
