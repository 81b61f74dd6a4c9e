from __future__ import annotations

import hashlib
import subprocess
from pathlib import Path
from unittest.mock import Mock

import pytest

from pipeline import sha256sums
from pipeline.files import s3, storage
from pipeline.files.checksums import PIECE_BYTES, sha256_of, sha256_of_files
from pipeline.sha256sums import FILES_PER_TASK, SHA256SUMS
from pipeline.work import cluster


@pytest.mark.parametrize("num_bytes", [0, 1, PIECE_BYTES - 1, PIECE_BYTES, PIECE_BYTES + 1])
def test_sha256_of_a_file(folder: str, num_bytes: int) -> None:
    content = (b"twist" * (num_bytes // 5 + 1))[:num_bytes]
    uri = storage.join(folder, "file")
    storage.write_bytes(uri, content)
    assert sha256_of(uri) == hashlib.sha256(content).hexdigest()
    with pytest.raises(FileNotFoundError):
        sha256_of(storage.join(folder, "other"))


def test_a_small_file_on_s3_takes_one_request(s3_folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    uri = storage.join(s3_folder, "file")
    storage.write_bytes(uri, b"twist")
    calls = Mock(side_effect=s3._patiently)
    monkeypatch.setattr(s3, "_patiently", calls)
    sha256_of(uri)
    assert calls.call_count == 1


def test_files_together_have_one_sha256_by_names_and_contents(tmp_path: Path) -> None:
    paths = [tmp_path / "config.json", tmp_path / "model.safetensors"]
    for path in paths:
        path.write_text(path.name)
    found = sha256_of_files(paths)
    assert found == sha256_of_files(reversed(paths)), "it depends on the order"
    paths[0].write_text("other")
    assert found != sha256_of_files(paths)


@pytest.mark.parametrize("is_spread", [False, True])
def test_the_list_finds_what_changed_and_is_sha256sum_s(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_spread: bool
) -> None:
    files = [f"speech/part-{number:06d}.parquet" for number in range(2 * FILES_PER_TASK + 1)]
    (tmp_path / "speech").mkdir()
    for file in files:
        (tmp_path / file).write_text(file)
    if is_spread:  # a cluster would do the same in other processes
        monkeypatch.setattr("pipeline.work.map_tasks.SECONDS_HERE", 0.0)
        monkeypatch.setattr(cluster, "map_tasks", map)
    monkeypatch.chdir(tmp_path.parent)
    assert sha256sums.write(tmp_path.name, files) == sha256_of(str(tmp_path / SHA256SUMS))
    subprocess.run(["sha256sum", "--check", "--strict", "--quiet", SHA256SUMS], cwd=tmp_path, check=True)
    sums = sha256sums.read(str(tmp_path))
    assert list(sums) == files
    assert not list(sha256sums.differences(str(tmp_path), sums))
    (tmp_path / files[3]).write_text("other")
    (tmp_path / files[-1]).unlink()
    changed, missing = sha256sums.differences(str(tmp_path), sums)
    assert changed.startswith(f"{tmp_path / files[3]} is not as it was")
    assert missing == f"{tmp_path / files[-1]} is missing"
    with pytest.raises(FileNotFoundError, match=f"{files[-1]} does not exist"):
        sha256sums.write(str(tmp_path), files)
