"""Ray clusters of this machine for tests: each with ports, a home and a token of its own, and machines that can go."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parents[1]
BIN = Path(sys.executable).parent
STARTING_TAKES_AT_MOST_S = 90.0
# In the environment of all that belongs to one cluster.
MARK = "TWIST_TEST_CLUSTER"


class RayCluster:
    """A head and the machines that joined it; `environment` is what commands need to reach it."""

    def __init__(
        self, home: Path, num_cpus: int, *, with_dashboard: bool, growing: dict[str, Any] | None = None
    ) -> None:
        port, self._dashboard_port, *others = free_ports(5)
        self.address = f"127.0.0.1:{port}"
        self.dashboard = f"http://127.0.0.1:{self._dashboard_port}"
        self.environment = {
            **os.environ,
            "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            # Ray refuses strangers by a token, which it keeps below the home folder.
            "HOME": str(home),
            "RAY_AUTH_MODE": "token",
            MARK: secrets.token_hex(8),
        }
        self._home = home
        self._with_dashboard = with_dashboard
        self._processes: list[subprocess.Popen[bytes]] = []
        self._ray("get-auth-token", "--generate").wait()
        # All that has a fixed port otherwise, which a cluster of another test may hold.
        names = ("dashboard-agent-listen-port", "dashboard-agent-grpc-port", "metrics-export-port")
        options = [f"--{name}={number}" for name, number in zip(names, others, strict=True)]
        options += [f"--port={port}", f"--dashboard-port={self._dashboard_port}", f"--num-cpus={num_cpus}"]
        options += [f"--include-dashboard={'true' if with_dashboard else 'false'}", "--object-store-memory=500000000"]
        if growing is not None:
            self.environment |= {"RAY_FAKE_CLUSTER": "1", "AUTOSCALER_UPDATE_INTERVAL_S": "1"}
            growing["provider"]["gcs_address"] = self.address
            config = home / "growing.json"
            config.write_text(json.dumps(growing))
            options.append(f"--autoscaling-config={config}")
        self.head = self._ray("start", "--head", "--block", "--disable-usage-stats", *options)
        self._wait_for_head(self._dashboard_port if with_dashboard else port)

    def add_machine(self, num_cpus: int) -> subprocess.Popen[bytes]:
        """Another raylet; `kill` takes it away with all its workers."""
        others = (f"--metrics-export-port={free_ports(1)[0]}", "--object-store-memory=200000000")
        return self._ray("start", "--block", f"--address={self.address}", f"--num-cpus={num_cpus}", *others)

    @staticmethod
    def kill(machine: subprocess.Popen[bytes]) -> None:
        """Takes a machine away without a word."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(machine.pid, signal.SIGKILL)
        machine.wait()

    def close(self) -> None:
        """Ends everything."""
        for process in self._processes:
            process.terminate()
        for process in self._processes:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=30)
            self.kill(process)
        for pid, _ in processes_with(self.environment[MARK]):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def _ray(self, *arguments: str) -> subprocess.Popen[bytes]:
        with (self._home / "ray.log").open("ab") as log:
            process = subprocess.Popen(
                [str(BIN / "ray"), *arguments],
                env=self.environment,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._processes.append(process)
        return process

    def _wait_for_head(self, port: int) -> None:
        deadline = time.monotonic() + STARTING_TAKES_AT_MOST_S
        while self.head.poll() is None and time.monotonic() < deadline:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    return
            time.sleep(0.5)
        raise AssertionError(f"the Ray cluster did not start:\n{(self._home / 'ray.log').read_text()}")


@contextlib.contextmanager
def ray_cluster(
    home: Path, num_cpus: int, *, with_dashboard: bool = False, growing: dict[str, Any] | None = None
) -> Iterator[RayCluster]:
    """A cluster for the length of a block."""
    cluster = RayCluster(home, num_cpus, with_dashboard=with_dashboard, growing=growing)
    try:
        yield cluster
    finally:
        cluster.close()


def free_ports(count: int) -> list[int]:
    """Ports above those that Ray gives to its workers and below those that the kernel hands out."""
    found: list[int] = []
    for port in range(20_000 + os.getpid() % 10_000, 32_000):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) != 0:
                found.append(port)
        if len(found) == count:
            return found
    raise AssertionError("no free ports")


def processes_with(mark: str) -> Iterator[tuple[int, str]]:
    """Process ids and titles of all that have `mark` in their environment."""
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if mark.encode() in (folder / "environ").read_bytes():
                title = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                yield int(folder.name), title
