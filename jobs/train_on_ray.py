"""Trains, or tunes, on a Ray cluster: Ray Train starts the processes that torchrun would, wherever there is room."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from model.lm.train_config import TrainConfig
from model.lm.trainer import TrainResult, train
from model.preferences.trainer import TuneResult, tune
from model.preferences.tune_config import TuneConfig
from pipeline.errors import RunError, TwistError
from pipeline.files import storage
from pipeline.work.cluster import connect

OnEvent = Callable[[dict[str, Any]], None]
Result = TypeVar("Result", TrainResult, TuneResult)

# How often training restarts from the newest checkpoint after a worker dies or a machine goes away.
MAX_FAILURES = 20


def train_on_ray(
    config: TrainConfig,
    shards: str,
    checkpoints: str,
    num_workers: int,
    on_event: OnEvent,
    text: str | None = None,
) -> TrainResult:
    """Runs `model.lm.trainer.train` on the cluster: see `_on_ray`."""
    arguments = {"config": config, "shards": shards, "checkpoints": checkpoints, "text": text}
    return _on_ray(train, arguments, num_workers, on_event)


def tune_on_ray(
    config: TuneConfig, init: str, pairs: str, checkpoints: str, num_workers: int, on_event: OnEvent
) -> TuneResult:
    """Runs `model.preferences.trainer.tune` on the cluster: see `_on_ray`."""
    arguments = {"config": config, "init": init, "pairs": pairs, "checkpoints": checkpoints}
    return _on_ray(tune, arguments, num_workers, on_event)


def _on_ray(training: Callable[..., Result], arguments: dict[str, Any], num_workers: int, on_event: OnEvent) -> Result:
    """Runs a training in `num_workers` processes of the cluster (RAY_ADDRESS, or one on this machine).

    Each process gets a GPU unless config.device is cpu or the cluster has none. All processes must be able to access
    every folder in `arguments`. The curve is in metrics.jsonl; `on_event` only gets the start event, when all is done.

    Raises:
        TwistError: the workers found a mistake in settings or input.
        RunError: the workers failed for other reasons, more than MAX_FAILURES times.
    """
    import ray.train
    from ray.train.torch import TorchConfig, TorchTrainer

    connect()
    config: TrainConfig | TuneConfig = arguments["config"]
    uses_gpu = config.device != "cpu" and ray.cluster_resources().get("GPU", 0) > 0
    trainer = TorchTrainer(
        _work,
        train_loop_config={"training": training, "arguments": arguments},
        scaling_config=ray.train.ScalingConfig(num_workers=num_workers, use_gpu=uses_gpu),
        torch_config=TorchConfig(backend="nccl" if uses_gpu else "gloo"),
        run_config=ray.train.RunConfig(
            storage_path=storage.join(arguments["checkpoints"], "ray"),
            failure_config=ray.train.FailureConfig(max_failures=MAX_FAILURES),
        ),
    )
    try:
        outcome = trainer.fit().return_value
    except ray.train.TrainingFailedError as failure:
        raise RunError(f"training on Ray failed {MAX_FAILURES + 1} times: {failure}") from None
    if outcome["mistake"] is not None:
        raise TwistError(outcome["mistake"])
    on_event(outcome["start"])
    result: Result = outcome["result"]
    return result


def _work(loop: dict[str, Any]) -> dict[str, Any]:
    """Trains in one worker. Returns a user's mistake instead of raising it: Ray would retry, which would not help."""
    start: dict[str, Any] = {}

    def on_event(event: dict[str, Any]) -> None:
        if event["event"] == "start":
            start.update(event)

    outcome: dict[str, Any] = {"start": start, "result": None, "mistake": None}
    try:
        outcome["result"] = loop["training"](**loop["arguments"], on_event=on_event)
    except TwistError as mistake:
        outcome["mistake"] = str(mistake)
    return outcome
