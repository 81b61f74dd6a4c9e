"""Objects on S3, through boto3; calls that fail for a passing reason are repeated for up to two minutes.

boto3 retries requests too, but not the reading of a response's body, and on a budget shared by all threads of a
process. So its retries are off, and every call here runs in `_patiently`, which retries after throttling (503, 429),
server errors, and connections that break or cannot be made, with growing random pauses.

Denied access is retried too, but for seconds: an object may be forbidden for ever. Credentials that are refused after
they were taken before are waited for like the store.

A permanent failure is an OSError, as on a disk: FileNotFoundError for a missing object, PermissionError for a
forbidden one, ConnectionError for a store that cannot be reached or takes no credentials.
"""

from __future__ import annotations

import contextlib
import email.utils
import functools
import hashlib
import io
import itertools
import logging
import os
import random
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from pipeline.errors import TwistError
from pipeline.files.range_reader import RangeReader

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from mypy_boto3_s3.client import S3Client
    from mypy_boto3_s3.type_defs import CompletedPartTypeDef, GetObjectOutputTypeDef

logger = logging.getLogger(__name__)

PATIENCE_S = 120.0
LONGEST_PAUSE_S = 10.0
# For denied access, counted from the first denial of this process since a request was granted: of many denied objects
# in a row only the first is waited for.
DENIED_PATIENCE_S = 10.0
READ_AHEAD_BYTES = 4 * 2**20
# Larger objects are uploaded in parts, each of which is retried on its own.
PART_BYTES = 64 * 2**20
PARTS_AT_ONCE = 4
# Size of the connection pool: threads of one process that can talk to S3 at once.
CONNECTIONS = 32
# Responses worth a retry. 409: another writer is putting the same name, and may yet fail.
PASSING_STATUSES = (408, 409, 429, 500, 502, 503, 504)
PASSING_CODES = ("RequestTimeout", "SlowDown", "Throttling", "ThrottlingException", "BadDigest")
# Of responses that are about who asks and when, whatever the object.
CREDENTIAL_CODES = (
    "ExpiredToken",
    "ExpiredTokenException",
    "InvalidAccessKeyId",
    "InvalidClientTokenId",
    "InvalidToken",
    "RequestExpired",
    "RequestTimeTooSkewed",
    "SignatureDoesNotMatch",
    "TokenRefreshRequired",
    "UnrecognizedClientException",
)

T = TypeVar("T")


class Found(NamedTuple):
    """An object's name in its folder, and what tells its content from that of others under the same name."""

    name: str
    size_bytes: int
    etag: str

    @property
    def version(self) -> str:
        """What changes when the object does: its size and ETag."""
        return f"{self.size_bytes}-{self.etag}"


def read_bytes(uri: str) -> bytes:
    """Reads a whole object and verifies its checksum if the store has one."""
    return _get(uri, ChecksumMode="ENABLED")


def read_range(uri: str, start: int, length: int) -> bytes:
    """Reads `length` bytes from byte `start`; fewer if the object ends before that."""
    from botocore.exceptions import ClientError

    if not length:
        return b""
    try:
        return _get(uri, Range=f"bytes={start}-{start + length - 1}")
    except ConnectionError as error:
        cause = error.__cause__
        if isinstance(cause, ClientError) and _status(cause) == 416:
            return b""  # it starts beyond the object's end
        raise


def open_read(uri: str, read_ahead_bytes: int = READ_AHEAD_BYTES) -> io.BufferedReader:
    """Opens a seekable reader that requests ranges of the object on demand, and keeps the last ones."""
    ranges = RangeReader(size(uri), functools.partial(read_range, uri), kept_bytes=read_ahead_bytes)
    return io.BufferedReader(ranges, read_ahead_bytes)


def write_bytes(uri: str, data: bytes | memoryview) -> None:
    """Puts an object, replacing any other atomically."""
    if len(data) > PART_BYTES:
        _upload(uri, data)
        return
    bucket, key = _split(uri)
    _patiently(uri, lambda: _client().put_object(Bucket=bucket, Key=key, Body=bytes(data)))


def put_if_absent(uri: str, data: bytes) -> bool:
    """Puts an object unless it exists already.

    A store that ignores the condition replaces what is there.

    Returns:
        Whether it was put; False also if an earlier try succeeded but its response was lost.

    Raises:
        TwistError: the store refuses the condition.
    """
    return _put_if(uri, data, "there is none of its name (If-None-Match: *)", IfNoneMatch="*")


