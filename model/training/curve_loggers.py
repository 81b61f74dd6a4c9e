"""Logs the training curve to TensorBoard and to Weights & Biases, if configured and installed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from pipeline.errors import TwistError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping


class CurveLogger(Protocol):
    """A destination of the training curve."""

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        """Adds one point to the curve of each figure, by its name."""

    def close(self) -> None:
        """Flushes and closes the log."""


class TensorBoard:
    """Writes files for TensorBoard to `folder`; steps that a resumed run repeats replace those logged before."""

    def __init__(self, folder: str, resumed_step: int) -> None:
        try:
            from torch.utils.tensorboard.writer import SummaryWriter
        except ImportError as error:
            raise TwistError("`tensorboard` needs TensorBoard; install this project's extra `plots`") from error
        self._writer: Any = SummaryWriter(folder, purge_step=resumed_step + 1 if resumed_step else None)

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        """Adds one point to the curve of each figure, by its name."""
        for name, value in figures.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def close(self) -> None:
        """Flushes and closes the log."""
        self._writer.close()


class WeightsAndBiases:
    """Logs to a run of a W&B project; a resumed training continues the same run if given the same `run_id`."""

    def __init__(self, project: str, run_id: str, config: Mapping[str, Any]) -> None:
        try:
            import wandb
        except ImportError as error:
            raise TwistError("`wandb` needs Weights & Biases; pip install wandb") from error
        self._run = wandb.init(project=project, id=run_id, resume="allow", config=dict(config))

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        """Adds one point to the curve of each figure, by its name."""
        self._run.log(dict(figures), step=step)

    def close(self) -> None:
        """Flushes and closes the log."""
        self._run.finish()


def flatten(figures: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    """The numbers in a nested dict with their paths, such as validation/mean/perplexity."""
    for name, value in figures.items():
        if isinstance(value, dict):
            yield from flatten(value, f"{prefix}{name}/")
        elif isinstance(value, int | float):
            yield prefix + name, float(value)
