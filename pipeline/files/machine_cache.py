"""Models from elsewhere, kept once a machine: in the folder `TWIST_CACHE`, else in ~/.cache/twist.

    CACHE/s3/1f3a.../opt-350m/config.json    a folder on S3: of the files directly in it those that were asked for
    CACHE/s3/9c07.../hubert.pt               a file on S3
    CACHE/s3/9c07....json                    the sha256 of each file of a copy, as it was received

The number stands for the place on S3 and for the size and ETag of each file there: what was changed is fetched anew.
So is a file that differs from the list. A copy is held to its list at each use, by one process for all of a machine:
who comes within CHECK_LASTS_S of that, with the files untouched since, takes its word. cache_bound.py says what goes
when copies take too much room.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import socket
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.errors import RunError, TwistError
from pipeline.files import foreign_json, s3, storage
from pipeline.files.cache_bound import make_room, places_of
from pipeline.files.checksums import sha256_of
from pipeline.files.file_lock import locked, share

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pipeline.files.cache_bound import Places
    from pipeline.files.s3 import Found

CACHE_VARIABLE = "TWIST_CACHE"
CHECK_LASTS_S = 600.0

# The locks by which this process keeps the copies that it has asked for: their descriptors.
_used: dict[Path, int] = {}


def cache_folder() -> Path:
    """The folder of fetched files: `TWIST_CACHE`, else ~/.cache/twist."""
    given = os.environ.get(CACHE_VARIABLE)
    return Path(given) if given else Path.home() / ".cache" / "twist"


def copy_of(uri: str, beside: Sequence[str] = (), leave_out: str | None = None) -> Path:
    """This machine's copy of a file on S3, or of the files directly in a folder there; what is not here is fetched.

    Of several processes one fetches while the others wait for it. A file that was damaged here is fetched anew. The
    copy stays at least as long as this process.

    Args:
        uri: s3://BUCKET/KEY of a file or folder.
        beside: Names of files that belong to a single file, and lie beside it if there are any.
        leave_out: Files of a folder whose names begin so are not wanted.

    Raises:
        TwistError: there is no such file or folder.
        RunError: it cannot be fetched or kept.
    """
    try:
        found = _find(uri, beside)
        key = json.dumps([uri.rstrip("/"), found])
        copy = places_of(cache_folder() / "s3" / hashlib.sha256(key.encode()).hexdigest()[:32])
        _keep(copy)
        wanted = [one for one in found if leave_out is None or f"/{leave_out}" not in one[1].name]
        listed = _read_list(copy)
        if not all(_is_checked(copy, one.name, listed) for _, one in wanted):
            with locked(copy.lock):
                _complete(copy, wanted)
    except OSError as error:
        raise RunError(
            f"cannot fetch {uri} into {cache_folder()} of {socket.gethostname()}: {error}. Give this machine access to "
            f"it and room for it (another folder: {CACHE_VARIABLE}), or name a path that every machine sees"
        ) from error
    return copy.folder / uri.rstrip("/").rpartition("/")[2]


def sha256_in(folder: Path) -> dict[str, str]:
    """The sha256 by name of the files of a folder that `copy_of` gave this process, as far as it has just checked them.

    Of any other folder nothing is known.
    """
    copy = places_of(folder.parent)
    if copy.used not in _used:
        return {}
    listed = _read_list(copy)
    return {name.rpartition("/")[2]: listed[name]["sha256"] for name in listed if _is_checked(copy, name, listed)}


def _find(uri: str, beside: Sequence[str]) -> list[tuple[str, Found]]:
    """The files of a copy: the place of each on S3, and its name in the copy."""
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


def _keep(copy: Places) -> None:
    """Keeps a copy from being removed while this process runs, and notes that it was used."""
    copy.folder.parent.mkdir(parents=True, exist_ok=True)
    if copy.used not in _used:
        _used[copy.used] = share(copy.used)
    copy.used.touch()
    copy.folder.mkdir(exist_ok=True)


def _complete(copy: Places, wanted: Sequence[tuple[str, Found]]) -> None:
    """Checks each file of a copy, and fetches those that are not there or are not as they were received."""
    listed = _read_list(copy)
    missing = []
    whole: list[str] = []
    for place, one in wanted:
        if _is_checked(copy, one.name, listed):
            whole.append(one.name)
            continue
        path = copy.folder / one.name
        state = _state_of(path)  # before it is read: what is written meanwhile is not vouched for
        if state and one.name in listed and sha256_of(str(path)) == listed[one.name]["sha256"]:
            _note(copy, one.name, listed[one.name]["sha256"], state, listed)
            whole.append(one.name)
        else:
            missing.append((place, one))
    if missing:
        make_room(copy.folder.parent, sum(one.size_bytes for _, one in missing))
    for place, one in missing:
        copy.unfinished.unlink(missing_ok=True)  # of a process that was killed
        path = copy.folder / one.name
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            sha256 = s3.download(place, one, copy.unfinished)
            copy.unfinished.replace(path)
        finally:
            copy.unfinished.unlink(missing_ok=True)
        _note(copy, one.name, sha256, _state_of(path), listed)
        whole.append(one.name)
        for name in whole:  # to fetch a large file takes longer than the word on those before it lasts
            listed[name]["checked"][1] = time.time()
        _write_list(copy, listed)


def _is_checked(copy: Places, name: str, listed: Mapping[str, Any]) -> bool:
    """Whether a process of this machine has just held a file to the list."""
    if name not in listed:
        return False
    boot_id, at_s, state = listed[name]["checked"]
    if boot_id is None or boot_id != _boot_id() or not 0 <= time.time() - at_s < CHECK_LASTS_S:
        return False
    return state is not None and state == _state_of(copy.folder / name)


def _note(copy: Places, name: str, sha256: str, state: list[int] | None, listed: dict[str, Any]) -> None:
    """Writes down that a file is the one that was received, as of now."""
    listed[name] = {"sha256": sha256, "checked": [_boot_id(), time.time(), state]}
    _write_list(copy, listed)


def _write_list(copy: Places, listed: Mapping[str, Any]) -> None:
    content = {"files": listed, "sha256_of_files": _sha256_of_list(listed)}
    storage.write_bytes(str(copy.list), json.dumps(content, indent=2).encode())


def _read_list(copy: Places) -> dict[str, Any]:
    """The files of a copy; none if the list is missing, damaged or of an older version."""
    try:
        content = foreign_json.parse(copy.list.read_bytes(), max_bytes=None)
        listed: dict[str, Any] = content["files"]
        is_whole = content["sha256_of_files"] == _sha256_of_list(listed)
    except (OSError, ValueError, LookupError, TypeError):
        return {}
    return listed if is_whole else {}


def _sha256_of_list(listed: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(listed, sort_keys=True).encode()).hexdigest()


def _state_of(path: Path) -> list[int] | None:
    """What changes when anybody writes to a file; None if there is none."""
    try:
        stat = path.stat()
    except FileNotFoundError:
        return None
    return [stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns]


def _boot_id() -> str | None:
    """What tells this machine, as long as it runs, from others and from itself before; None where it is not told."""
    with contextlib.suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return None
