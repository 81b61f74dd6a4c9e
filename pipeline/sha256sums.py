"""SHA256SUMS: the checksums of a folder's files, as `sha256sum` writes and checks them (`sha256sum -c SHA256SUMS`)."""

from __future__ import annotations

import functools
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from pipeline.files import storage
from pipeline.files.checksums import sha256_of
from pipeline.work import map_tasks

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

SHA256SUMS = "SHA256SUMS"
# A task's files, and how many of them it reads at once: most are small, and a store answers in some 30 ms.
FILES_PER_TASK = 512
READ_THREADS = 16


def write(folder: str, files: Iterable[str]) -> str:
    """Writes the sha256 of these files of a folder into its SHA256SUMS, and gives that file's own, in hex.

    Raises:
        FileNotFoundError: a file is missing.
        RunError: as map_tasks.spread.
    """
    lines = []
    for file, sha256 in _sums(folder, files):
        if sha256 is None:
            raise FileNotFoundError(f"{storage.join(folder, file)} does not exist")
        lines.append(f"{sha256}  {file}\n")
    uri = storage.join(folder, SHA256SUMS)
    storage.write_bytes(uri, "".join(lines).encode())
    return sha256_of(uri)


def read(folder: str) -> dict[str, str]:
    """What a folder's SHA256SUMS says: the sha256 of each file."""
    lines = storage.read_bytes(storage.join(folder, SHA256SUMS)).decode().splitlines()
    return {file: sha256 for sha256, file in (line.split("  ", 1) for line in lines)}


def differences(folder: str, sums: Mapping[str, str]) -> Iterator[str]:
    """A sentence on each of these files that is missing, or has another sha256 than given."""
    for file, sha256 in _sums(folder, sums):
        if sha256 is None:
            yield f"{storage.join(folder, file)} is missing"
        elif sha256 != sums[file]:
            uri = storage.join(folder, file)
            yield f"{uri} is not as it was when the stage was finished: its sha256 is another one"


def _sums(folder: str, files: Iterable[str]) -> Iterator[tuple[str, str | None]]:
    """Each file and its sha256, in order; None for one that is missing."""
    listed = list(files)
    tasks = (listed[start : start + FILES_PER_TASK] for start in range(0, len(listed), FILES_PER_TASK))
    for found in map_tasks.spread(functools.partial(_sums_of_some, storage.absolute(folder)), tasks):
        yield from found


def _sums_of_some(folder: str, files: list[str]) -> list[tuple[str, str | None]]:
    with ThreadPoolExecutor(READ_THREADS) as threads:
        sums = threads.map(functools.partial(_sum_or_none, folder), files)
        return list(zip(files, sums, strict=True))


def _sum_or_none(folder: str, file: str) -> str | None:
    try:
        return sha256_of(storage.join(folder, file))
    except FileNotFoundError:
        return None
