"""S3 that refuses requests, drops connections or loses answers half of the time: what is stored is still right."""

from __future__ import annotations

import os
import secrets
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import boto3
import pytest
from botocore.exceptions import CredentialRetrievalError, MetadataRetrievalError

from pipeline.audio.read import Span, read_spans
from pipeline.errors import TwistError
from pipeline.files import s3, storage
from tests.s3_servers import FAULTS, FaultyProxy, moto, point_clients_at, rclone

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="module", params=["moto", pytest.param("rclone", marks=pytest.mark.faults)])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """Which server, and its endpoint."""
    with moto() if request.param == "moto" else rclone(tmp_path_factory.mktemp("rclone")) as endpoint:
        yield request.param, endpoint


@pytest.fixture
def proxy(server: tuple[str, str]) -> Iterator[FaultyProxy]:
    with FaultyProxy(server[1], seed=0).running() as proxy:
        yield proxy


@pytest.fixture
def bucket(server: tuple[str, str], proxy: FaultyProxy, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """An empty bucket, behind the proxy."""
    point_clients_at(server[1], monkeypatch)
    name = f"test-{secrets.token_hex(8)}"
    boto3.client("s3").create_bucket(Bucket=name)
    point_clients_at(proxy.url, monkeypatch)
    monkeypatch.setattr(s3, "LONGEST_PAUSE_S", 0.5)  # a test cannot wait as long as a run
    yield f"s3://{name}"
    s3.client_of_process.cache_clear()


def test_what_is_stored_is_read_listed_and_deleted(bucket: str, proxy: FaultyProxy) -> None:
    contents = {f"folder/{number:03d}": os.urandom(1000 * number) for number in range(40)}
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda item: storage.write_bytes(f"{bucket}/{item[0]}", item[1]), contents.items()))
        assert storage.list_files(bucket) == sorted(contents)
        read = list(threads.map(lambda name: storage.read_bytes(f"{bucket}/{name}"), contents))
    assert read == list(contents.values())
    assert storage.read_range(f"{bucket}/folder/010", 100, 50) == contents["folder/010"][100:150]
    assert storage.size(f"{bucket}/folder/010") == 10_000
    with storage.open_read(f"{bucket}/folder/039") as file:
        file.seek(20_000)
        assert file.read() == contents["folder/039"][20_000:]
    for name in contents:
        storage.delete(f"{bucket}/{name}")
    assert storage.list_files(bucket) == []
    assert set(proxy.met) == set(FAULTS), "this test is to meet every fault"


def test_two_attempts_leave_one_object(bucket: str, server: tuple[str, str]) -> None:
    content = os.urandom(5000)
    with ThreadPoolExecutor(8) as threads:
        told = list(threads.map(lambda _: storage.put_if_absent(f"{bucket}/part", content), range(8)))
    assert storage.list_files(bucket) == ["part"]
    assert storage.read_bytes(f"{bucket}/part") == content
    if server[0] == "moto":  # which honours the condition; the answer that says "mine" may be lost
        assert sum(told) <= 1
        assert not storage.put_if_absent(f"{bucket}/part", b"other")
        assert storage.read_bytes(f"{bucket}/part") == content, "the first part was replaced"


def test_large_objects_go_up_in_parts_and_whole(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3, "PART_BYTES", 5 * 2**20)  # the smallest that S3 takes
    content = os.urandom(17 * 2**20 + 12345)
    storage.write_bytes(f"{bucket}/large", content)
    assert storage.read_bytes(f"{bucket}/large") == content
    assert storage.list_files(bucket) == ["large"]


