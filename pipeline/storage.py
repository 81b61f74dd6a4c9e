"""Files on disk and objects on S3 behind a few functions, so that no other module asks which of the two it has.

A URI is a local path or `s3://bucket/key`. What is written appears under its final name whole or not at all: locally
through a temporary file, fsync and rename; on S3 through one PUT. On both, whatever fails is an OSError: a missing file
FileNotFoundError, a forbidden one PermissionError, and a store that cannot be reached ConnectionError.
"""

from __future__ import annotations

import contextlib
import functools
import io
import itertools
import os
import random
import re
import secrets
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.errors import TwistError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mypy_boto3_s3.client import S3Client

TEMPORARY_SUFFIX = ".tmp"
S3_BODY_ATTEMPTS = 5
S3_READ_AHEAD_BYTES = 4 * 2**20
# Threads of one process that talk to S3 at once, without waiting for each other's connection.
S3_CONNECTIONS = 32

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")


def is_s3(uri: str) -> bool:
    """Whether `uri` names an object or prefix on S3 rather than a local path.

    Raises:
        TwistError: it names something on another kind of store.
    """
    if uri.startswith("s3://"):
        return True
    if _SCHEME.match(uri):
        raise TwistError(f"{uri!r} is neither a local path nor s3://BUCKET/KEY; no other kind of place is known")
    return False


def join(uri: str, *parts: str) -> str:
    """`uri` with `parts` below it."""
    if is_s3(uri):
        return "/".join([uri.rstrip("/"), *(part.strip("/") for part in parts)])
    return str(Path(uri, *parts))


def absolute(uri: str) -> str:
    """`uri` so that a process with another working directory finds the same file."""
    return uri if is_s3(uri) else str(Path(uri).absolute())


def open_read(uri: str) -> io.BufferedReader:
    """A seekable binary reader; an S3 object is read in ranges as they are asked for.

    Raises:
        FileNotFoundError: there is no such file.
    """
    if is_s3(uri):
        return io.BufferedReader(_S3Reader(uri), S3_READ_AHEAD_BYTES)
    try:
        return Path(uri).open("rb")
    except NotADirectoryError:
        raise FileNotFoundError(f"{uri} does not exist") from None


def read_bytes(uri: str) -> bytes:
    """The whole content of one file."""
    if is_s3(uri):
        return _s3_get(uri)
    with open_read(uri) as file:
        return file.read()


def read_range(uri: str, start: int, length: int) -> bytes:
    """`length` bytes from byte `start` (fewer where the file ends before)."""
    if is_s3(uri):
        return _s3_read_range(uri, start, length) if length else b""
    with open_read(uri) as file:
        file.seek(start)
        return file.read(length)


def write_bytes(uri: str, data: bytes) -> None:
    """Puts `data` under `uri`, replacing what is there, in one step."""
    if is_s3(uri):
        bucket, key = _split(uri)
        with _as_os_errors(uri):
            _client().put_object(Bucket=bucket, Key=key, Body=data)
        return
    path = Path(uri)
    temporary = _write_temporary(path, data)
    try:
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def put_if_absent(uri: str, data: bytes) -> bool:
    """Puts `data` under `uri` unless something is there already; says whether it did.

    On S3 this is a conditional PUT. A store that ignores the condition replaces what is there, which does no harm where
    the bytes are a function of the name, as every caller's are.
    """
    if is_s3(uri):
        with _as_os_errors(uri):
            return _s3_put_if_absent(uri, data)
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
    """Bytes in one file."""
    if is_s3(uri):
        bucket, key = _split(uri)
        with _as_os_errors(uri):
            return _client().head_object(Bucket=bucket, Key=key)["ContentLength"]
    try:
        return Path(uri).stat().st_size
    except NotADirectoryError:
        raise FileNotFoundError(f"{uri} does not exist") from None


def list_files(uri: str, suffix: str = "") -> list[str]:
    """The files below a folder, as sorted paths relative to it; empty where there is no such folder.

    Links are followed, also to folders. Left out are temporary files of writers still at work (or killed), and what is
    no file: pipes, sockets, devices.
    """
    names = _list_s3(uri) if is_s3(uri) else _list_local(uri)
    return sorted(name for name in names if name.endswith(suffix) and not name.endswith(TEMPORARY_SUFFIX))


def delete(uri: str) -> None:
    """Removes one file; nothing happens where it is not there."""
    if is_s3(uri):
        bucket, key = _split(uri)
        with _as_os_errors(uri):
            _client().delete_object(Bucket=bucket, Key=key)
    else:
        Path(uri).unlink(missing_ok=True)


def remove_temporaries(uri: str) -> None:
    """Removes what killed writers left in a local folder; on S3 an unfinished PUT leaves nothing."""
    if not is_s3(uri) and Path(uri).is_dir():
        for path in Path(uri).rglob(f".*{TEMPORARY_SUFFIX}"):
            path.unlink(missing_ok=True)


