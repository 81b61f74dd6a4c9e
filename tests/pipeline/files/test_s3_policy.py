"""The policy in docs/s3.md allows every operation of the pipeline, and nothing beyond: held against moto's IAM."""

from __future__ import annotations

import json
import re
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import boto3
import pytest

from pipeline.files import s3, storage
from tests.s3_servers import moto, point_clients_at

if TYPE_CHECKING:
    from mypy_boto3_s3.client import S3Client

PAGE = Path(__file__).resolve().parents[3] / "docs/s3.md"
CORPORA, RUNS = "s3://corpora", "s3://results/runs"


def policy() -> str:
    (block,) = re.findall(r"```json\n(.*?)```", PAGE.read_text(), re.DOTALL)
    return block.replace("YOUR-CORPORA", "corpora").replace("YOUR-RUNS", "results")


@pytest.fixture
def user(monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Client]:
    """A client with the policy's rights alone, as the pipeline's own has them here."""
    monkeypatch.setattr(s3, "DENIED_PATIENCE_S", 0.1)
    with moto() as endpoint:
        point_clients_at(endpoint, monkeypatch)
        client, iam = boto3.client("s3"), boto3.client("iam", endpoint_url=endpoint)
        for bucket in ("corpora", "results", "secrets"):
            client.create_bucket(Bucket=bucket)
            client.put_object(Bucket=bucket, Key="speech/a.wav", Body=b"RIFF")
        iam.create_user(UserName="machine")
        iam.put_user_policy(UserName="machine", PolicyName="twist", PolicyDocument=policy())
        key = iam.create_access_key(UserName="machine")["AccessKey"]
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", key["AccessKeyId"])
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", key["SecretAccessKey"])
        s3.client_of_process.cache_clear()
        _ask(endpoint, b"0")  # from now on rights are checked
        try:
            yield boto3.session.Session().client("s3")  # boto3.client keeps the first credentials
        finally:
            _ask(endpoint, b"inf")
            s3.client_of_process.cache_clear()


def _ask(endpoint: str, unchecked_calls: bytes) -> None:
    headers = {"Content-Type": "text/plain"}
    request = urllib.request.Request(f"{endpoint}/moto-api/reset-auth", unchecked_calls, headers)
    urllib.request.urlopen(request).close()


def test_all_that_the_pipeline_does_is_allowed(user: S3Client, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert storage.list_files(CORPORA) == ["speech/a.wav"]
    assert storage.read_range(f"{CORPORA}/speech/a.wav", 1, 2) == b"IF"
    assert storage.size(f"{CORPORA}/speech/a.wav") == 4
    assert not storage.exists(f"{CORPORA}/speech/b.wav"), "a missing file is missing, not forbidden"
    (found,) = s3.list_folder(f"{CORPORA}/speech")
    s3.download(f"{CORPORA}/speech/a.wav", found, tmp_path / "a.wav")
    run = f"{RUNS}/first"
    storage.require_conditional_put(run)
    storage.write_bytes(f"{run}/small", b"1")
    assert storage.put_if_absent(f"{run}/marker", b"mine") and not storage.put_if_absent(f"{run}/marker", b"yours")
    monkeypatch.setattr(s3, "PART_BYTES", 5 * 2**20)
    storage.write_bytes(f"{run}/large", bytes(6 * 2**20))
    assert storage.size(f"{run}/large") == 6 * 2**20
    content, etag = s3.read_version(f"{run}/small")
    assert content == b"1" and s3.put_if_unchanged(f"{run}/small", b"2", etag)
    upload = user.create_multipart_upload(Bucket="results", Key="runs/first/given-up")["UploadId"]
    user.abort_multipart_upload(Bucket="results", Key="runs/first/given-up", UploadId=upload)
    for name in storage.list_files(run):
        storage.delete(f"{run}/{name}")
    assert storage.list_files(run) == []


@pytest.mark.usefixtures("user")
def test_nothing_else_is_allowed() -> None:
    refused = [
        lambda: storage.write_bytes(f"{CORPORA}/speech/a.wav", b"other"),
        lambda: storage.delete(f"{CORPORA}/speech/a.wav"),
        lambda: storage.read_bytes("s3://results/speech/a.wav"),
        lambda: storage.read_bytes("s3://secrets/speech/a.wav"),
        lambda: storage.list_files("s3://secrets"),
    ]
    for do in refused:
        with pytest.raises(PermissionError):
            do()


def test_the_page_explains_every_right_that_it_asks_for() -> None:
    asked = set(re.findall(r"s3:\w+", policy()))
    rows = set(re.findall(r"^\| `(s3:\w+)` \|", PAGE.read_text(), re.MULTILINE))
    assert rows == asked
    assert json.loads(policy())["Version"] == "2012-10-17"
