"""Which device models run on, and what is said of it."""

from __future__ import annotations

import warnings

import pytest
import torch

from model.device import pick_device, warn_of_slow_bfloat16
from pipeline.errors import TwistError


def test_cuda_is_refused_where_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert pick_device("auto") == torch.device("cpu")
    with pytest.raises(TwistError, match="no CUDA device here; use auto or cpu"):
        pick_device("cuda")


@pytest.mark.parametrize(
    ("device", "is_supported", "warns"), [("cpu", False, True), ("cpu", True, False), ("cuda", False, False)]
)
def test_bfloat16_is_warned_of_where_the_processor_has_none(
    monkeypatch: pytest.MonkeyPatch, device: str, is_supported: bool, warns: bool
) -> None:
    monkeypatch.setattr("model.device._has_bfloat16", lambda: is_supported)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        warn_of_slow_bfloat16(torch.device(device))
    assert ["take float32" in str(each.message) for each in caught] == [True] * warns