def read_version(uri: str) -> tuple[bytes, str]:
    """Reads a whole object, and the etag of the version that was read."""
    bucket, key = _split(uri)

    def get() -> tuple[bytes, str]:
        answer = _client().get_object(Bucket=bucket, Key=key)
        return _content(answer), answer["ETag"]

    return _patiently(uri, get)


def put_if_unchanged(uri: str, data: bytes, etag: str) -> bool:
    """Replaces an object if it still is the version of that etag; returns whether its content is now `data`.

    A store that ignores the condition replaces any version.

    Raises:
        TwistError: the store refuses the condition.
    """
    if _put_if(uri, data, "it has not changed (If-Match)", IfMatch=etag):
        return True
    try:
        return read_bytes(uri) == data  # an earlier try succeeded, but its answer was lost
    except FileNotFoundError:
        return False


def _put_if(uri: str, data: bytes, condition: str, **header: str) -> bool:
    from botocore.exceptions import ClientError

    bucket, key = _split(uri)

    def put() -> bool:
        try:
            _client().put_object(Bucket=bucket, Key=key, Body=data, **header)  # type: ignore[arg-type]
        except ClientError as error:
            if _status(error) == 412 or (_status(error) == 404 and "IfMatch" in header):
                return False
            if _status(error) == 501:
                raise TwistError(
                    f"the store of {uri} cannot put an object on the condition that {condition}, which it answers with "
                    f"501. Put the run on a disk, or into a store that can or that ignores the condition"
                ) from error
            raise
        return True

    return _patiently(uri, put)


def size(uri: str) -> int:
    """The size of an object in bytes."""
    return find(uri).size_bytes


def version(uri: str) -> str:
    """What changes when an object does: its size and ETag."""
    return find(uri).version


def find(uri: str) -> Found:
    """An object as it is now."""
    from botocore.exceptions import ClientError

    bucket, key = _split(uri)
    name = key.rpartition("/")[2]

    def ask() -> Found:
        # Not by HEAD: the answer has no body, which would name an error, or be missing if headers break off.
        try:
            answer = _client().get_object(Bucket=bucket, Key=key, Range="bytes=0-0")
        except ClientError as error:
            if _status(error) == 416:  # it has no first byte
                return Found(name, 0, _client().head_object(Bucket=bucket, Key=key)["ETag"])
            raise
        size_bytes = int(answer["ContentRange"].rpartition("/")[2]) if _content(answer) else 0
        return Found(name, size_bytes, answer["ETag"])

    return _patiently(uri, ask)


def list_folder(uri: str) -> list[Found]:
    """The objects directly below a prefix, without those further down; none if the bucket does not exist."""
    return [Found(name, item["Size"], item["ETag"]) for name, item in _list(uri, Delimiter="/")]


def download(uri: str, found: Found, path: Path) -> str:
    """Copies an object to a new local file, in ranges; it takes no memory but theirs.

    Returns:
        The sha256 of what was received, in hex.

    Raises:
        OSError: it cannot be read or written, or is no longer the one that was found.
    """
    digest = hashlib.sha256()
    with path.open("xb") as file:
        for start in range(0, found.size_bytes, PART_BYTES):
            end = min(start + PART_BYTES, found.size_bytes)
            data = _get(uri, Range=f"bytes={start}-{end - 1}", IfMatch=found.etag)
            if len(data) != end - start:
                raise ConnectionError(f"{uri} gave {len(data)} bytes of the {end - start} from byte {start} on")
            digest.update(data)
            file.write(data)
        file.flush()
        os.fsync(file.fileno())
    return digest.hexdigest()


def list_objects(uri: str) -> Iterator[Found]:
    """Lists the objects below a prefix, by paths relative to it; none if the bucket does not exist."""
    return (Found(name, item["Size"], item["ETag"]) for name, item in _list(uri))


def list_names(uri: str) -> Iterator[str]:
    """Lists the objects below a prefix, as paths relative to it; none if the bucket does not exist."""
    return (name for name, _ in _list(uri))


def _list(uri: str, **options: str) -> Iterator[tuple[str, dict[str, Any]]]:
    bucket, key = _split(uri)
    prefix = key.rstrip("/") + "/" if key else ""
    request: dict[str, Any] = {"Bucket": bucket, "Prefix": prefix, **options}
    while True:
        try:
            page = _patiently(uri, functools.partial(_list_page, request))
        except FileNotFoundError:
            return
        for item in page.get("Contents", []):
            # Consoles show a folder by an empty object of its name.
            if item["Size"] or not item["Key"].endswith("/"):
                yield item["Key"][len(prefix) :], item
        if not page.get("IsTruncated"):
            return
        request["ContinuationToken"] = page["NextContinuationToken"]


