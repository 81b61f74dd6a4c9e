"""Small files that would take a machine: each costs one process less than MOST_BYTES and, at most, itself.

Each file is made here and read in a process of its own, whose largest size is measured.
"""

from __future__ import annotations

import gzip
import json
import pickle
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile

from tests.hostile.conftest import MIB, ROOT

if TYPE_CHECKING:
    from tests.hostile.conftest import Reader


@pytest.mark.parametrize("num_mib", [64, 1024])
def test_the_measure(read: Reader, tmp_path: Path, num_mib: int) -> None:
    made = f"print(len(b'1' * ({num_mib} * 2**20)))"
    if num_mib < 1024:
        assert read(made, tmp_path) == str(num_mib * MIB)
    else:
        with pytest.raises(AssertionError, match="the process grew to"):
            read(made, tmp_path)
    with pytest.raises(AssertionError, match="ended with status -6"):
        read("import os; os.abort()", tmp_path)


CODEBOOK = "from pipeline.units.codebook_import import read; read(path, 'it')"
HUBERT = "from pathlib import Path; from model.encoder.hubert_checkpoint import load_fairseq_file as f; f(Path(path))"


def shared_lists(depth: int) -> list[object]:
    """Lists that share lists: 2 ** depth items when they are written out."""
    value: list[object] = []
    for _ in range(depth):
        value = [value, value]
    return value


def fairseq(path: Path, content: bytes) -> None:
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("archive/data.pkl", content)


def fairseq_with(settings: dict[str, object]) -> bytes:
    return pickle.dumps({"cfg": {"model": settings, "task": {}}, "model": {}}, 2)


PICKLES: dict[str, tuple[bytes, str]] = {
    "a place far into the memo": (b"K\x01r" + (2**28).to_bytes(4, "little") + b".", "cannot be read as"),
    "lists that share lists": (pickle.dumps(shared_lists(200), 2), "of more than 134217728 characters"),
    "a key of nested tuples": (b"})" + b"\x85" * 3_000_000 + b"Ns.", "more than 1000000 opcodes"),
    "bytes that are not there": (b"\x96" + (2**33).to_bytes(8, "little") + b".", "more than 134217728 bytes"),
    "many sets": (b"(" + b"\x8f" * 2_000_000 + b"l.", "more than 1000000 opcodes"),
}


@pytest.mark.parametrize("name", PICKLES)
def test_a_pickle_as_a_codebook(read: Reader, tmp_path: Path, name: str) -> None:
    content, message = PICKLES[name]
    (tmp_path / "km.bin").write_bytes(content)
    told = read(CODEBOOK, tmp_path / "km.bin")
    assert told.startswith("CodebookError"), told
    assert message in told or name == "a place far into the memo", told


@pytest.mark.parametrize("name", PICKLES)
def test_a_pickle_as_a_checkpoint(read: Reader, tmp_path: Path, name: str) -> None:
    fairseq(tmp_path / "hubert.pt", PICKLES[name][0])
    assert read(HUBERT, tmp_path / "hubert.pt").startswith("TwistError")


@pytest.mark.parametrize("setting", ["activation_fn", "conv_feature_layers", "extractor_mode", "encoder_layers"])
def test_a_setting_of_lists_that_share_lists(read: Reader, tmp_path: Path, setting: str) -> None:
    fairseq(tmp_path / "hubert.pt", fairseq_with({setting: shared_lists(40)}))
    told = read(HUBERT, tmp_path / "hubert.pt")
    assert told.startswith("TwistError"), told
    assert len(told) < 1000, "the sentence is none"


AUDIO = (
    "from pipeline.audio.read import Span, probe, read_clips; info = probe(path); "
    "print([len(clip.wav) for clip in read_clips([Span(path, None, 0, info.duration_s)])])"
)


@pytest.mark.parametrize(
    ("name", "num_channels", "sample_rate_hz", "duration_s"),
    # As float32 1.5 and 1.3 GB.
    [("a.flac", 8, 384_000, 120), ("a.wav", 1000, 16_000, 20)],
)
def test_audio_of_many_channels_at_a_high_rate(
    read: Reader, tmp_path: Path, name: str, num_channels: int, sample_rate_hz: int, duration_s: int
) -> None:
    second = (np.arange(sample_rate_hz)[:, None] % 100 * 50).astype(np.int16).repeat(num_channels, axis=1)
    with soundfile.SoundFile(tmp_path / name, "w", sample_rate_hz, num_channels, "PCM_16") as file:
        for _ in range(duration_s):
            file.write(second)
    assert read(AUDIO, tmp_path / name) == f"[{duration_s * 16_000}]"


