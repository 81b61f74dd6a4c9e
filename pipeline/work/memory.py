"""The memory of this machine."""

from __future__ import annotations

import os
from pathlib import Path

GIB = 2**30


def memory_bytes() -> int:
    """The machine's memory, or the container's share of it."""
    of_machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        if Path(path).is_file() and (told := Path(path).read_text().strip()).isdigit():
            return min(of_machine, int(told))
    return of_machine
