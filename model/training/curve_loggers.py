"""Where else the training curve goes: TensorBoard and Weights & Biases, if installed and asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from pipeline.errors import TwistError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping


class CurveLogger(Protocol):
    """Takes figures by name at each step."""

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        """Adds a point to each curve."""

    def close(self) -> None:
        """Ends the curve."""


class TensorBoard:
    """Files for TensorBoard in `folder`; where a run was resumed, what it does again takes the place of what it did."""

    def __init__(self, folder: str, resumed_step: int) -> None:
        try:
            from torch.utils.tensorboard.writer import SummaryWriter
        except ImportError as error:
            raise TwistError("`tensorboard` needs TensorBoard; pip install 'twist-pipeline[plots]'") from error
        self._writer: Any = SummaryWriter(folder, purge_step=resumed_step + 1 if resumed_step else None)

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        """Adds a point to each curve."""
        for name, value in figures.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def close(self) -> None:
        """Ends the curve."""
        self._writer.close()


class WeightsAndBiases:
    """A run of a project of W&B, which a resumed training goes on with: its id is made of the checkpoints' folder."""

    def __init__(self, project: str, run_id: str, config: Mapping[str, Any]) -> None:
        try:
            import wandb
        except ImportError as error:
            raise TwistError("`wandb` needs Weights & Biases; pip install wandb") from error
        self._run = wandb.init(project=project, id=run_id, resume="allow", config=dict(config))

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        """Adds a point to each curve."""
        self._run.log(dict(figures), step=step)

    def close(self) -> None:
        """Ends the curve."""
        self._run.finish()


def flatten(figures: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    """Numbers of a nested dict by their path: validation/mean/perplexity."""
    for name, value in figures.items():
        if isinstance(value, dict):
            yield from flatten(value, f"{prefix}{name}/")
        elif isinstance(value, int | float):
            yield prefix + name, float(value)
