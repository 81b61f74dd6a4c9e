"""Archives and tables of audio on a disk with a bad sector: each costs itself, for as long as it is bad."""

from __future__ import annotations

import errno
import io
import json
import os
import tarfile
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile

from pipeline.audio import places, read
from pipeline.corpora import hf_parquet, tars
from pipeline.corpora.manifest import make_manifest, read_recordings
from pipeline.corpora.source import CorpusConfig
from pipeline.files import storage
from pipeline.runs import MANIFEST
from pipeline.stage import read_facts
from tests.progress import silently

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

NUM_CLIPS = 20


class BadSector(io.FileIO):
    """A file of which bytes `first` to `last` cannot be read."""

    first = last = 0

    def readinto(self, buffer: Any) -> int:
        start = self.tell()
        if self.first <= start < self.last:
            raise OSError(errno.EIO, os.strerror(errno.EIO), self.name)
        length = min(len(buffer), self.first - start) if start < self.first else len(buffer)
        return super().readinto(memoryview(buffer)[:length])


@pytest.fixture
def spoil(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path, int], None]:
    """Spoils the sector of a byte of a file, until it spoils another."""
    open_read = storage.open_read
    bad: list[Path] = []

    def open_on_this_disk(uri: str, *others: Any) -> Any:
        return io.BufferedReader(BadSector(uri), 512) if uri in map(str, bad) else open_read(uri, *others)

    def spoil_byte(path: Path, byte: int) -> None:
        bad[:] = [path]
        BadSector.first, BadSector.last = byte // 512 * 512, byte // 512 * 512 + 512

    monkeypatch.setattr(storage, "open_read", open_on_this_disk)
    monkeypatch.setattr(read, "read_local_header", lambda _: None)  # which opens files by itself
    monkeypatch.setattr(places, "LONGEST_PAUSE_S", 0.01)
    monkeypatch.setattr(places, "FILE_PATIENCE_S", 0.05)
    return spoil_byte


def clip(number: int) -> bytes:
    content = io.BytesIO()
    soundfile.write(content, 0.1 * np.random.default_rng(number).standard_normal(8_000), 16_000, format="WAV")
    return content.getvalue()


def write_tars(root: Path) -> None:
    for name in ("a", "b"):
        with tarfile.open(root / f"{name}.tar", "w") as file:
            for number in range(NUM_CLIPS):
                # Of two blocks: tarfile reads the end of the last one as it goes on.
                description = json.dumps({"language": "en", "text": "word " * 150}).encode()
                for suffix, content in (("wav", clip(number)), ("json", description)):
                    info = tarfile.TarInfo(f"{number:02d}.{suffix}")
                    info.size = len(content)
                    file.addfile(info, io.BytesIO(content))


def write_tables(root: Path) -> None:
    rows = [{"bytes": clip(number), "path": None} for number in range(NUM_CLIPS)]
    table = pa.table({"id": [f"{number:02d}" * 50 for number in range(NUM_CLIPS)], "audio": rows})
    for name in ("a", "b"):
        pq.write_table(table, root / f"{name}.parquet", row_group_size=5, compression="none", use_dictionary=False)


def manifest(root: Path, run: Path, *, retry_dropped: bool = False) -> tuple[set[str], dict[str, int]]:
    """The ids of the recordings, and the number of drops by reason."""
    make_manifest(str(run), [CorpusConfig(str(root), name="c")], silently, retry_dropped=retry_dropped)
    dropped = read_facts(str(run), MANIFEST)["counts"]["dropped"]
    ids = {recording.recording_id for recording in read_recordings(str(run))}
    return ids, {reason: tally["items"] for reason, tally in dropped.items()}


def header_of(path: Path, name: str) -> int:
    with tarfile.open(path) as file:
        return file.getmember(name).offset


def id_column_of(path: Path, row_group: int) -> int:
    return int(pq.ParquetFile(path).metadata.row_group(row_group).column(0).data_page_offset)


@pytest.mark.parametrize("kind", ["header in a tar", "description in a tar", "column of a table", "end of a table"])
def test_a_bad_sector_costs_what_lies_behind_it_until_it_is_mended(
    kind: str, tmp_path: Path, spoil: Callable[[Path, int], None]
) -> None:
    root = tmp_path / "corpus"
    root.mkdir()
    (write_tars if "tar" in kind else write_tables)(root)
    clean, nothing = manifest(root, tmp_path / "clean")
    assert len(clean) == 2 * NUM_CLIPS and nothing == {}
    if kind == "header in a tar":
        spoil(root / "a.tar", header_of(root / "a.tar", "10.wav"))
    elif kind == "description in a tar":
        spoil(root / "a.tar", header_of(root / "a.tar", "10.json") + tarfile.BLOCKSIZE)
    elif kind == "column of a table":
        spoil(root / "a.parquet", id_column_of(root / "a.parquet", 2))
    else:
        spoil(root / "a.parquet", (root / "a.parquet").stat().st_size - 1)
    found, dropped = manifest(root, tmp_path / "run")
    assert dropped == {"io_error": 1}
    assert found < clean and {id for id in clean if id.startswith("c/b")} <= found
    if kind == "header in a tar":
        assert len(found) == NUM_CLIPS + 10
    elif kind == "description in a tar":
        assert len(found) == 2 * NUM_CLIPS - 1
    spoil(tmp_path / "another", 0)
    assert manifest(root, tmp_path / "run", retry_dropped=True) == (clean, {})


def test_a_table_too_long_for_a_task_goes_on_where_it_failed(
    tmp_path: Path, spoil: Callable[[Path, int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_tables(tmp_path)
    monkeypatch.setattr(hf_parquet, "MOST_ROWS_OF_A_TASK", 3)
    find = list(hf_parquet.find_recordings(CorpusConfig(str(tmp_path), "hf_parquet", "c")))
    spoil(tmp_path / "a.parquet", id_column_of(tmp_path / "a.parquet", 2))
    sleep = places._pause

    def mend(attempt: int) -> None:
        sleep(attempt)
        spoil(tmp_path / "another", 0)

    monkeypatch.setattr(places, "_pause", mend)
    assert list(hf_parquet.find_recordings(CorpusConfig(str(tmp_path), "hf_parquet", "c"))) == find


def test_a_tar_that_went_away_is_dropped(tmp_path: Path) -> None:
    write_tars(tmp_path)
    members, damage = tars.members_and_damage(CorpusConfig(str(tmp_path), "webdataset", "c"), "gone.tar")
    assert members == [] and damage is not None and damage.drop_reason == "missing"
