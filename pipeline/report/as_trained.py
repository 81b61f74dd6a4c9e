"""What the recipe that a run keeps says of training on text: tokenizer, kinds of sequences, and spans."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import yaml

from model.lm.mixture.config import MixtureConfig, SpanConfig
from pipeline.errors import TwistError
from pipeline.files import storage
from pipeline.runs import RECIPE


@dataclass(frozen=True)
class AsTrained:
    """How a run's speech and text become sequences.

    Attributes:
        tokenizer: The folder of the text LM's tokenizer, where the recipe names one.
        mixture: The kinds of sequences and their shares; None: speech alone, or the recipe does not say.
        spans: How text and speech alternate; SpiRit-LM's way unless the recipe says another.
        seed: The training's.
    """

    tokenizer: str | None = None
    mixture: MixtureConfig | None = None
    spans: SpanConfig = field(default_factory=SpanConfig)
    seed: int = 0


def read_as_trained(run: str) -> AsTrained:
    """Reads RUN/recipe.yaml; defaults where there is none.

    Raises:
        TwistError: it is damaged.
    """
    uri = storage.join(run, RECIPE)
    try:
        recipe = yaml.safe_load(storage.read_bytes(uri)) or {}
        text, train = recipe.get("text") or {}, recipe.get("train") or {}
        mixture = train.get("mixture")
        return AsTrained(
            text.get("tokenizer"),
            MixtureConfig(**mixture) if mixture else None,
            _spans(train.get("spans") or {}),
            int(train.get("seed", 0)),
        )
    except FileNotFoundError:
        return AsTrained()
    except (yaml.YAMLError, AttributeError, TypeError, ValueError) as error:
        raise TwistError(f"{uri} is damaged ({error}); delete it, and give the recipe by --config") from error


def _spans(told: dict[str, Any]) -> SpanConfig:
    ranges = {name: tuple(value) for name, value in told.items() if isinstance(value, list)}
    return SpanConfig(**{**told, **ranges})
