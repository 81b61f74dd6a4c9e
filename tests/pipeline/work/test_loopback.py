"""Ray that a command starts for itself can be reached from this machine alone, and only by its user."""

from __future__ import annotations

import ipaddress
import os
import re
import secrets
import socket
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from tests.ray_clusters import MARK, ROOT, processes_with

LISTENING = "0A"
# Starts Ray as commands do, uses it, says that it is there, and waits to be looked at.
WORK = """\
import sys
from pipeline.work.cluster import connect, map_tasks
assert list(map_tasks(abs, [-1, -2])) == [1, 2]
print("ready", flush=True)
sys.stdin.read()
"""

pytestmark = [
    pytest.mark.xdist_group("ray"),
    pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="reads /proc"),
]


def listening(mark: str) -> dict[str, set[str]]:
    """The addresses at which processes with a mark in their environment listen, by the program's name."""
    addresses = {}
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            _, local, _, state, *_, inode = line.split()[:10]
            if state == LISTENING:
                words = re.findall(".{8}", local.partition(":")[0])
                packed = b"".join(struct.pack("<I", int(word, 16)) for word in words)
                addresses[f"socket:[{inode}]"] = socket.inet_ntop(
                    socket.AF_INET if table == "tcp" else socket.AF_INET6, packed
                )
    found: dict[str, set[str]] = {}
    for pid, title in processes_with(mark):
        for descriptor in Path(f"/proc/{pid}/fd").glob("*"):
            if descriptor.is_symlink() and (target := os.readlink(descriptor)) in addresses:  # noqa: PTH115
                found.setdefault(Path(title.split()[0]).name, set()).add(addresses[target])
    return found


def is_loopback(address: str) -> bool:
    parsed = ipaddress.ip_address(address)
    mapped = getattr(parsed, "ipv4_mapped", None)
    return (mapped or parsed).is_loopback


def test_ray_of_one_machine_listens_on_loopback_alone(tmp_path: Path) -> None:
    mark = secrets.token_hex(8)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HOME": str(tmp_path), MARK: mark}
    for name in ("RAY_ADDRESS", "RAY_AUTH_MODE"):
        environment.pop(name, None)
    with subprocess.Popen(
        [sys.executable, "-c", WORK], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as work:
        assert work.stdout is not None and work.stdin is not None
        assert work.stdout.readline() == "ready\n"
        found = listening(mark)
        token = tmp_path / ".ray" / "auth_token"
        mode = token.stat().st_mode & 0o777
        work.stdin.close()
    assert {"gcs_server", "raylet"} <= found.keys(), found
    assert not {name: every for name, every in found.items() if not all(map(is_loopback, every))}
    assert mode == 0o600, "other users of the machine could read the token"
