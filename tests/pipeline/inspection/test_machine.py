"""`twist doctor`: what is broken is told with what to do, and does not keep the other checks from answering."""

from __future__ import annotations

import importlib.metadata
import resource
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import boto3
import pytest

from jobs.__main__ import main
from pipeline.files import s3
from pipeline.inspection import machine
from pipeline.inspection.machine import GIB, Finding, examine
from tests.s3_servers import moto, point_clients_at


@pytest.fixture(autouse=True)
def _no_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch and Ray answer at once, unless a test says otherwise."""
    answers = {
        machine.TORCH: {"version": "2.13", "cuda": None, "devices": []},
        machine.RAY: {"CPU": 2.0},
    }
    monkeypatch.setattr(machine, "_answer_of", answers.get)


def found(run: str | None = None, *corpora: str) -> dict[str, Finding]:
    return {finding.what: finding for finding in examine(run, corpora)}


def test_this_machine_can_run_the_tests(tmp_path: Path) -> None:
    findings = found(str(tmp_path / "run"))
    assert not [finding for finding in findings.values() if finding.state == "broken"]
    assert {"Python", "packages", "torch", "Ray", "libsndfile", "PyAV", "memory", "run", "clock"} <= set(findings)


def test_whatever_is_not_ok_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "_answer_of", lambda _: "it does not start")
    (tmp_path / "file").touch()
    findings = found(str(tmp_path / "file/run"), str(tmp_path / "nothing"))
    broken = {what for what, finding in findings.items() if finding.state == "broken"}
    assert broken == {"torch", "Ray", "run", "corpus"}
    assert all(findings[what].remedy for what in broken)
    assert findings["PyAV"].state == "ok", "one thing that is broken hides nothing"


def test_a_torch_that_does_not_load_is_told_in_its_own_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    (tmp_path / "torch.py").write_text("raise ImportError('libcudart.so.12: cannot open shared object file')\n")
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    (finding,) = machine._torch()
    assert finding.state == "broken" and "libcudart.so.12" in finding.told and "inspect" in finding.remedy


def test_a_program_that_hangs_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    monkeypatch.setattr(machine, "STARTING_TAKES_AT_MOST_S", 0.2)
    assert machine._answer_of("import time; time.sleep(60)") == "no answer within 0 s"


def test_a_gpu_that_torch_does_not_see_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine.shutil, "which", lambda name: f"/usr/bin/{name}")
    assert "torch finds no GPU" in found()["GPU"].told
    devices = [["NVIDIA H100", 80 * GIB]]
    answers = {machine.TORCH: {"version": "2.13", "cuda": "13.0", "devices": devices}, machine.RAY: {"CPU": 2.0}}
    monkeypatch.setattr(machine, "_answer_of", answers.get)
    assert found()["GPU"] == Finding("GPU", "ok", "NVIDIA H100 with 80 GiB")


def test_packages_that_are_missing_or_old_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        importlib.metadata, "requires", lambda _: ["numpy>=999", "no-such-package", "mypy; extra == 'dev'"]
    )
    told = [finding.told for finding in machine._packages()]
    assert told[0].startswith("numpy is") and told[0].endswith("must be >=999")
    assert told[1:] == ["no-such-package is not installed"]


@pytest.mark.parametrize(("memory_gib", "state"), [(1, "broken"), (4, "note"), (16, "ok")])
def test_little_memory_is_told(memory_gib: int, state: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "memory_bytes", lambda: memory_gib * GIB)
    assert found()["memory"].state == state


def test_full_disks_and_small_shared_memory_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    usage = SimpleNamespace(total=64 * 2**20, free=2**20)
    monkeypatch.setattr(machine.shutil, "disk_usage", lambda _: usage)
    findings = found()
    assert findings["disk of the run"].state == findings["disk of the cache"].state == "broken"
    if sys.platform == "linux":
        assert findings["/dev/shm"].state == "note" and "--shm-size" in findings["/dev/shm"].remedy


def test_few_open_files_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (256, 256))
    assert "ulimit -n" in found()["open files"].remedy


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    with moto() as endpoint:
        point_clients_at(endpoint, monkeypatch)
        boto3.client("s3").create_bucket(Bucket="lab")
        boto3.client("s3").put_object(Bucket="lab", Key="speech/a.wav", Body=b"RIFF")
        yield "lab"


def test_s3_is_tried_and_left_as_it_was(bucket: str) -> None:
    findings = found(f"s3://{bucket}/run", f"s3://{bucket}/speech")
    assert findings["run"].state == findings["corpus"].state == findings["clock"].state == "ok"
    listed = boto3.client("s3").list_objects_v2(Bucket=bucket)
    assert [item["Key"] for item in listed["Contents"]] == ["speech/a.wav"]


def test_a_bucket_that_is_not_there_is_told_with_the_policy(bucket: str) -> None:
    findings = found(f"s3://not-{bucket}/run", f"s3://{bucket}/elsewhere")
    assert findings["run"].state == findings["corpus"].state == "broken"
    assert "docs/s3.md" in findings["run"].remedy


def test_a_wrong_clock_is_told(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    fast = SimpleNamespace(time=lambda: time.time() + 1200, monotonic=time.monotonic, sleep=time.sleep)
    monkeypatch.setattr(s3, "time", fast)
    (finding,) = machine._clock([f"s3://{bucket}/run"])
    assert finding.state == "broken" and finding.told.endswith(" s ahead of the store's")


def test_the_command_ends_with_1_where_something_is_broken(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--run", str(tmp_path)]) == 0
    assert not any(line.startswith("BROKEN") for line in capsys.readouterr().out.splitlines())
    assert list(tmp_path.iterdir()) == []
    assert main(["doctor", "--audio", str(tmp_path)]) == 1
    text = capsys.readouterr().out
    assert "BROKEN  corpus" in text and "-> name the folder" in text
