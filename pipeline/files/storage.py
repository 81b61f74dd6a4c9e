"""Files on disk and objects on S3 behind the same few functions, so that other modules need not tell them apart.

A URI is a local path or `s3://bucket/key`. A file appears under its final name whole or not at all: locally through a
temporary file, fsync and rename; on S3 through one PUT or a multipart upload. All failures are OSErrors:
FileNotFoundError for a missing file, PermissionError for a forbidden one, ConnectionError for a store that cannot be
reached.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import mmap
import os
import re
import secrets
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from pipeline.errors import TwistError
from pipeline.files import s3

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


TEMPORARY_SUFFIX = ".tmp"

# An absolute path that Path would not change.
_PLAIN = re.compile(r"(?:/(?!\.?(?:/|$))[^/]+)+")
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")


def is_s3(uri: str) -> bool:
    """Whether `uri` names an object or prefix on S3 rather than a local path.

    Raises:
        TwistError: it has another scheme, such as https://.
    """
    if uri.startswith("s3://"):
        return True
    if _SCHEME.match(uri):
        raise TwistError(f"{uri!r} is neither a local path nor s3://BUCKET/KEY; no other kind of place is known")
    return False


def join(uri: str, *parts: str) -> str:
    """Appends `parts` to `uri`, separated by slashes."""
    if is_s3(uri):
        return "/".join([uri.rstrip("/"), *(part.strip("/") for part in parts)])
    if len(parts) == 1 and _PLAIN.fullmatch(uri) and _PLAIN.fullmatch(f"/{parts[0]}"):
        return f"{uri}/{parts[0]}"  # the same as the next line, but fast enough to join millions of names
    return str(Path(uri, *parts))


def absolute(uri: str) -> str:
    """Makes a local path absolute, so that a process with another working directory finds the same file."""
    return uri if is_s3(uri) else os.path.abspath(uri)  # noqa: PTH100 - which also resolves `..`, by name


def open_read(uri: str, read_ahead_bytes: int = s3.READ_AHEAD_BYTES) -> io.BufferedReader:
    """Opens a seekable binary reader; an S3 object is read on demand, in ranges of `read_ahead_bytes`.

    Raises:
        FileNotFoundError: there is no such file.
    """
    if is_s3(uri):
        return s3.open_read(uri, read_ahead_bytes)
    try:
        return Path(uri).open("rb")
    except NotADirectoryError:
        raise FileNotFoundError(f"{uri} does not exist") from None


def read_bytes(uri: str) -> bytes:
    """Reads a whole file."""
    if is_s3(uri):
        return s3.read_bytes(uri)
    with open_read(uri) as file:
        return file.read()


def read_range(uri: str, start: int, length: int) -> bytes:
    """Reads `length` bytes from byte `start`; fewer if the file ends before that."""
    if is_s3(uri):
        return s3.read_range(uri, start, length)
    with open_read(uri) as file:
        file.seek(start)
        return file.read(length)


def write_bytes(uri: str, data: bytes | memoryview) -> None:
    """Writes a file, replacing any other atomically."""
    if is_s3(uri):
        s3.write_bytes(uri, data)
        return
    path = Path(uri)
    temporary = _write_temporary(path, data)
    try:
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


@contextlib.contextmanager
def open_write(uri: str) -> Iterator[BinaryIO]:
    """A file to write piece by piece, for one larger than memory; it replaces any other once the block is left.

    What was written is dropped if the block raises. For S3 it waits on the local disk until then.
    """
    folder = Path(tempfile.gettempdir()) if is_s3(uri) else Path(uri).parent
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / f".{uri.rpartition('/')[2]}.{secrets.token_hex(6)}{TEMPORARY_SUFFIX}"
    try:
        with temporary.open("xb+") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
            if is_s3(uri):
                is_empty = not file.seek(0, os.SEEK_END)
                s3.write_bytes(uri, b"" if is_empty else memoryview(mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)))
        if not is_s3(uri):
            temporary.replace(uri)
            _sync_folder(folder)
    except OSError as error:
        if error.filename is None and error.errno is not None and not is_s3(uri):
            raise OSError(error.errno, error.strerror, uri) from error
        raise
    finally:
        temporary.unlink(missing_ok=True)


def put_if_absent(uri: str, data: bytes) -> bool:
    """Writes a file unless it exists already; returns whether it did.

    On S3 this is a conditional PUT. A store that ignores the condition replaces what is there, which does no harm: the
    callers write bytes that depend on the name alone.
    """
    if is_s3(uri):
        return s3.put_if_absent(uri, data)
    path = Path(uri)
    if path.exists():
        return False
    temporary = _write_temporary(path, data)
    try:
        os.link(temporary, path)
    except FileExistsError:
        return False
    except OSError:  # a file system without hard links
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    _sync_folder(path.parent)
    return True


def require_conditional_put(folder: str) -> None:
    """Makes sure that `put_if_absent` works in a folder; a store that ignores the condition is fine.

    Raises:
        TwistError: the store refuses conditional writes.
    """
    if is_s3(folder):
        probe = join(folder, f".probe-{secrets.token_hex(6)}{TEMPORARY_SUFFIX}")
        s3.put_if_absent(probe, b"")
        s3.delete(probe)


def exists(uri: str) -> bool:
    """Whether there is a file (not a folder) of this name."""
    if not is_s3(uri):
        return Path(uri).is_file()
    try:
        size(uri)
    except FileNotFoundError:
        return False
    return True


def size(uri: str) -> int:
    """The size of a file in bytes."""
    if is_s3(uri):
        return s3.size(uri)
    try:
        return Path(uri).stat().st_size
    except NotADirectoryError:
        raise FileNotFoundError(f"{uri} does not exist") from None


def version(uri: str) -> str:
    """What changes when a file does: on disk its size and the time of its last change, on S3 its size and ETag."""
    if is_s3(uri):
        return s3.version(uri)
    try:
        stat = Path(uri).stat()
    except NotADirectoryError:
        raise FileNotFoundError(f"{uri} does not exist") from None
    return f"{stat.st_size}-{stat.st_mtime_ns}"


def list_files(uri: str, suffix: str = "") -> list[str]:
    """Lists the files below a folder whose names end in `suffix`, as sorted paths relative to it.

    The list is empty if the folder does not exist. Links are followed, also to folders. Temporary files (of writers
    that are still at work or were killed), pipes, sockets and devices are left out.
    """
    names = s3.list_names(uri) if is_s3(uri) else _list_local(uri)
    return sorted(name for name in names if name.endswith(suffix) and not name.endswith(TEMPORARY_SUFFIX))


def list_versions(uri: str, suffixes: tuple[str, ...]) -> dict[str, str]:
    """The `version` of each file below a folder whose name ends in one of `suffixes` (lower case), in any case.

    By the paths of `list_files`, in their order. On S3 the listing tells it: no object is asked for by itself.
    """
    if is_s3(uri):
        found = {one.name: one.version for one in s3.list_objects(uri) if one.name.lower().endswith(suffixes)}
        return dict(sorted(found.items()))
    versions = {}
    for name in list_files(uri):
        if name.lower().endswith(suffixes):
            with contextlib.suppress(FileNotFoundError):  # removed since it was listed
                versions[name] = version(join(uri, name))
    return versions


def some_files(uri: str, count: int) -> list[str]:
    """The first files below a folder, at most `count`, in no order; lists no more of it than that takes."""
    return list(itertools.islice(s3.list_names(uri) if is_s3(uri) else _list_local(uri), count))


def has_files(uri: str) -> bool:
    """Whether there is any file below a folder."""
    return bool(some_files(uri, 1))


def delete(uri: str) -> None:
    """Removes a file, if it exists."""
    if is_s3(uri):
        s3.delete(uri)
    else:
        Path(uri).unlink(missing_ok=True)


def delete_all(uris: Iterable[str]) -> None:
    """Removes files, in any order; on S3 many at once, as each takes a round trip."""
    uris = list(uris)
    if not any(map(is_s3, uris)):
        for uri in uris:
            delete(uri)
        return
    with ThreadPoolExecutor(s3.CONNECTIONS) as threads:
        for _ in threads.map(delete, uris):
            pass


def remove_temporaries(uri: str) -> None:
    """Removes the temporary files that killed writers left below a local folder; on S3 they leave none."""
    if not is_s3(uri) and Path(uri).is_dir():
        for path in Path(uri).rglob(f".*{TEMPORARY_SUFFIX}"):
            path.unlink(missing_ok=True)


def _write_temporary(path: Path, data: bytes | memoryview) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(6)}{TEMPORARY_SUFFIX}")
    try:
        with temporary.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except BaseException as error:  # on a full disk, do not leave the half that fitted
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename is None:  # to write to an open file tells no name
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise
    return temporary


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _list_local(folder: str, prefix: str = "", above: frozenset[tuple[int, int]] = frozenset()) -> Iterator[str]:
    """Yields paths below `folder`; `above` identifies the folders around it: links back to those are not followed."""
    try:
        status = Path(folder).stat()
        entries = list(os.scandir(folder))
    except (FileNotFoundError, NotADirectoryError):
        return
    within = above | {(status.st_dev, status.st_ino)}
    if within == above:
        return
    for entry in entries:
        if entry.is_symlink():
            target = Path(entry.path)
            # A dangling link is listed, so that opening it reports the file as missing.
            is_folder, is_file = target.is_dir(), target.is_file() or not target.exists()
        else:
            is_folder, is_file = entry.is_dir(), entry.is_file()
        if is_folder:
            yield from _list_local(entry.path, f"{prefix}{entry.name}/", within)
        elif is_file:
            yield prefix + entry.name
