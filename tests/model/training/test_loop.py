"""What the loop gives every training: resumed equals uninterrupted, signals, checkpoints, metrics, processes."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from model.training import checkpoint, checkpoint_steps
from model.training.metrics import read_metrics
from pipeline.errors import TwistError
from pipeline.files.checksums import sha256_of
from tests.model.training.toy import ToySettings, train_toy

if TYPE_CHECKING:
    from model.training.training import OnEvent

ROOT = Path(__file__).parents[3]
SETTINGS = ToySettings()
# The figure that depends on time, and so differs between runs.
PACE = "values_per_s"


class Killed(BaseException):
    """Stands in for a SIGKILL: the trainer must not handle it."""


def at_step(step: int, do: Any) -> OnEvent:
    def on_event(event: dict[str, Any]) -> None:
        if event["event"] == "step" and event["step"] == step:
            do()

    return on_event


def kill() -> None:
    raise Killed


def curve(folder: Path | str) -> list[dict[str, Any]]:
    return [{name: value for name, value in line.items() if name != PACE} for line in read_metrics(str(folder))]


def files(folder: Path, step: int) -> dict[str, bytes]:
    """The content of a checkpoint: weights, optimizer and state."""
    return {path.name: path.read_bytes() for path in Path(checkpoint_steps.step_folder(str(folder), step)).iterdir()}


def assert_same_run(folder: Path, reference: Path, step: int) -> None:
    assert curve(folder) == curve(reference), "the metrics differ from those of a run never stopped"
    ours, theirs = files(folder, step), files(reference, step)
    differing = [name for name in theirs if ours.get(name) != theirs[name]]
    assert not differing, f"{differing} differ from those of a run never stopped"


@pytest.mark.parametrize("in_background", [True, False])
def test_resumed_equals_uninterrupted(in_background: bool, tmp_path: Path) -> None:
    settings = dataclasses.replace(
        SETTINGS, checkpoint_every=4, validate_every=5, log_every=3, save_in_background=in_background
    )
    whole = train_toy(settings, str(tmp_path / "whole"))
    for step in (3, 6, 9):  # before the first checkpoint, between two, and again later
        with pytest.raises(Killed):
            train_toy(settings, str(tmp_path / "killed"), at_step(step, kill))
    resumed = train_toy(settings, str(tmp_path / "killed"))
    assert_same_run(tmp_path / "killed", tmp_path / "whole", 12)
    assert resumed == dataclasses.replace(whole, checkpoint=resumed.checkpoint)
    assert whole.num_seen == 12 * SETTINGS.batch_size * 8


def test_resumed_from_s3_equals_uninterrupted(faulty_bucket: str, tmp_path: Path) -> None:
    settings = dataclasses.replace(SETTINGS, checkpoint_every=4)
    whole = train_toy(settings, str(tmp_path / "whole"))
    with pytest.raises(Killed):
        train_toy(settings, f"{faulty_bucket}/killed", at_step(6, kill))
    resumed = train_toy(settings, f"{faulty_bucket}/killed")
    assert resumed == dataclasses.replace(whole, checkpoint=f"{faulty_bucket}/killed/00000012")
    assert curve(f"{faulty_bucket}/killed") == curve(tmp_path / "whole")
    copied = checkpoint.local_copy(resumed.checkpoint, with_optimizer=True)
    assert {path.name: path.read_bytes() for path in copied.iterdir()} == files(tmp_path / "whole", 12)


def test_sigterm_saves_and_stops(tmp_path: Path) -> None:
    train_toy(SETTINGS, str(tmp_path / "whole"))
    events = []

    def on_event(event: dict[str, Any]) -> None:
        events.append(event["event"])
        if event["event"] == "step" and event["step"] == 5:
            os.kill(os.getpid(), signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    stopped = train_toy(SETTINGS, str(tmp_path / "stopped"), on_event)
    assert signal.getsignal(signal.SIGTERM) == before, "the handler of SIGTERM must be put back"
    assert events[-2:] == ["checkpoint", "stopped"]
    assert (stopped.is_finished, stopped.best) == (False, None)
    assert stopped.num_steps == 6, "the step under way is finished, and one more may have been begun"
    assert stopped.checkpoint == str(tmp_path / "stopped" / "00000006")
    assert train_toy(SETTINGS, str(tmp_path / "stopped")).is_finished
    assert_same_run(tmp_path / "stopped", tmp_path / "whole", 12)


def test_two_processes_equal_one_and_stop_together(tmp_path: Path) -> None:
    settings = dataclasses.replace(SETTINGS, dropout=0.0, validate_every=6)

    def torchrun(folder: Path, *stop_at: str) -> dict[str, Any]:
        launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
        program = ["-m", "tests.model.training.toy", str(folder), json.dumps(dataclasses.asdict(settings)), *stop_at]
        done = subprocess.run(
            [sys.executable, *launcher, *program],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        outcome: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return outcome

    # Only one process gets the signal; a deadlock would end in the timeout.
    stopped = torchrun(tmp_path / "two", "4")
    assert (stopped["num_steps"], stopped["is_finished"]) == (5, False)
    assert torchrun(tmp_path / "two")["is_finished"]
    # What one process finds damaged ends both: the other would wait for it for ever.
    weights = tmp_path / "damaged" / "00000012" / "model.safetensors"
    shutil.copytree(tmp_path / "two", tmp_path / "damaged")
    weights.write_bytes(weights.read_bytes()[:-4] + b"ouch")
    with pytest.raises(AssertionError, match=r"00000012 is damaged \(model.safetensors\)"):
        torchrun(tmp_path / "damaged")

    train_toy(settings, str(tmp_path / "one"))
    one, two = curve(tmp_path / "one"), curve(tmp_path / "two")
    assert [line["step"] for line in one] == [line["step"] for line in two], "only one process may write metrics"
    for line, other in zip(one, two, strict=True):
        for name in {"loss", "grad_norm"} & line.keys():
            assert other[name] == pytest.approx(line[name], rel=1e-5), f"{name} at step {line['step']}"
    ours, theirs = (
        load_file(Path(checkpoint_steps.step_folder(str(tmp_path / name), 12), "model.safetensors"))
        for name in ("one", "two")
    )
    for name, tensor in theirs.items():
        torch.testing.assert_close(ours[name], tensor, rtol=1e-5, atol=1e-6, msg=f"{name} differs")


def test_best_and_newest_checkpoints_are_kept(tmp_path: Path) -> None:
    # The rate rises, and so do the errors.
    settings = dataclasses.replace(SETTINGS, peak_lr=50.0, num_steps=10, validate_every=2, checkpoint_every=2)
    outcome = train_toy(settings, str(tmp_path))
    validated = {line["step"]: line["validation"]["squared"] for line in curve(tmp_path) if "validation" in line}
    assert list(validated) == [2, 4, 6, 8, 10]
    best = min(validated, key=validated.__getitem__)
    assert best < 8, "the settings must make later steps worse, or this tests nothing"
    assert checkpoint_steps.steps(str(tmp_path)) == sorted({best, 8, 10})
    assert outcome.checkpoint == str(tmp_path / f"{best:08d}")
    assert outcome.best is not None
    assert outcome.best.squared == validated[best]


def test_finished_run_has_nothing_to_do(tmp_path: Path) -> None:
    first = train_toy(SETTINGS, str(tmp_path))
    metrics = (tmp_path / "metrics.jsonl").read_bytes()
    events: list[dict[str, Any]] = []
    assert train_toy(SETTINGS, str(tmp_path), events.append) == first
    assert [event["event"] for event in events] == ["start"]
    assert (tmp_path / "metrics.jsonl").read_bytes() == metrics


def test_a_finished_run_goes_on_to_more_steps_by_the_schedule_over_all_of_them(tmp_path: Path) -> None:
    class Scheduled(type(SETTINGS)):  # type: ignore[misc]
        """The toy's settings, with a schedule that depends on the number of steps."""

        @property
        def changeable(self) -> frozenset[str]:
            return frozenset(super().changeable - {"num_steps"})

    short = Scheduled(**{field.name: getattr(SETTINGS, field.name) for field in dataclasses.fields(SETTINGS)})
    longer = dataclasses.replace(short, num_steps=short.num_steps + 8)
    train_toy(short, str(tmp_path / "whole"))
    train_toy(longer, str(tmp_path / "whole"))
    train_toy(short, str(tmp_path / "stopped"))

    def stop(event: dict[str, Any]) -> None:
        if event["event"] == "step" and event["step"] == short.num_steps + 3:
            os.kill(os.getpid(), signal.SIGTERM)

    assert not train_toy(longer, str(tmp_path / "stopped"), stop).is_finished
    with pytest.raises(TwistError, match="num_steps was"):  # under way, the rates of the steps left would change
        train_toy(dataclasses.replace(longer, num_steps=longer.num_steps + 1), str(tmp_path / "stopped"))
    assert train_toy(longer, str(tmp_path / "stopped")).is_finished
    assert_same_run(tmp_path / "stopped", tmp_path / "whole", longer.num_steps)


