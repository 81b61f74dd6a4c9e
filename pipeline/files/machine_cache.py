"""Models from elsewhere, kept once a machine: in the folder `TWIST_CACHE`, else in ~/.cache/twist.

    CACHE/s3/1f3a.../opt-350m/config.json    a folder on S3: the files directly in it
    CACHE/s3/9c07.../hubert.pt               a file on S3
    CACHE/s3/9c07....json                    the sha256 of each file of a copy, as it was received

The number stands for the place on S3 and for the size and ETag of each file there: what was changed is fetched anew.
So is a copy that differs from its list, to which it is held at each use.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import socket
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.errors import RunError, TwistError
from pipeline.files import foreign_json, s3, storage
from pipeline.files.checksums import sha256_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pipeline.files.s3 import Found

CACHE_VARIABLE = "TWIST_CACHE"


def cache_folder() -> Path:
    """The folder of fetched files: `TWIST_CACHE`, else ~/.cache/twist."""
    given = os.environ.get(CACHE_VARIABLE)
    return Path(given) if given else Path.home() / ".cache" / "twist"


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Holds the lock of a file among the processes of this machine; it ends with the process, however that ends."""
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def copy_of(uri: str, beside: Sequence[str] = ()) -> Path:
    """This machine's copy of a file on S3, or of the files directly in a folder there; fetched if it is not here yet.

    Of several processes one fetches while the others wait for it. A copy that was damaged here is fetched anew.

    Args:
        uri: s3://BUCKET/KEY of a file or folder.
        beside: Names of files that belong to a single file, and lie beside it if there are any.

    Raises:
        TwistError: there is no such file or folder.
        RunError: it cannot be fetched or kept.
    """
    try:
        found = _find(uri, beside)
        key = json.dumps([uri.rstrip("/"), found])
        copy = cache_folder() / "s3" / hashlib.sha256(key.encode()).hexdigest()[:32]
        copy.parent.mkdir(parents=True, exist_ok=True)
        if not _is_as_received(copy):
            with locked(copy.with_name(f".{copy.name}.lock")):
                if not _is_as_received(copy):
                    shutil.rmtree(copy, ignore_errors=True)
                    _fetch(found, copy)
    except OSError as error:
        raise RunError(
            f"cannot fetch {uri} into {cache_folder()} of {socket.gethostname()}: {error}. Give this machine access to "
            f"it and room for it (another folder: {CACHE_VARIABLE}), or name a path that every machine sees"
        ) from error
    return copy / uri.rstrip("/").rpartition("/")[2]


def _find(uri: str, beside: Sequence[str]) -> list[tuple[str, Found]]:
    """The files to fetch: the place of each on S3, and its name in the copy."""
    folder, _, name = uri.rstrip("/").rpartition("/")
    within = [(storage.join(uri, one.name), one) for one in s3.list_folder(uri)]
    if within:
        return [(place, one._replace(name=f"{name}/{one.name}")) for place, one in within]
    try:
        found = [(uri, s3.find(uri))]
    except FileNotFoundError as error:
        raise TwistError(f"there is neither a file nor a folder {uri}; look at its name ({error})") from None
    for place in (storage.join(folder, other) for other in beside):
        with contextlib.suppress(FileNotFoundError):
            found.append((place, s3.find(place)))
    return found


def _is_as_received(copy: Path) -> bool:
    """Whether a copy is there, and each of its files is as its list says."""
    if not copy.is_dir():
        return False
    try:
        checksums = foreign_json.parse(_list_of(copy).read_bytes())
        return all(sha256_of(str(copy / name)) == sha256 for name, sha256 in checksums.items())
    except (OSError, ValueError, AttributeError):
        return False


def _list_of(copy: Path) -> Path:
    return copy.with_name(f"{copy.name}.json")


def _fetch(found: Sequence[tuple[str, Found]], copy: Path) -> None:
    unfinished = copy.with_name(f".{copy.name}.part")
    shutil.rmtree(unfinished, ignore_errors=True)  # of a process that was killed
    checksums = {}
    try:
        for place, one in found:
            path = unfinished / one.name
            path.parent.mkdir(parents=True, exist_ok=True)
            checksums[one.name] = s3.download(place, one, path)
        storage.write_bytes(str(_list_of(copy)), json.dumps(checksums, indent=2).encode())
        unfinished.rename(copy)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
