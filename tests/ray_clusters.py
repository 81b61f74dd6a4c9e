"""Local Ray clusters for tests, each with its own ports, home and token, whose machines can be killed."""

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
# Environment variable of all processes of one cluster.
MARK = "TWIST_TEST_CLUSTER"
# Of the ports that tests of this process listen on.
_claims: list[socket.socket] = []


class RayCluster:
    """A head and the machines that joined it; commands need `environment` to reach it."""

    def __init__(
        self, home: Path, num_cpus: int, num_gpus: int, *, with_dashboard: bool, growing: dict[str, Any] | None = None
    ) -> None:
        port, self._dashboard_port, *others = free_ports(5)
        self.address = f"127.0.0.1:{port}"
        self.dashboard = f"http://127.0.0.1:{self._dashboard_port}"
        self.environment = {
            **os.environ,
            "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            # Ray admits only clients with the token, which it keeps in the home folder.
            "HOME": str(home),
            "RAY_AUTH_MODE": "token",
            MARK: secrets.token_hex(8),
        }
        self._home = home
        self._with_dashboard = with_dashboard
        self._processes: list[subprocess.Popen[bytes]] = []
        self._ray("get-auth-token", "--generate").wait()
        # These ports are fixed by default, and another test's cluster may have taken them.
        names = ("dashboard-agent-listen-port", "dashboard-agent-grpc-port", "metrics-export-port")
        options = [f"--{name}={number}" for name, number in zip(names, others, strict=True)]
        self.metrics = f"127.0.0.1:{others[-1]}"
        options += [f"--port={port}", f"--dashboard-port={self._dashboard_port}", f"--num-cpus={num_cpus}"]
        options += [f"--num-gpus={num_gpus}"]
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
        """Starts another raylet; `kill` ends it with all its workers."""
        others = (f"--metrics-export-port={free_ports(1)[0]}", "--object-store-memory=200000000")
        return self._ray("start", "--block", f"--address={self.address}", f"--num-cpus={num_cpus}", *others)

    @staticmethod
    def kill(machine: subprocess.Popen[bytes]) -> None:
        """Kills a machine without warning."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(machine.pid, signal.SIGKILL)
        machine.wait()

    def close(self) -> None:
        """Ends all processes of the cluster."""
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
    home: Path,
    num_cpus: int,
    num_gpus: int = 0,
    *,
    with_dashboard: bool = False,
    growing: dict[str, Any] | None = None,
) -> Iterator[RayCluster]:
    """A cluster for the duration of a `with` block; its GPUs are those that Ray is told of, there or not."""
    cluster = RayCluster(home, num_cpus, num_gpus, with_dashboard=with_dashboard, growing=growing)
    try:
        yield cluster
    finally:
        cluster.close()


def free_ports(count: int) -> list[int]:
    """Free ports above the range of Ray's workers and below the range that the kernel assigns.

    Each is claimed for as long as this process runs: it is listened on later, in a process that this one starts, and
    until then other tests, whose process ids are close by, would find it as free as this one did.
    """
    found: list[int] = []
    for port in range(20_000 + os.getpid() % 10_000, 32_000):
        claim = socket.socket(socket.AF_UNIX)
        with contextlib.suppress(OSError), socket.socket() as probe:
            claim.bind(f"\0twist-test-port-{port}")  # a name without a file, that ends with the process
            _claims.append(claim)
            if probe.connect_ex(("127.0.0.1", port)) != 0:
                found.append(port)
        if len(found) == count:
            return found
    raise AssertionError("no free ports")


def processes_with(mark: str) -> Iterator[tuple[int, str]]:
    """Ids and titles of all processes that have `mark` in their environment."""
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if mark.encode() in (folder / "environ").read_bytes():
                title = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                yield int(folder.name), title
