"""Shards are broken in one way at a time; each must be told in a sentence that names the file."""

from __future__ import annotations

import io
import json
import re
import shutil
import tarfile
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pytest
import webdataset

from pipeline import parquet
from pipeline.records import SAMPLE_SCHEMA
from pipeline.shards import dataset_fingerprint
from pipeline.stage import digest
from pipeline.verify_shards import verify_shards

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

Break = Callable[["Path"], Any] if TYPE_CHECKING else Any
SHARD = "train/train-000000.tar"


@pytest.fixture
def shards(small_run: Path, tmp_path: Path) -> Path:
    """Shards by themselves, to break."""
    return shutil.copytree(small_run / "shards", tmp_path / "copied")


def violations(shards: Path) -> list[str]:
    return list(verify_shards(str(shards)))


def edit_manifest(shards: Path, number: int, **values: Any) -> None:
    """Changes a row of manifest.parquet."""
    rows = parquet.read(str(shards / "manifest.parquet")).to_pylist()
    rows[number] |= values
    parquet.write(str(shards / "manifest.parquet"), pa.Table.from_pylist(rows, schema=SAMPLE_SCHEMA))


def edit_info(shards: Path, edit: Callable[[dict[str, Any]], Any]) -> None:
    """Changes dataset.json."""
    info = json.loads((shards / "dataset.json").read_text())
    edit(info)
    (shards / "dataset.json").write_text(json.dumps(info))


def edit_tar(shards: Path, edit: Callable[[list[tuple[str, bytes]]], Any]) -> None:
    """Changes the members of a shard; its checksum is made to fit again."""
    with tarfile.open(shards / SHARD) as tar:
        members = [(member.name, tar.extractfile(member).read()) for member in tar]  # type: ignore[union-attr]
    edit(members)
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    seal(shards, buffer.getvalue())


def seal(shards: Path, content: bytes) -> None:
    """Replaces a shard, and its checksum with it."""
    (shards / SHARD).write_bytes(content)

    def fit(info: dict[str, Any]) -> None:
        shard = next(shard for shard in info["shards"] if shard["path"] == SHARD)
        shard["sha256"] = __import__("hashlib").sha256(content).hexdigest()
        shard["num_bytes"] = len(content)
        info["fingerprint"] = dataset_fingerprint(info)

    edit_info(shards, fit)


def edit_array(name: str, edit: Callable[[NDArray[np.uint16]], Any]) -> Break:
    """A break of one array of a shard's first sample."""

    def change(members: list[tuple[str, bytes]]) -> None:
        place = next(place for place, (member, _) in enumerate(members) if member.endswith(name))
        array = np.load(io.BytesIO(members[place][1]))
        array = edit(array)
        buffer = io.BytesIO()
        np.save(buffer, array)
        members[place] = (members[place][0], buffer.getvalue())

    return lambda shards: edit_tar(shards, change)


def replaced(array: NDArray[np.uint16], place: int, value: int) -> NDArray[np.uint16]:
    array[place] = value
    return array


def flip_a_byte(shards: Path) -> None:
    content = bytearray((shards / SHARD).read_bytes())
    content[len(content) // 2] ^= 1
    (shards / SHARD).write_bytes(content)
