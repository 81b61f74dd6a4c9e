"""Folders and buckets to write to, and audio to read, for tests of the pipeline."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Protocol

import boto3
import numpy as np
import pytest
import soundfile

from pipeline.files import s3
from tests.s3_servers import moto, point_clients_at

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(scope="session")
def _s3_endpoint() -> Iterator[str]:
    with moto() as endpoint:
        yield endpoint


@pytest.fixture
def s3_folder(_s3_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """An empty bucket of a local S3 server."""
    point_clients_at(_s3_endpoint, monkeypatch)
    bucket = f"test-{secrets.token_hex(8)}"
    boto3.client("s3").create_bucket(Bucket=bucket)
    yield f"s3://{bucket}"
    s3.client_of_process.cache_clear()


@pytest.fixture(params=["local", "s3"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty folder, on disk and on S3: a test that asks for it runs on both."""
    if request.param == "local":
        return str(tmp_path / "folder")
    s3_folder: str = request.getfixturevalue("s3_folder")
    return f"{s3_folder}/folder"


class WriteTone(Protocol):
    def __call__(
        self, path: Path, duration_s: float = ..., *, rate_hz: int = ..., channels: int = ..., subtype: str = ...
    ) -> Path: ...


@pytest.fixture
def write_tone() -> WriteTone:
    """Writes an audio file of a tone per channel (200, 400, ... Hz) of half amplitude; the suffix says which format."""

    def write(
        path: Path, duration_s: float = 3.0, *, rate_hz: int = 16_000, channels: int = 1, subtype: str = "PCM_16"
    ) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        times_s = np.arange(round(duration_s * rate_hz)) / rate_hz
        tones = [0.5 * np.sin(2 * np.pi * 200 * (channel + 1) * times_s) for channel in range(channels)]
        soundfile.write(path, np.stack(tones, axis=1), rate_hz, subtype=subtype)
        return path

    return write