def test_an_upload_that_fails_leaves_no_parts(
    bucket: str, server: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", server[1])
    s3.client_of_process.cache_clear()
    monkeypatch.setattr(s3, "PART_BYTES", 5 * 2**20)
    client = s3._client()
    upload_part = client.upload_part

    def fail_at_the_second(**arguments: object) -> object:
        if arguments["PartNumber"] == 2:
            raise KeyboardInterrupt
        return upload_part(**arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(client, "upload_part", fail_at_the_second)
    with pytest.raises(KeyboardInterrupt):
        storage.write_bytes(f"{bucket}/large", os.urandom(12 * 2**20))
    assert storage.list_files(bucket) == []
    if server[0] == "moto":
        uploads = client.list_multipart_uploads(Bucket=bucket.removeprefix("s3://"))
        assert not uploads.get("Uploads"), "parts of a failed upload stay, and are paid for"


def test_a_store_that_is_gone_for_a_while_is_waited_for(bucket: str, proxy: FaultyProxy) -> None:
    storage.write_bytes(f"{bucket}/before", b"x")
    proxy.is_down = True
    back = threading.Timer(3.0, lambda: setattr(proxy, "is_down", False))
    back.start()
    storage.write_bytes(f"{bucket}/while", b"y")
    assert storage.list_files(bucket) == ["before", "while"]
    back.join()


def test_patience_ends(bucket: str, proxy: FaultyProxy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3, "PATIENCE_S", 1.0)
    proxy.is_down = True
    with pytest.raises(ConnectionError, match=f"{bucket}/never"):
        storage.write_bytes(f"{bucket}/never", b"x")


def test_what_will_not_pass_is_told_at_once(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    tries = []
    monkeypatch.setattr(s3.time, "sleep", lambda seconds: tries.append(seconds))
    monkeypatch.setattr(s3, "PATIENCE_S", 1e9)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    s3.client_of_process.cache_clear()
    with pytest.raises(ConnectionError, match=f"there are no credentials for {bucket}/file.*AWS_ACCESS_KEY_ID"):
        storage.read_bytes(f"{bucket}/file")
    with pytest.raises(ConnectionError, match="there are no credentials"):  # and no audio is dropped as unreadable
        list(read_spans([Span(f"{bucket}/file.flac", None, 0.0, 1.0)]))
    assert tries == [], "credentials that are missing were waited for"


def test_credentials_that_cannot_be_renewed_for_a_while_are_waited_for(
    bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3, "_access", s3._Access())
    storage.write_bytes(f"{bucket}/file", b"x")
    failures = [
        CredentialRetrievalError(provider="a role", error_msg="timed out"),
        MetadataRetrievalError(error_msg="503"),
        RuntimeError("Credentials were refreshed, but the refreshed credentials are still expired."),
    ]
    client = s3._client()
    get_object = client.get_object

    def fail_at_first(**arguments: object) -> object:
        if failures:
            raise failures.pop()
        return get_object(**arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(client, "get_object", fail_at_first)
    assert storage.read_bytes(f"{bucket}/file") == b"x"
    assert not failures


def test_credentials_that_cannot_be_had_end_in_a_sentence(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3, "_access", s3._Access())
    monkeypatch.setattr(s3, "DENIED_PATIENCE_S", 0.2)

    def fail(**_: object) -> object:
        raise CredentialRetrievalError(provider="a role", error_msg="timed out")

    monkeypatch.setattr(s3._client(), "get_object", fail)
    with pytest.raises(ConnectionError, match=r"file: .*a role.*timed out"):
        storage.size(f"{bucket}/file")


def test_an_endpoint_that_is_no_address(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "localhost:9000")
    s3.client_of_process.cache_clear()
    with pytest.raises(TwistError, match=r"localhost:9000.*AWS_ENDPOINT_URL_S3 is written https://HOST:PORT"):
        storage.read_bytes(f"{bucket}/file")


def test_sizes_and_folders(bucket: str, server: tuple[str, str]) -> None:
    for name, content in {"empty": b"", "one": b"1", "many": b"m" * 100_000}.items():
        storage.write_bytes(f"{bucket}/sizes/{name}", content)
        assert storage.size(f"{bucket}/sizes/{name}") == len(content)
    with pytest.raises(FileNotFoundError):
        storage.size(f"{bucket}/sizes/none")
    if server[0] == "moto":  # on a disk, as rclone has it, there are no such names
        storage.write_bytes(f"{bucket}/sizes/folder/", b"")
        storage.write_bytes(f"{bucket}/sizes/odd.wav/", b"audio")
        assert "odd.wav/" in storage.list_files(f"{bucket}/sizes")
        assert "folder/" not in storage.list_files(f"{bucket}/sizes")