LHOTSE = (
    "from pipeline.corpora.lhotse import find_recordings as f; from pipeline.corpora.source import CorpusConfig as C; "
    "print([(one.drop_reason, one.drop_detail) for one in f(C(path)) if hasattr(one, 'drop_reason')])"
)


def test_a_line_of_four_gigabytes(read: Reader, tmp_path: Path) -> None:
    with gzip.open(tmp_path / "recordings.jsonl.gz", "wb", compresslevel=1) as file:
        file.write(b'{"id": "')
        for _ in range(4096):
            file.write(bytes(MIB))
    told = read(LHOTSE, tmp_path)
    assert "recordings.jsonl.gz has a line of more than 16777216 bytes, so it is no table" in told


@pytest.mark.parametrize("channels", [list(range(100_000)), [2**40], ["left"], [-1], "all"])
def test_a_recording_of_impossible_channels(read: Reader, tmp_path: Path, channels: object) -> None:
    (tmp_path / "a.wav").touch()
    row = {"id": "a", "duration": 1.0, "sampling_rate": 10**30}
    row["sources"] = [{"type": "file", "source": "a.wav", "channels": channels}]
    (tmp_path / "recordings.jsonl").write_text(json.dumps(row) + "\n")
    told = read(LHOTSE, tmp_path)
    assert "unsupported_source" in told, told
    assert "channels " in told, told


PARQUET = (
    "from pipeline.corpora.hf_parquet import find_recordings as f; "
    "from pipeline.corpora.source import CorpusConfig as C; "
    "from pipeline.files.audio_uri import open_read; "
    "found = list(f(C(path))); print(len(found), found[0].drop_reason, found[0].drop_detail)\n"
    "for one in found:\n"
    "    if one.drop_reason is None: print(len(open_read(one.uri).read()))"
)


def test_thirty_million_empty_rows(read: Reader, tmp_path: Path) -> None:
    audio = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    with pq.ParquetWriter(tmp_path / "a.parquet", pa.schema([("audio", audio)]), compression="zstd") as writer:
        for _ in range(30):
            writer.write_table(pa.table({"audio": pa.nulls(1_000_000, audio)}), 1_000_000)
    assert (tmp_path / "a.parquet").stat().st_size < MIB
    told = read(PARQUET, tmp_path)
    assert told.startswith("1 unreadable not a whole Parquet file: 30,000,000 rows in "), told


@pytest.mark.parametrize("use_dictionary", [False, True])
def test_rows_of_zeros(read: Reader, tmp_path: Path, use_dictionary: bool) -> None:
    made = (
        "import pyarrow as pa, pyarrow.parquet as pq; "
        "a = pa.array([bytes(1 << 28)], pa.large_binary()); t = pa.table({'audio': a}); "
        f"w = pq.ParquetWriter(path + '/a.parquet', t.schema, compression='zstd', use_dictionary={use_dictionary}); "
        "[w.write_table(t) for _ in range(3)]; w.close()"
    )
    subprocess.run([sys.executable, "-c", f"path = {str(tmp_path)!r}; {made}"], check=True)
    assert (tmp_path / "a.parquet").stat().st_size < MIB
    assert "audio would unpack to 268,4" in read(PARQUET, tmp_path)


TAR = "from pipeline.corpora.tars import members; print(list(members(path)))"


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK])
@pytest.mark.parametrize("num_bytes", [2**31, 2**40])
def test_a_header_that_claims_to_be_long(read: Reader, tmp_path: Path, kind: bytes, num_bytes: int) -> None:
    header = tarfile.TarInfo("header")
    header.type, header.size = kind, num_bytes
    (tmp_path / "a.tar").write_bytes(header.tobuf(tarfile.GNU_FORMAT) + bytes(1024))
    told = read(TAR, tmp_path / "a.tar")
    assert f"a.tar is not a whole tar: a header of {num_bytes:,} bytes" in told


