from __future__ import annotations

import json
import multiprocessing
import time
from typing import TYPE_CHECKING

import pytest

from model.training import sole_trainer as module
from model.training.distributed import Ranks
from model.training.sole_trainer import LEASE, Lease, sole_trainer
from pipeline.errors import TwistError
from pipeline.files import s3, storage
from tests.model.training.toy import ToySettings, train_toy

if TYPE_CHECKING:
    from pathlib import Path

    from model.training.training import OnEvent


@pytest.fixture(params=["disk", "s3"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path) if request.param == "disk" else f"{request.getfixturevalue('faulty_bucket')}/checkpoints"


def test_one_trainer_at_a_time_and_the_next_one_afterwards(folder: str) -> None:
    for _ in range(2):
        with (
            sole_trainer(folder, Ranks()),
            pytest.raises(TwistError, match=r"by process \d+"),
            sole_trainer(folder, Ranks()),
        ):
            pytest.fail("two trainers were let in")


def test_a_second_training_changes_nothing(tmp_path: Path) -> None:
    settings = ToySettings(checkpoint_every=2)
    whole = train_toy(settings, str(tmp_path / "whole"))

    def second(event: dict[str, object]) -> None:
        if event["event"] == "step":
            with pytest.raises(TwistError, match="in use by process"):
                train_toy(settings, str(tmp_path / "both"))

    on_event: OnEvent = second
    both = train_toy(settings, str(tmp_path / "both"), on_event)
    assert both.num_seen == whole.num_seen
    steps = [
        [json.loads(line)["step"] for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        for name in ("whole", "both")
    ]
    assert steps[0] == steps[1]


def lease_of(folder: str, until_s: float, host: str = "elsewhere", pid: int = 1) -> None:
    owner = {"id": "theirs", "host": host, "pid": pid, "started": "then", "until_s": until_s}
    storage.write_bytes(storage.join(folder, LEASE), json.dumps(owner).encode())


def test_a_lease_says_who_is_at_work_and_runs_out(faulty_bucket: str) -> None:
    folder = f"{faulty_bucket}/checkpoints"
    lease_of(folder, time.time() + 1000)
    with (
        pytest.raises(TwistError, match=r"by process 1 on elsewhere since then; its lease runs until \d+-"),
        Lease(folder),
    ):
        pytest.fail("it was let in")
    for content in (time.time() - 1, None):
        if content is None:
            storage.write_bytes(storage.join(folder, LEASE), b"{half")
        else:
            lease_of(folder, content)
        with Lease(folder) as lease:
            lease.renew()
            assert not lease.is_lost
            assert json.loads(storage.read_bytes(storage.join(folder, LEASE)))["until_s"] > time.time()
        assert not storage.exists(storage.join(folder, LEASE)), "it is given back at the end"


def test_a_process_of_this_machine_that_died_holds_nothing(faulty_bucket: str) -> None:
    dead = multiprocessing.get_context("spawn").Process(target=time.monotonic)
    dead.start()
    dead.join()
    assert dead.pid is not None
    lease_of(faulty_bucket, time.time() + 1000, module.socket.gethostname(), dead.pid)
    with Lease(faulty_bucket) as lease:
        assert not lease.is_lost


def test_a_lease_that_was_taken_over_is_lost_and_left_to_its_new_owner(faulty_bucket: str) -> None:
    with Lease(faulty_bucket) as lease:
        lease_of(faulty_bucket, time.time() + 1000)
        lease.renew()
        assert lease.is_lost
    assert json.loads(storage.read_bytes(storage.join(faulty_bucket, LEASE)))["id"] == "theirs"


def test_of_two_that_find_a_lease_run_out_one_gets_it(faulty_bucket: str) -> None:
    uri = storage.join(faulty_bucket, LEASE)
    storage.write_bytes(uri, b"old")
    _, etag = s3.read_version(uri)
    assert s3.put_if_unchanged(uri, b"first", etag)
    assert not s3.put_if_unchanged(uri, b"second", etag)
    assert storage.read_bytes(uri) == b"first"