def delete(uri: str) -> None:
    """Removes an object, if it exists."""
    bucket, key = _split(uri)
    _patiently(uri, lambda: _client().delete_object(Bucket=bucket, Key=key))


def clock_ahead_s(uri: str) -> float:
    """Seconds by which this machine's clock is ahead of the store's; S3 refuses requests from 15 minutes on."""
    bucket, _ = _split(uri)
    answer = _patiently(uri, lambda: _client().list_objects_v2(Bucket=bucket, MaxKeys=1))
    told = answer["ResponseMetadata"]["HTTPHeaders"]["date"]
    return time.time() - email.utils.parsedate_to_datetime(told).timestamp()


def _list_page(request: dict[str, Any]) -> dict[str, Any]:
    page = dict(_client().list_objects_v2(**request))
    page["IsTruncated"]  # every list tells; an answer that breaks off before its body is taken for an empty one
    return page


def _get(uri: str, **options: str) -> bytes:
    bucket, key = _split(uri)

    def get() -> bytes:
        return _content(_client().get_object(Bucket=bucket, Key=key, **options))  # type: ignore[arg-type]

    return _patiently(uri, get)


def _content(answer: GetObjectOutputTypeDef) -> bytes:
    content = answer["Body"].read()
    # One that breaks off in its headers, before it has told its length, passes for whole elsewhere.
    if len(content) != answer["ContentLength"]:
        raise OSError(f"{len(content)} bytes came of {answer['ContentLength']}")
    return content


