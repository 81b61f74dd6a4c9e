"""Files on disk and objects on S3 behind a few functions, so that no other module asks which of the two it has.

A URI is a local path or `s3://bucket/key`. What is written appears under its final name whole or not at all: locally
through a temporary file, fsync and rename; on S3 through one PUT. A missing file is FileNotFoundError on both.
"""

from __future__ import annotations

import contextlib
import functools
import io
import os
import secrets
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, cast

from pipeline.errors import TwistError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from types_boto3_s3.client import S3Client

TEMPORARY_SUFFIX = ".tmp"
S3_READ_AHEAD_BYTES = 4 * 2**20


def is_s3(uri: str) -> bool:
    """Whether `uri` names an object or prefix on S3 rather than a local path."""
    return uri.startswith("s3://")


def join(uri: str, *parts: str) -> str:
    """`uri` with `parts` below it."""
    if is_s3(uri):
        return "/".join([uri.rstrip("/"), *(part.strip("/") for part in parts)])
    return str(Path(uri, *parts))


def absolute(uri: str) -> str:
    """`uri` so that a process with another working directory finds the same file."""
    return uri if is_s3(uri) else str(Path(uri).absolute())


def open_read(uri: str) -> BinaryIO:
    """A seekable binary reader; an S3 object is read in ranges as they are asked for.

    Raises:
        FileNotFoundError: there is no such file.
    """
    if is_s3(uri):
        return cast("BinaryIO", io.BufferedReader(_S3Reader(uri), S3_READ_AHEAD_BYTES))
    return Path(uri).open("rb")


def read_bytes(uri: str) -> bytes:
    """The whole content of one file."""
    if is_s3(uri):
        bucket, key = _split(uri)
        with _missing_as_file_not_found(uri):
            return _client().get_object(Bucket=bucket, Key=key)["Body"].read()
    return Path(uri).read_bytes()


def read_range(uri: str, start: int, length: int) -> bytes:
    """`length` bytes from byte `start` (fewer where the file ends before)."""
    if is_s3(uri):
        bucket, key = _split(uri)
        with _missing_as_file_not_found(uri):
            span = f"bytes={start}-{start + length - 1}"
            return _client().get_object(Bucket=bucket, Key=key, Range=span)["Body"].read()
    with Path(uri).open("rb") as file:
        file.seek(start)
        return file.read(length)


def write_bytes(uri: str, data: bytes) -> None:
    """Puts `data` under `uri`, replacing what is there, in one step."""
    if is_s3(uri):
        bucket, key = _split(uri)
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
    try:
        size(uri)
    except FileNotFoundError:
        return False
    return is_s3(uri) or Path(uri).is_file()


def size(uri: str) -> int:
    """Bytes in one file."""
    if is_s3(uri):
        bucket, key = _split(uri)
        with _missing_as_file_not_found(uri):
            return _client().head_object(Bucket=bucket, Key=key)["ContentLength"]
    return Path(uri).stat().st_size


def list_files(uri: str, suffix: str = "") -> list[str]:
    """The files below a folder, as sorted paths relative to it; empty where there is no such folder.

    Temporary files of writers still at work (or killed) are left out.
    """
    names = _list_s3(uri) if is_s3(uri) else _list_local(Path(uri))
    return sorted(name for name in names if name.endswith(suffix) and not name.endswith(TEMPORARY_SUFFIX))


def delete(uri: str) -> None:
    """Removes one file; nothing happens where it is not there."""
    if is_s3(uri):
        bucket, key = _split(uri)
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
    except OSError:  # a full disk must not keep the half that fitted
        temporary.unlink(missing_ok=True)
        raise
    return temporary


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _list_local(folder: Path) -> Iterator[str]:
    for parent, _, names in os.walk(folder, followlinks=True):
        for name in names:
            yield str(Path(parent, name).relative_to(folder))


def _list_s3(uri: str) -> Iterator[str]:
    bucket, key = _split(uri)
    prefix = key.rstrip("/") + "/" if key else ""
    for page in _client().get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
        for item in page.get("Contents", []):
            yield item["Key"][len(prefix) :]


def _s3_put_if_absent(uri: str, data: bytes) -> bool:
    from botocore.exceptions import ClientError

    bucket, key = _split(uri)
    try:
        _client().put_object(Bucket=bucket, Key=key, Body=data, IfNoneMatch="*")
    except ClientError as error:
        # 412: it is there. 409: another writer is putting the same name right now.
        if error.response["ResponseMetadata"]["HTTPStatusCode"] in (409, 412):
            return False
        raise
    return True


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

    config = Config(retries={"mode": "standard", "max_attempts": 10}, connect_timeout=10, read_timeout=60)
    return boto3.session.Session().client("s3", config=config)


@contextlib.contextmanager
def _missing_as_file_not_found(uri: str) -> Iterator[None]:
    from botocore.exceptions import ClientError

    try:
        yield
    except ClientError as error:
        if error.response["ResponseMetadata"]["HTTPStatusCode"] == 404:
            raise FileNotFoundError(f"{uri} does not exist") from error
        raise


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
        data = read_range(self._uri, self._position, length)
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)
