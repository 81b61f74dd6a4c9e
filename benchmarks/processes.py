"""CPU time, memory and command lines of processes and their descendants, from /proc."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path


def family(pid: int) -> list[int]:
    """The ids of a process and all its descendants."""
    parents = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            parents[int(path.parent.name)] = int(path.read_text().rpartition(")")[2].split()[1])
    found = [pid]
    for one in found:
        found += [child for child, parent in parents.items() if parent == one]
    return found


def cpu_seconds(pid: int) -> float:
    """CPU seconds that a process has used so far; 0 if it has ended."""
    with contextlib.suppress(OSError):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return 0.0


def memory_gib(pid: int, kind: str = "Pss") -> float:
    """Memory of a process: Pss (with its share of shared memory) or Anonymous (its own); 0 if it has ended."""
    with contextlib.suppress(OSError):
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        return sum(int(line.split()[1]) for line in lines if line.startswith(f"{kind}:")) / 2**20
    return 0.0


def title(pid: int) -> str:
    """A process's command line; Ray's workers set theirs to `ray::...`."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    return ""