def test_longer_run_goes_on(tmp_path: Path) -> None:
    train_toy(SETTINGS, str(tmp_path))
    assert train_toy(dataclasses.replace(SETTINGS, num_steps=14), str(tmp_path)).num_steps == 14
    with pytest.raises(TwistError, match=r"a checkpoint of step 14 already; set toy\.num_steps"):
        train_toy(SETTINGS, str(tmp_path))


def test_changed_settings_are_refused_by_name(tmp_path: Path) -> None:
    train_toy(SETTINGS, str(tmp_path))
    changed = dataclasses.replace(SETTINGS, peak_lr=0.02, batch_size=2, log_every=7)
    with pytest.raises(TwistError, match=r"peak_lr was 0\.01, is 0\.02; batch_size was 4, is 2\. Set them back"):
        train_toy(changed, str(tmp_path))


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer-00000-of-00001.safetensors", "trainer_state.json"])
def test_damaged_checkpoints_are_never_gone_on_from(name: str, tmp_path: Path) -> None:
    folder = Path(train_toy(SETTINGS, str(tmp_path)).checkpoint)
    content = bytearray((folder / name).read_bytes())
    content[-20] ^= 1
    (folder / name).write_bytes(content)
    with pytest.raises(TwistError, match=rf"00000012.*{name}|{name}.*damaged"):
        train_toy(dataclasses.replace(SETTINGS, num_steps=14), str(tmp_path))