def _upload(uri: str, data: bytes | memoryview) -> None:
    """Puts a large object in parts, which S3 joins at the end: the object appears whole or not at all."""
    # Not boto3's upload_fileobj: its own retries end within seconds where many threads wait for a store that is gone,
    # and a second try of the whole sends every part again and leaves those of the first behind.
    bucket, key = _split(uri)
    upload_id = _patiently(uri, lambda: _client().create_multipart_upload(Bucket=bucket, Key=key)["UploadId"])
    view = memoryview(data)
    one_upload: dict[str, Any] = {"Bucket": bucket, "Key": key, "UploadId": upload_id}

    def put_part(number: int) -> CompletedPartTypeDef:
        body = bytes(view[(number - 1) * PART_BYTES : number * PART_BYTES])
        part = _patiently(uri, lambda: _client().upload_part(**one_upload, PartNumber=number, Body=body))
        return {"ETag": part["ETag"], "PartNumber": number}

    try:
        with ThreadPoolExecutor(PARTS_AT_ONCE) as threads:
            parts = list(threads.map(put_part, range(1, -(-len(data) // PART_BYTES) + 1)))
        try:
            _patiently(uri, functools.partial(_complete, one_upload, parts))
        except FileNotFoundError:  # an earlier try completed the upload, but its response was lost
            if size(uri) != len(data):
                raise
    except BaseException:
        with contextlib.suppress(OSError):
            _patiently(uri, lambda: _client().abort_multipart_upload(**one_upload), patience_s=LONGEST_PAUSE_S)
        raise


def _complete(one_upload: dict[str, Any], parts: list[CompletedPartTypeDef]) -> None:
    answer = _client().complete_multipart_upload(**one_upload, MultipartUpload={"Parts": parts})
    answer["ETag"]  # the status comes long before the upload is complete


def _patiently(uri: str, do: Callable[[], T], patience_s: float | None = None) -> T:
    """Calls `do` until it succeeds, fails for good, or `patience_s` (by default PATIENCE_S) is over."""
    began = time.monotonic()
    for attempt in itertools.count():
        try:
            with _as_os_errors(uri):
                result = do()
        except OSError as error:
            waited_s = time.monotonic() - began
            patience = PATIENCE_S if patience_s is None else patience_s
            if isinstance(error, PermissionError) or _concerns_credentials(error.__cause__):
                is_worth_it = _access.may_come_back(isinstance(error, PermissionError), patience)
            else:
                is_worth_it = _may_pass(error.__cause__) and waited_s <= patience
            if not is_worth_it:
                raise
            if attempt and waited_s > LONGEST_PAUSE_S:
                logger.warning("trying again after %.0f s: %s", waited_s, error)
            time.sleep(random.uniform(0, min(LONGEST_PAUSE_S, 0.1 * 2**attempt)))
        else:
            _access.granted()
            return result
    raise AssertionError("unreachable: the loop ends by returning or raising")


class _Access:
    """Since when this process has been denied access, and whether it ever had it."""

    def __init__(self) -> None:
        self._denied_since: float | None = None
        self._was_granted = False

    def granted(self) -> None:
        """Notes a request that was granted."""
        self._denied_since = None
        self._was_granted = True

    def may_come_back(self, is_one_object: bool, patience_s: float) -> bool:
        """Notes a request that was denied; whether it is to be tried again."""
        now = time.monotonic()
        self._denied_since = now if self._denied_since is None else self._denied_since
        longest_s = DENIED_PATIENCE_S if is_one_object or not self._was_granted else patience_s
        return now - self._denied_since <= min(longest_s, patience_s)


_access = _Access()


def _may_pass(error: BaseException | None) -> bool:
    from botocore.exceptions import (
        BotoCoreError,
        ClientError,
        ConnectionError,
        FlexibleChecksumError,
        HTTPClientError,
        IncompleteReadError,
    )

    if isinstance(error, ClientError):
        return _status(error) in PASSING_STATUSES or error.response["Error"].get("Code") in PASSING_CODES
    if isinstance(error, BotoCoreError):
        return isinstance(error, ConnectionError | HTTPClientError | IncompleteReadError | FlexibleChecksumError)
    return error is not None  # an answer that broke off where botocore does not look for that


def _concerns_credentials(error: BaseException | None) -> bool:
    from botocore.exceptions import (
        ClientError,
        CredentialRetrievalError,
        MetadataRetrievalError,
        TokenRetrievalError,
        UnauthorizedSSOTokenError,
    )

    if isinstance(error, ClientError):
        return error.response["Error"].get("Code") in CREDENTIAL_CODES
    # A RuntimeError: renewed credentials that have expired, too.
    kinds = (CredentialRetrievalError, MetadataRetrievalError, TokenRetrievalError, UnauthorizedSSOTokenError)
    return isinstance(error, (*kinds, RuntimeError))


def _status(error: Any) -> int:
    return int(error.response["ResponseMetadata"]["HTTPStatusCode"])


def _split(uri: str) -> tuple[str, str]:
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    if not bucket:
        raise TwistError(f"{uri!r} names no bucket; write s3://BUCKET/KEY")
    return bucket, key


def _client() -> S3Client:
    # A client must not be shared with a forked child (a DataLoader worker), so each process has its own.
    return client_of_process(os.getpid())


@functools.cache
def client_of_process(pid: int) -> S3Client:  # noqa: ARG001 - the key of the cache
    """Makes the client of a process; endpoint, region and credentials come from boto3's usual sources.

    Raises:
        TwistError: the endpoint is no address.
    """
    import boto3
    from botocore.config import Config

    config = Config(
        retries={"total_max_attempts": 1},
        connect_timeout=10,
        read_timeout=60,
        max_pool_connections=CONNECTIONS,
        # Some stores send a range with the checksum of the whole object.
        response_checksum_validation="when_required",
    )
    try:
        return boto3.session.Session().client("s3", config=config)
    except ValueError as error:
        raise TwistError(f"{error}; AWS_ENDPOINT_URL_S3 is written https://HOST:PORT") from error


@contextlib.contextmanager
def _as_os_errors(uri: str) -> Iterator[None]:
    from http.client import HTTPException

    from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError
    from botocore.parsers import ResponseParserError
    from urllib3.exceptions import HTTPError

    try:
        yield
    except NoCredentialsError as error:
        # Not the file's fault: a caller that took this for a damaged file would drop it for good.
        raise ConnectionError(
            f"there are no credentials for {uri}: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
        ) from error
    except ClientError as error:
        if _status(error) == 404:
            is_bucket = error.response["Error"].get("Code") == "NoSuchBucket"
            raise FileNotFoundError(f"{'the bucket of ' if is_bucket else ''}{uri} does not exist") from error
        if _status(error) in (401, 403) and not _concerns_credentials(error):
            raise PermissionError(f"access to {uri} is denied: {error}") from error
        raise ConnectionError(f"{uri}: {error}") from error
    except (BotoCoreError, ResponseParserError, HTTPError, HTTPException, OSError, RuntimeError) as error:
        # botocore reads the body of an error answer, and parses it, outside of what it wraps in errors of its own.
        raise ConnectionError(f"{uri}: {error}") from error
    except TwistError:
        raise
    except (LookupError, ValueError) as error:  # of an answer whose headers break off
        raise ConnectionError(f"{uri}: the answer broke off ({type(error).__name__}: {error})") from error
