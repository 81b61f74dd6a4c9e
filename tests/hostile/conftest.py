"""A reader of hostile files: in a process of its own, whose largest size is measured."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parents[2]
MOST_BYTES = 2**30
# Of addresses, so that a reader that is wrong fails here, and takes no machine.
MOST_ADDRESSES = 2**34
MIB = 2**20

# Loading these takes longer than the tests. So one process loads them, and forks another for each file.
SERVER = """
import contextlib, io, json, os, resource, sys, traceback
import jobs.recipe_text, pipeline.audio.read, pipeline.corpora.hf_parquet, pipeline.corpora.lhotse
import pipeline.corpora.tars
import pipeline.packing.evaluation_speech, pipeline.shards, pipeline.stage, pipeline.text.documents, pipeline.text.files
import pipeline.units.codebook_import, model.encoder.hubert_checkpoint, model.lm.speech_lm, model.vocoder.checkpoint
import transformers.models.hubert.modeling_hubert, transformers.models.opt.modeling_opt

def peak_bytes():
    # Its own, and that of the largest process that it started, such as FFmpeg's. By the kernel's own account where
    # there is one: getrusage counts what the parent, this process, had when it forked.
    kilo = 1 if sys.platform == "darwin" else 1024
    try:
        own = next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith("VmHWM"))
    except OSError:
        own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * kilo
    return max(own, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * kilo)

def answer(code, path, most_addresses):
    resource.setrlimit(resource.RLIMIT_AS, (most_addresses, most_addresses))
    told, failure = io.StringIO(), None
    try:
        with contextlib.redirect_stdout(told):
            exec(code, {"path": path})
    except ValueError as error:
        print(type(error).__name__, error, file=told)
    except BaseException:
        failure = traceback.format_exc()
    return {"told": told.getvalue(), "failure": failure, "peak_bytes": peak_bytes()}

print("ready", flush=True)
for line in sys.stdin:
    order = json.loads(line)
    if (child := os.fork()) == 0:
        try:
            with open(order.pop("answer"), "w") as file:
                json.dump(answer(**order), file)
        finally:
            os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


class Reader(Protocol):
    """Runs code on a path, which it calls `path`, in a process of its own."""

    def __call__(self, code: str, path: Path) -> str:
        """What the process prints, or the error that it raises; fails if it grows too large."""


@pytest.fixture(scope="session")
def read(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reader]:
    answer = tmp_path_factory.mktemp("answers") / "answer.json"
    with subprocess.Popen(
        [sys.executable, "-c", SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT
    ) as server:
        assert server.stdin and server.stdout
        assert server.stdout.readline() == "ready\n"

        def read_alone(code: str, path: Path) -> str:
            assert server.stdin and server.stdout
            answer.unlink(missing_ok=True)
            order = {"code": code, "path": str(path), "most_addresses": MOST_ADDRESSES, "answer": str(answer)}
            print(json.dumps(order), file=server.stdin, flush=True)
            status = int(server.stdout.readline())
            assert status == 0, f"the process ended with status {status}"
            found = json.loads(answer.read_text())
            assert found["failure"] is None, found["failure"][-2000:]
            assert found["peak_bytes"] < MOST_BYTES, f"the process grew to {found['peak_bytes'] / MIB:.0f} MiB"
            told: str = found["told"]
            return told.strip()

        yield read_alone
        server.stdin.close()