def test_a_loss_that_is_not_finite_changes_no_weight(tmp_path: Path) -> None:
    settings = dataclasses.replace(SETTINGS, breaks_at=3, checkpoint_every=2)
    with pytest.raises(TwistError, match=r"step 3: not all is finite \(loss inf.*It was batch 2\. Lower toy\.peak_lr"):
        train_toy(settings, str(tmp_path))
    assert checkpoint_steps.steps(str(tmp_path)) == [2]
    # Without the fault, the run continues from there.
    train_toy(dataclasses.replace(settings, breaks_at=0), str(tmp_path))
    train_toy(dataclasses.replace(settings, breaks_at=0), str(tmp_path / "whole"))
    ours, theirs = (files(place, 12)["model.safetensors"] for place in (tmp_path, tmp_path / "whole"))
    assert ours == theirs


def test_weights_that_are_not_finite_are_told_from_bad_data(tmp_path: Path) -> None:
    folder = Path(train_toy(SETTINGS, str(tmp_path)).checkpoint)
    weights = load_file(folder / "model.safetensors")
    weights["1.bias"][0] = torch.nan
    save_file(weights, folder / "model.safetensors")
    checksums = json.loads((folder / "checksums.json").read_text())
    checksums["model.safetensors"] = sha256_of(str(folder / "model.safetensors"))
    (folder / "checksums.json").write_text(json.dumps(checksums, indent=2) + "\n")
    with pytest.raises(TwistError, match=r"00000012 holds values that are not finite \(1\.bias\); delete it"):
        train_toy(dataclasses.replace(SETTINGS, num_steps=14), str(tmp_path))


def test_events_tell_the_story(tmp_path: Path) -> None:
    events: list[dict[str, Any]] = []
    train_toy(dataclasses.replace(SETTINGS, num_steps=2), str(tmp_path), events.append)
    assert [(event["event"], event["step"]) for event in events] == [
        ("start", 0),
        ("step", 1),
        ("step", 2),
        ("validation", 2),
        ("checkpoint", 2),
    ]
    assert events[0].items() >= {"num_values": 8, "num_steps": 2, "world_size": 1, "device": "cpu"}.items()
    assert events[2].keys() >= {"loss", "lr", "grad_norm", "values", PACE}
    assert events[3]["validation"].keys() == {"squared"}
    assert events[4]["path"] == str(tmp_path / "00000002")


def test_curve_goes_to_tensorboard(tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator").EventAccumulator
    settings = dataclasses.replace(SETTINGS, num_steps=4, tensorboard=str(tmp_path / "board"), checkpoint_every=2)
    with pytest.raises(Killed):
        train_toy(settings, str(tmp_path / "run"), at_step(3, kill))
    train_toy(settings, str(tmp_path / "run"))
    board = accumulator(str(tmp_path / "board")).Reload()
    losses = {event.step: event.value for event in board.Scalars("loss")}
    assert losses == pytest.approx({line["step"]: line["loss"] for line in curve(tmp_path / "run") if "loss" in line})
    assert "validation/squared" in board.Tags()["scalars"]
