from __future__ import annotations

import json
import multiprocessing
import time
from typing import TYPE_CHECKING, Any

import boto3
import pytest

from model.training import checkpoint_parts, checkpoint_steps, checkpoint_writer
from model.training import sole_trainer as module
from model.training.checkpoint_writer import CheckpointWriter
from model.training.distributed import Ranks
from model.training.sole_trainer import LEASE, Lease, sole_trainer
from pipeline.errors import TwistError
from pipeline.files import s3, storage
from tests.model.training.toy import ToySettings, train_toy
from tests.s3_servers import FaultyProxy, moto, point_clients_at

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


def lease_of(folder: str, until_s: float, pid: int = 1, **table: object) -> None:
    owner = {"id": "theirs", "host": "elsewhere", "pid": pid, **table, "started": "then", "until_s": until_s}
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


@pytest.fixture(scope="module")
def dead_pid() -> int:
    dead = multiprocessing.get_context("spawn").Process(target=time.monotonic)
    dead.start()
    dead.join()
    assert dead.pid is not None
    return dead.pid


def test_a_process_of_this_machine_that_died_holds_nothing(dead_pid: int, faulty_bucket: str) -> None:
    lease_of(faulty_bucket, time.time() + 1000, dead_pid, **module._process_table())
    with Lease(faulty_bucket) as lease:
        assert not lease.is_lost


@pytest.mark.parametrize("other", [{"boot_id": "another kernel's"}, {"pid_namespace": 1}, {"boot_id": None}])
def test_a_process_that_would_not_be_seen_from_here_is_not_taken_for_dead(
    other: dict[str, object], dead_pid: int, faulty_bucket: str
) -> None:
    """Containers in one network share a host's name, and virtual machines may all be called localhost."""
    lease_of(faulty_bucket, time.time() + 1000, dead_pid, **{**module._process_table(), **other})
    with pytest.raises(TwistError, match="is being trained into"), Lease(faulty_bucket):
        pytest.fail("a living training's folder was taken over")


