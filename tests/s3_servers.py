"""Local S3 servers for tests, and a proxy in front of them that injects faults.

moto honours conditional writes; `rclone serve s3` does not: there the last writer wins.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import random
import shutil
import socket
import struct
import subprocess
import sys
import threading
import time
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from moto.server import ThreadedMotoServer

from pipeline.files import s3

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import pytest

KEY = "test"
STARTING_TAKES_AT_MOST_S = 60.0
# Faults of a request: it is answered with an error, or with one whose body breaks off; the connection is dropped, or
# reset while the request is sent, before the server gets it; it is carried out, but the answer is lost, cut off in the
# middle or in its headers, or ends in a reset.
FAULTS = (
    *("error 500", "error 503", "error 429", "error cut", "dropped", "reset"),
    *("answer lost", "answer cut", "answer reset", "headers cut"),
)
ERRORS = {500: "InternalError", 503: "SlowDown", 429: "TooManyRequests"}


def point_clients_at(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Points this process and its children at a server, whatever the machine or an earlier test had set."""
    for name, value in {
        "AWS_ENDPOINT_URL_S3": endpoint,
        "AWS_ACCESS_KEY_ID": KEY,
        "AWS_SECRET_ACCESS_KEY": KEY,
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
    }.items():
        monkeypatch.setenv(name, value)
    s3.client_of_process.cache_clear()


@contextlib.contextmanager
def moto() -> Iterator[str]:
    """The endpoint of a server without buckets. moto's state outlives its servers, so it is reset."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    try:
        request = urllib.request.Request(f"http://{host}:{port}/moto-api/reset", method="POST")
        urllib.request.urlopen(request).close()
        yield f"http://{host}:{port}"
    finally:
        server.stop()


@contextlib.contextmanager
def rclone(folder: Path) -> Iterator[str]:
    """The endpoint of a server whose buckets are the folders in `folder`."""
    program = shutil.which("rclone", path=str(Path(sys.executable).parent)) or "rclone"
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [program, "serve", "s3", "--addr", f"127.0.0.1:{port}", "--auth-key", f"{KEY},{KEY}", str(folder)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        try:
            deadline = time.monotonic() + STARTING_TAKES_AT_MOST_S
            while time.monotonic() < deadline and server.poll() is None:
                with socket.socket() as probe:
                    if probe.connect_ex(("127.0.0.1", port)) == 0:
                        break
                time.sleep(0.05)
            assert server.poll() is None, "rclone did not start"
            yield f"http://127.0.0.1:{port}"
        finally:
            server.terminate()


class FaultyProxy(ThreadingHTTPServer):
    """Forwards requests to `endpoint`; a share of them, drawn by `seed`, get a fault. While `is_down`, it drops all.

    `refusal`, if set, says for a method and path with which status and code to refuse a request.
    """

    daemon_threads = True

    def __init__(self, endpoint: str, seed: int, share_of_faults: float = 0.5) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.backend = urlsplit(endpoint).netloc
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.is_down = False
        self.refusal: Callable[[str, str], tuple[int, str] | None] = lambda *_: None
        self.met: list[str] = []
        self._random = random.Random(seed)
        self.share_of_faults = share_of_faults
        self._lock = threading.Lock()

    def draw_fault(self) -> str | None:
        with self._lock:
            fault = self._random.choice(FAULTS) if self._random.random() < self.share_of_faults else None
            if fault:
                self.met.append(fault)
        return "dropped" if self.is_down else fault

    def draw_below(self, length: int) -> int:
        with self._lock:
            return self._random.randrange(length)

    def handle_error(self, *_: object) -> None:
        """Silent: this server breaks connections on purpose."""

    @contextlib.contextmanager
    def running(self) -> Iterator[FaultyProxy]:
        thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self.shutdown()
            self.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: FaultyProxy

    def log_message(self, *_: object) -> None:
        pass

    def _pass_on(self) -> None:
        fault = self.server.draw_fault()
        if fault == "reset":
            self._reset()
            return
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        assert "chunked" not in self.headers.get("Transfer-Encoding", ""), "bodies are of known length"
        self.close_connection = fault is not None
        if fault == "dropped":
            return
        if fault and fault.startswith("error"):
            status = 503 if fault == "error cut" else int(fault.removeprefix("error "))
            self._refuse(status, ERRORS[status], "answer cut" if fault == "error cut" else None)
            return
        if refusal := self.server.refusal(self.command, self.path):
            self._refuse(*refusal, None)
            return
        connection = http.client.HTTPConnection(self.server.backend, timeout=60)
        headers = {name: value for name, value in self.headers.items() if name not in ("Expect", "Connection")}
        connection.request(self.command, self.path, body, headers)
        response = connection.getresponse()
        content = response.read()
        connection.close()
        if fault != "answer lost":
            self._answer(response.status, response.getheaders(), content, fault)

    def _refuse(self, status: int, code: str, fault: str | None) -> None:
        content = f"<Error><Code>{code}</Code></Error>".encode()
        self._answer(status, [("Content-Type", "application/xml")], content, fault)

    def _answer(self, status: int, headers: list[tuple[str, str]], content: bytes, fault: str | None) -> None:
        self.send_response(status)
        for name, value in headers:
            if name.lower() not in ("content-length", "transfer-encoding", "connection", "date", "server"):
                self.send_header(name, value)
        length = next((value for name, value in headers if name.lower() == "content-length"), str(len(content)))
        self.send_header("Content-Length", length if self.command == "HEAD" else str(len(content)))
        if fault == "headers cut":
            written = b"".join(self._headers_buffer)  # type: ignore[attr-defined]  # of http.server
            self._headers_buffer = [written[: self.server.draw_below(len(written))]]
            self.flush_headers()
            return
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content[: len(content) // 2] if fault in ("answer cut", "answer reset") else content)
        if fault == "answer reset":
            self._reset()

    def _reset(self) -> None:
        self.close_connection = True
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        os.close(self.connection.detach())  # `close` would wait for the files made of it, behind a FIN

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = _pass_on  # noqa: N815 - http.server's names
