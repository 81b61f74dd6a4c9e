"""Describes the machine that a benchmark ran on."""

from __future__ import annotations

import platform
from datetime import date
from pathlib import Path

import torch


def machine(device: torch.device | None = None, **versions: str) -> dict[str, object]:
    """Name of the device (by default the processor), number of threads, versions of libraries, and the date."""
    on_gpu = device is not None and device.type == "cuda"
    return {
        "device": torch.cuda.get_device_name() if on_gpu else cpu_name(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        **versions,
        "date": date.today().isoformat(),
    }


def cpu_name() -> str:
    """The processor's name, from /proc/cpuinfo if there is one."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()