def test_where_the_kernel_tells_nothing_no_owner_is_taken_for_dead(
    dead_pid: int, faulty_bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    nothing = {"boot_id": None, "pid_namespace": None}
    monkeypatch.setattr(module, "_process_table", lambda: nothing)
    lease_of(faulty_bucket, time.time() + 1000, dead_pid, **nothing)
    with pytest.raises(TwistError, match="is being trained into"), Lease(faulty_bucket):
        pytest.fail("a living training's folder was taken over")


def test_a_lease_that_was_taken_over_is_lost_and_left_to_its_new_owner(faulty_bucket: str) -> None:
    with Lease(faulty_bucket) as lease:
        lease_of(faulty_bucket, time.time() + 1000)
        lease.renew()
        assert lease.is_lost
    assert json.loads(storage.read_bytes(storage.join(faulty_bucket, LEASE)))["id"] == "theirs"


def test_a_lease_that_was_not_renewed_in_time_is_lost_unless_it_still_can_be(
    faulty_bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as short:
        short.setattr(module, "LEASE_S", module.CLOCKS_DIFFER_S)
        lease = Lease(faulty_bucket)
        lease.__enter__()
    assert lease.is_lost, "nobody has told it so: a paused process sees by its clock alone"
    lease.confirm()
    assert not lease.is_lost, "nobody had taken it over"
    lease_of(faulty_bucket, time.time() + 1000)
    with pytest.raises(TwistError, match=f"another training has taken {faulty_bucket} over"):
        lease.confirm()
    lease.__exit__()


def taken_over(folder: str) -> None:
    """What the second of two trainings does as it starts."""
    lease_of(folder, time.time() + 1000)
    checkpoint_steps.remove_unfinished(folder)


def test_a_checkpoint_of_a_training_that_was_overtaken_is_never_completed(
    faulty_bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was paused while a thread wrote the checkpoint, and another training began."""
    folder, write_part = f"{faulty_bucket}/checkpoints", checkpoint_parts.write_part

    def write_and_pause(*part: Any, **more: Any) -> None:
        write_part(*part, **more)
        taken_over(folder)

    monkeypatch.setattr(checkpoint_writer, "write_part", write_and_pause)
    with (
        pytest.raises(TwistError, match=f"another training has taken {folder} over"),
        sole_trainer(folder, Ranks()) as lease,
        CheckpointWriter(folder, 0, 1, in_background=True, lease=lease) as writer,
    ):
        lease_ends(lease, monkeypatch)
        writer.save(2, {}, None, {}, keep_last=1, best_step=None)
    assert checkpoint_steps.steps(folder) == []


PAUSES = {
    "before the placeholder": (checkpoint_writer, "put_placeholder"),
    "before the lease is confirmed": (Lease, "confirm"),
    "before the parts": (checkpoint_writer, "write_part"),
    "after the lease was confirmed for the last time": (checkpoint_writer, "commit"),
    "before the list is put": (s3, "put_if_unchanged"),
}


@pytest.mark.parametrize("place", PAUSES)
def test_wherever_a_training_is_paused_it_completes_nothing_once_it_was_overtaken(
    place: str, faulty_bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = f"{faulty_bucket}/checkpoints"
    owner, name = PAUSES[place]
    go_on = getattr(owner, name)
    overtakings: list[str] = []

    def pause(*arguments: Any) -> Any:
        # Renewals of leases take the same way to the store as lists do.
        if not overtakings and not (name == "put_if_unchanged" and str(arguments[0]).endswith(LEASE)):
            overtakings.append(place)
            taken_over(folder)
        return go_on(*arguments)

    with (
        pytest.raises(TwistError, match=rf"another training has taken {folder} over|was removed after it was written"),
        sole_trainer(folder, Ranks()) as lease,
        CheckpointWriter(folder, 0, 1, in_background=False, lease=lease) as writer,
    ):
        monkeypatch.setattr(owner, name, pause)
        writer.save(2, {}, None, {}, keep_last=1, best_step=None)
    assert overtakings == [place]
    assert checkpoint_steps.steps(folder) == []


def test_one_that_was_overtaken_completes_no_checkpoint_of_its_successor(faulty_bucket: str) -> None:
    folder = f"{faulty_bucket}/checkpoints"
    ours = checkpoint_parts.put_placeholder(folder, 2)
    taken_over(folder)
    theirs = checkpoint_parts.put_placeholder(folder, 2)
    checkpoint_parts.write_part(folder, 2, 0, 1, {}, None, {})
    parts = [checkpoint_parts.read_part_checksums(folder, 2, 0)]
    with pytest.raises(TwistError, match=f"another training has taken {folder} over"):
        checkpoint_parts.commit(folder, 2, parts, ours)
    with pytest.raises(TwistError, match=r"another training writes .*00000002"):
        checkpoint_parts.put_placeholder(folder, 2)
    assert checkpoint_steps.steps(folder) == []
    checkpoint_parts.commit(folder, 2, parts, theirs)
    assert checkpoint_steps.steps(folder) == [2]


def lease_ends(lease: Lease | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "_until_s", 0.0)


def test_a_training_that_was_overtaken_saves_nothing_more(faulty_bucket: str) -> None:
    folder = f"{faulty_bucket}/checkpoints"

    def pause(event: dict[str, Any]) -> None:
        if event["event"] == "step" and event["step"] == 3:
            taken_over(folder)

    with pytest.raises(TwistError, match=f"another training has taken {folder} over"):
        train_toy(ToySettings(checkpoint_every=2, save_in_background=False), folder, pause)
    assert checkpoint_steps.steps(folder) == [2]


def test_a_checkpoint_whose_files_were_removed_is_not_completed(faulty_bucket: str, tmp_path: Path) -> None:
    for folder in (f"{faulty_bucket}/checkpoints", str(tmp_path)):
        placeholder = checkpoint_parts.put_placeholder(folder, 2)
        checkpoint_parts.write_part(folder, 2, 0, 1, {}, None, {})
        parts = [checkpoint_parts.read_part_checksums(folder, 2, 0)]
        storage.delete(storage.join(checkpoint_steps.unfinished_folder(folder, 2), "trainer_state.json"))
        with pytest.raises(TwistError, match=r"00000002 cannot be completed: trainer_state.json was removed"):
            checkpoint_parts.commit(folder, 2, parts, placeholder)
        assert checkpoint_steps.steps(folder) == []


def test_a_store_that_cannot_renew_a_lease_is_told_before_anything_is_trained(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with moto() as endpoint, FaultyProxy(endpoint, seed=1, share_of_faults=0.0).running() as proxy:
        point_clients_at(proxy.url, monkeypatch)
        boto3.client("s3").create_bucket(Bucket="runs")
        puts: list[str] = []

        def refuse_if_match(method: str, path: str) -> tuple[int, str] | None:
            if method == "PUT" and path.endswith(LEASE):
                puts.append(path)
            return (501, "NotImplemented") if method == "PUT" and len(puts) > 1 else None

        proxy.refusal = refuse_if_match
        with pytest.raises(TwistError, match=r"it has not changed \(If-Match\), which it answers with 501"):
            train_toy(ToySettings(), "s3://runs/checkpoints")
        assert storage.list_files("s3://runs/checkpoints") == [], "the lease is given back"
        s3.client_of_process.cache_clear()


def test_of_two_that_find_a_lease_run_out_one_gets_it(faulty_bucket: str) -> None:
    uri = storage.join(faulty_bucket, LEASE)
    storage.write_bytes(uri, b"old")
    _, etag = s3.read_version(uri)
    assert s3.put_if_unchanged(uri, b"first", etag)
    assert not s3.put_if_unchanged(uri, b"second", etag)
    assert storage.read_bytes(uri) == b"first"