JSON_READERS = {
    "stage.json": "import pipeline.stage as s; print(s.read_facts(path, 'units'))",
    "dataset.json": "from pipeline.shards import open_dataset as f; f(path)",
    "config.json": "from pathlib import Path; from model.encoder import hubert_checkpoint as h; "
    "h.load_huggingface_folder(Path(path))",
    "recordings.jsonl": LHOTSE,
    "units.jsonl": "from pipeline.packing.config import EvaluationSet; from pipeline.packing import evaluation_speech; "
    "list(evaluation_speech._read_jsonl(EvaluationSet(path + '/units.jsonl'), 9))",
}


@pytest.mark.parametrize("name", JSON_READERS)
@pytest.mark.parametrize("depth", [150, 200_000])
def test_json_nested_deep(read: Reader, tmp_path: Path, name: str, depth: int) -> None:
    folder = tmp_path / "units" if name == "stage.json" else tmp_path
    folder.mkdir(exist_ok=True)
    (folder / name).write_text('{"a": ' * depth + "1" + "}" * depth)
    (folder / "model.safetensors").touch()
    assert "nested more than 100 deep" in read(JSON_READERS[name], tmp_path)


def test_json_of_many_empty_lists(read: Reader, tmp_path: Path) -> None:
    (tmp_path / "dataset.json").write_text("[" + "[]," * 10_000_000 + "[]]")
    assert "longer than 16777216 bytes" in read(JSON_READERS["dataset.json"], tmp_path)


def test_a_pickle_that_unpacks_to_a_gigabyte(read: Reader, tmp_path: Path) -> None:
    with (
        zipfile.ZipFile(tmp_path / "hubert.pt", "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("archive/data.pkl", "w", force_zip64=True) as file,
    ):
        file.write(b"\x80\x04\x8e" + (2**30).to_bytes(8, "little"))
        for _ in range(1024):
            file.write(bytes(MIB))
        file.write(b".")
    assert (tmp_path / "hubert.pt").stat().st_size < 2 * MIB
    assert read(HUBERT, tmp_path / "hubert.pt").startswith("TwistError")


@pytest.mark.parametrize("shape", [(2**40,), (2**20, 2**20)])
def test_an_array_that_claims_to_be_huge(read: Reader, tmp_path: Path, shape: tuple[int, ...]) -> None:
    with (tmp_path / "km.npy").open("wb") as file:
        np.lib.format.write_array_header_2_0(file, {"descr": "<f4", "fortran_order": False, "shape": shape})
    assert read(CODEBOOK, tmp_path / "km.npy").startswith("CodebookError")


LM = "from model.lm.speech_lm import load_speech_lm; load_speech_lm(path)"
TOKENIZER = (
    "from pathlib import Path; from model.encoder import hubert_checkpoint as h; h.load_huggingface_folder(Path(path))"
)
VOCODER = "from pathlib import Path; from model.vocoder.checkpoint import load_vocoder; load_vocoder(Path(path))"
MODELS = {"lm": LM, "tokenizer": TOKENIZER, "vocoder": VOCODER}
EMBEDDED = ROOT / "model" / "embedded"
OPT = {"model_type": "opt", "vocab_size": 40, "hidden_size": 16, "ffn_dim": 32, "num_attention_heads": 2}
SHAPES: dict[str, dict[str, object]] = {
    "lm": {**OPT, "num_hidden_layers": 1, "word_embed_proj_dim": 16, "max_position_embeddings": 64},
    "tokenizer": json.loads((EMBEDDED / "hubert-tiny-25hz" / "config.json").read_text()),
    "vocoder": json.loads((EMBEDDED / "hifigan-tiny-25hz" / "config.json").read_text()),
}


@pytest.mark.parametrize(
    ("model", "setting", "value"),
    [
        ("lm", "num_hidden_layers", 2**40),
        ("lm", "hidden_size", 2**40),
        ("lm", "vocab_size", 2**40),
        ("tokenizer", "num_hidden_layers", 65_536),
        ("tokenizer", "hidden_size", 2**30),
        ("tokenizer", "num_conv_pos_embeddings", 2**40),
        ("vocoder", "num_embeddings", 2**40),
        ("vocoder", "upsample_initial_channel", 2**30),
        ("vocoder", "upsample_rates", [2] * 1_000_000),
    ],
)
def test_a_config_of_absurd_numbers(read: Reader, tmp_path: Path, model: str, setting: str, value: object) -> None:
    assert setting in SHAPES[model]
    (tmp_path / "config.json").write_text(json.dumps({**SHAPES[model], setting: value}))
    header = json.dumps({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    (tmp_path / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))
    told = read(MODELS[model], tmp_path)
    assert told.startswith("TwistError"), told
    assert len(told) < 1000, "the sentence is none"


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("num_bytes", [2**40, 99_000_000])
def test_weights_whose_header_claims_to_be_long(read: Reader, tmp_path: Path, model: str, num_bytes: int) -> None:
    (tmp_path / "config.json").write_text(json.dumps(SHAPES[model]))
    with (tmp_path / "model.safetensors").open("wb") as file:
        file.write(num_bytes.to_bytes(8, "little") + b"{")
        file.truncate(min(num_bytes, 10**8))
    told = read(MODELS[model], tmp_path)
    assert told.startswith("TwistError"), told


RECIPE = (
    "from jobs.recipe_text import check_recipe_text as f; from pathlib import Path; "
    "f(Path(path).read_text(), path, {'pack': object})"
)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "a0: &a0 [x]\n" + "".join(f"a{i}: &a{i} [{f'*a{i - 1}, ' * 10}]\n" for i in range(1, 11)),
            "with aliases written",
        ),
        ("pack: " + "[" * 100_000 + "]" * 100_000, "deep, which no recipe is"),
        ("pack: " + "{a: " * 100_000 + "1" + "}" * 100_000, "deep, which no recipe is"),
        ("a: &a [*a]", "with aliases written"),
    ],
    ids=["aliases", "lists", "mappings", "itself"],
)
def test_a_recipe_that_explodes(read: Reader, tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "recipe.yaml").write_text(text)
    told = read(RECIPE, tmp_path / "recipe.yaml")
    assert told.startswith("UsageError"), told
    assert message in told