def _write_temporary(path: Path, data: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(6)}{TEMPORARY_SUFFIX}")
    try:
        with temporary.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except BaseException:  # a full disk must not keep the half that fitted
        temporary.unlink(missing_ok=True)
        raise
    return temporary


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _list_local(folder: str, prefix: str = "", above: frozenset[tuple[int, int]] = frozenset()) -> Iterator[str]:
    """`above` identifies the folders that `folder` lies in: a link back to one of them would never end."""
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
            # A link to nothing is listed, so that whoever opens it can tell that the file is missing.
            is_folder, is_file = target.is_dir(), target.is_file() or not target.exists()
        else:
            is_folder, is_file = entry.is_dir(), entry.is_file()
        if is_folder:
            yield from _list_local(entry.path, f"{prefix}{entry.name}/", within)
        elif is_file:
            yield prefix + entry.name


def _list_s3(uri: str) -> Iterator[str]:
    bucket, key = _split(uri)
    prefix = key.rstrip("/") + "/" if key else ""
    with contextlib.suppress(FileNotFoundError), _as_os_errors(uri):  # suppressed: there is no such bucket
        for page in _client().get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
            for item in page.get("Contents", []):
                if not item["Key"].endswith("/"):  # consoles put an empty object there to show a folder
                    yield item["Key"][len(prefix) :]


def _s3_read_range(uri: str, start: int, length: int) -> bytes:
    from botocore.exceptions import ClientError

    try:
        return _s3_get(uri, Range=f"bytes={start}-{start + length - 1}")
    except ConnectionError as error:
        cause = error.__cause__
        if isinstance(cause, ClientError) and cause.response["ResponseMetadata"]["HTTPStatusCode"] == 416:
            return b""  # it starts beyond the object's end
        raise


def _s3_get(uri: str, **options: str) -> bytes:
    from botocore.exceptions import IncompleteReadError, ReadTimeoutError, ResponseStreamingError

    bucket, key = _split(uri)
    with _as_os_errors(uri):
        # boto3 retries a request, but not the reading of what it answers.
        for attempt in range(1, S3_BODY_ATTEMPTS + 1):
            try:
                return _client().get_object(Bucket=bucket, Key=key, **options)["Body"].read()  # type: ignore[arg-type]
            except (IncompleteReadError, ReadTimeoutError, ResponseStreamingError):
                if attempt == S3_BODY_ATTEMPTS:
                    raise
                time.sleep(random.uniform(0, 2**attempt / 4))
    raise AssertionError("unreachable: the last attempt returns or raises")


def _s3_put_if_absent(uri: str, data: bytes) -> bool:
    from botocore.exceptions import ClientError

    bucket, key = _split(uri)
    for attempt in itertools.count(1):
        try:
            _client().put_object(Bucket=bucket, Key=key, Body=data, IfNoneMatch="*")
        except ClientError as error:
            status = error.response["ResponseMetadata"]["HTTPStatusCode"]
            if status == 412:  # it is there
                return False
            if status != 409 or attempt == S3_BODY_ATTEMPTS:
                raise
            # Another writer is putting the same name right now, and may yet fail.
            time.sleep(random.uniform(0, 2**attempt / 4))
        else:
            return True
    raise AssertionError("unreachable: the loop ends by returning or raising")


def _split(uri: str) -> tuple[str, str]:
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    if not bucket:
        raise TwistError(f"{uri!r} names no bucket; write s3://BUCKET/KEY")
    return bucket, key


def _client() -> S3Client:
    # A client must not be shared with a forked child (a data loader's worker), so each process has its own.
    return _client_of_process(os.getpid())


@functools.cache
def _client_of_process(pid: int) -> S3Client:  # noqa: ARG001 - the key of the cache
    import boto3
    from botocore.config import Config

    config = Config(
        retries={"mode": "standard", "max_attempts": 10},
        connect_timeout=10,
        read_timeout=60,
        max_pool_connections=S3_CONNECTIONS,
    )
    return boto3.session.Session().client("s3", config=config)


@contextlib.contextmanager
def _as_os_errors(uri: str) -> Iterator[None]:
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        yield
    except ClientError as error:
        status = error.response["ResponseMetadata"]["HTTPStatusCode"]
        if status == 404:
            is_bucket = error.response["Error"]["Code"] == "NoSuchBucket"
            raise FileNotFoundError(f"{'the bucket of ' if is_bucket else ''}{uri} does not exist") from error
        if status in (401, 403):
            raise PermissionError(f"access to {uri} is denied: {error}") from error
        raise ConnectionError(f"{uri}: {error}") from error
    except BotoCoreError as error:
        raise ConnectionError(f"{uri}: {error}") from error


class _S3Reader(io.RawIOBase):
    """Random access to one S3 object through ranged GETs; wrap it in a BufferedReader."""

    def __init__(self, uri: str) -> None:
        self._uri = uri
        self._size = size(uri)
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        self._position = max(0, base + offset)
        return self._position

    def readinto(self, buffer: Any) -> int:
        length = min(len(buffer), self._size - self._position)
        if length <= 0:
            return 0
        data = _s3_read_range(self._uri, self._position, length)
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)