TEXTS = (
    "from pipeline.text.config import TextCorpus as C; from pipeline.text.files import find_files, pieces; "
    "from pipeline.text.documents import read_documents; "
    "found = [one for piece in pieces(find_files(C(path, document='{document}')), 2**24, map)"
    " for _, one in read_documents(piece)]; print(len(found), found[0])"
)


@pytest.mark.parametrize("suffix", ["txt.gz", "jsonl.gz", "txt.zst"])
def test_text_of_one_line_of_gigabytes(read: Reader, tmp_path: Path, suffix: str) -> None:
    num_mib = 2048
    if suffix.endswith("gz"):
        with gzip.open(tmp_path / f"a.{suffix}", "wb", compresslevel=1) as file:
            for _ in range(num_mib):
                file.write(b"a" * MIB)
    else:
        with pa.CompressedOutputStream(str(tmp_path / f"a.{suffix}"), "zstd") as stream:
            for _ in range(num_mib):
                stream.write(b"a" * MIB)
    assert (tmp_path / f"a.{suffix}").stat().st_size < 16 * MIB
    for document in ("file", "paragraph", "line"):
        told = read(TEXTS.format(document=document), tmp_path)
        assert told.startswith("1 NoText(reason='too_long'"), told


def test_text_in_parquet_that_unpacks_to_gigabytes(read: Reader, tmp_path: Path) -> None:
    made = (
        "import pyarrow as pa, pyarrow.parquet as pq; "
        "t = pa.table({'text': pa.array(['a' * (1 << 28)], pa.large_string())}); "
        "w = pq.ParquetWriter(path + '/a.parquet', t.schema, compression='zstd'); "
        "[w.write_table(t) for _ in range(3)]; w.close()"
    )
    subprocess.run([sys.executable, "-c", f"path = {str(tmp_path)!r}; {made}"], check=True)
    assert (tmp_path / "a.parquet").stat().st_size < MIB
    told = read(TEXTS.format(document="line"), tmp_path)
    assert told.startswith("3 NoText(reason='unreadable'"), told
    assert "would unpack to" in told, told


@pytest.mark.parametrize("claimed", [2**31 - 1, 2**32 - 1])
def test_a_wav_whose_header_claims_to_be_long(read: Reader, tmp_path: Path, claimed: int) -> None:
    soundfile.write(tmp_path / "a.wav", np.random.default_rng(0).normal(0, 0.1, 16_000), 16_000)
    content = (tmp_path / "a.wav").read_bytes()
    at = content.index(b"data") + 4
    (tmp_path / "a.wav").write_bytes(
        content[:4] + claimed.to_bytes(4, "little") + content[8:at] + claimed.to_bytes(4, "little") + content[at + 4 :]
    )
    assert read(AUDIO, tmp_path / "a.wav") == "[16000]"
