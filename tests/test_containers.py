"""Dockerfile and SLURM script, as far as they can be held without Docker and SLURM."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import time
import tomllib
from pathlib import Path

import pytest
from packaging.specifiers import SpecifierSet

from jobs.__main__ import GROUPS

ROOT = Path(__file__).resolve().parents[1]
SCRIPT = ROOT / "slurm_job.sh"


def instructions() -> list[tuple[str, str]]:
    """The Dockerfile's instructions with their arguments, without comments, continued lines joined."""
    lines = [line for line in (ROOT / "Dockerfile").read_text().splitlines() if not line.startswith("#")]
    joined = "\n".join(lines).replace("\\\n", " ")
    return [(name, rest.strip()) for name, _, rest in (line.partition(" ") for line in joined.splitlines() if line)]


def test_the_image_is_pinned_and_runs_as_a_user() -> None:
    found = instructions()
    name, image = found[0]
    assert name == "FROM" and re.fullmatch(r"python:3\.\d+-slim-\w+", image)
    assert [rest for name, rest in found if name == "USER"] == ["twist"]
    assert {name for name, _ in found} <= {"FROM", "ARG", "ENV", "RUN", "WORKDIR", "COPY", "USER", "ENTRYPOINT", "CMD"}


def test_all_that_is_copied_is_there_and_sent() -> None:
    sources = [word for name, rest in instructions() if name == "COPY" for word in rest.split()[:-1]]
    sent = re.findall(r"^!(.+)$", (ROOT / ".dockerignore").read_text(), re.MULTILINE)
    assert sorted(sources) == sorted(sent), "what is sent to the builder is what is copied"
    assert all((ROOT / source).exists() for source in sources)
    packages = re.search(r"include = \[(.*?)\]", (ROOT / "pyproject.toml").read_text())
    assert packages is not None
    assert {name.strip('" *') for name in packages[1].split(",")} <= set(sources)


def test_it_installs_what_is_tested() -> None:
    (install,) = [rest for name, rest in instructions() if name == "RUN" and "pip install" in rest]
    assert "-c constraints.txt" in install
    for name, rest in instructions():
        if name == "RUN":
            done = subprocess.run(["bash", "-n", "-c", rest], capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stderr


def test_its_python_is_one_that_the_package_is_for_and_its_program_is_there() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    version = re.fullmatch(r"python:(3\.\d+)-slim-\w+", instructions()[0][1])
    assert version is not None
    assert SpecifierSet(project["requires-python"]).contains(f"{version[1]}.0")
    programs = [json.loads(rest)[0] for name, rest in instructions() if name == "ENTRYPOINT"]
    assert set(programs) <= set(project["scripts"]) and programs


def test_lists_of_packages_do_not_stay_in_the_image() -> None:
    """As hadolint's DL3009, DL3015, DL3042 and DL3059 ask."""
    commands = [rest for name, rest in instructions() if name == "RUN"]
    (apt,) = [command for command in commands if "apt-get" in command]
    assert apt.index("apt-get update") < apt.index("--no-install-recommends") < apt.index("rm -rf /var/lib/apt/lists/*")
    assert any(name == "ENV" and "PIP_NO_CACHE_DIR=1" in rest for name, rest in instructions())


@pytest.mark.parametrize("path", ["Dockerfile", "slurm_job.sh", "docs/containers.md"])
def test_files_and_commands_named_in_them_exist(path: str) -> None:
    text = (ROOT / path).read_text().replace("\\\n", " ")
    recipes = re.findall(r"\brecipes/\w+\.yaml", text)
    assert all((ROOT / recipe).is_file() for recipe in recipes)
    assert all((ROOT / "docs" / page).is_file() for page in re.findall(r"docs/(\w+\.md)", text))
    assert all((ROOT / f"{job.replace('.', '/')}.py").is_file() for job in re.findall(r"\bjobs\.\w+", text))
    known = {command for commands in GROUPS.values() for command in commands}
    named = re.findall(r"\btwist ([a-z][a-z-]+) ?(?=--|$|\"|`)", text, re.MULTILINE)
    assert recipes and set(named) <= known, set(named) - known


def test_the_job_is_a_script_that_bash_can_read() -> None:
    assert os.access(SCRIPT, os.X_OK)
    assert subprocess.run(["bash", "-n", str(SCRIPT)], check=False).returncode == 0


STAND_INS = {
    # Takes srun's options away and runs the rest here.
    "srun": """
        echo "srun $*" >> "$CALLS"
        while [ "${1#--}" != "$1" ]; do
            case "$1" in --overlap) shift ;; *) shift 2 ;; esac
        done
        exec "$@"
    """,
    "scontrol": """
        echo "scontrol $*" >> "$CALLS"
        if [ "$1" = show ]; then printf 'n1\\n'; /bin/sleep 0.2; printf 'n2\\nn3\\n'; fi
    """,
    "hostname": "echo 10.0.0.1 10.0.0.2",
    "ray": """
        echo "ray $*" >> "$CALLS"
        case "$1" in
            start) trap 'kill $!; exit 0' TERM; /bin/sleep 60 > /dev/null 2>&1 & wait ;;
            status)
                grep -q '^ray start --block --head' "$CALLS" || exit 1
                printf ' 1 node_a\\n'
                if grep -q '^ray start --block --address' "$CALLS"; then printf ' 1 node_b\\n 1 node_c\\n'; fi ;;
            get-auth-token) mkdir -p ~/.ray; echo secret > ~/.ray/auth_token ;;
        esac
    """,
    "twist": """
        echo "twist $* at ${RAY_ADDRESS:-nowhere}" >> "$CALLS"
        if [ -n "$HANGS" ]; then
            trap 'kill $!; echo "twist told" >> "$CALLS"; exit 143' TERM
            /bin/sleep 60 > /dev/null 2>&1 & wait
        fi
    """,
    "torchrun": 'echo "torchrun $* at ${RAY_ADDRESS:-nowhere}" >> "$CALLS"',
    "sleep": "exec /bin/sleep 0.1",
}


@pytest.fixture
def job(tmp_path: Path) -> dict[str, str]:
    """The environment of a job on three machines of 8 GPUs, all of them stand-ins."""
    programs = tmp_path / ".venv/bin"
    programs.mkdir(parents=True)
    for name, body in STAND_INS.items():
        path = programs / name
        path.write_text(f"#!/bin/bash\n{body}\n")
        path.chmod(0o755)
    (programs / "activate").write_text(f"export PATH={programs}:$PATH\n")
    (tmp_path / "calls").touch()
    return {
        **os.environ,
        "PATH": f"{programs}:{os.environ['PATH']}",
        "HOME": str(tmp_path),
        "CALLS": str(tmp_path / "calls"),
        "HANGS": "",
        "SLURM_JOB_ID": "4711",
        "SLURM_JOB_NODELIST": "n[1-3]",
        "SLURM_NNODES": "3",
        "SLURM_CPUS_PER_TASK": "32",
        "SLURM_GPUS_ON_NODE": "8",
        "SLURM_SUBMIT_DIR": str(tmp_path),
    }


def calls_of(job: dict[str, str]) -> list[str]:
    return Path(job["CALLS"]).read_text().splitlines()


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_a_job_makes_shards_on_all_machines_then_trains_on_all_gpus(job: dict[str, str]) -> None:
    done = subprocess.run(
        ["bash", str(SCRIPT), "r.yaml", "/shared/run"], env=job, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    calls = calls_of(job)
    (head,) = [call for call in calls if call.startswith("ray start --block --head")]
    assert "--node-ip-address 10.0.0.1" in head and "--dashboard-host 127.0.0.1" in head and "--num-gpus 8" in head
    (workers,) = [call for call in calls if call.startswith("srun") and "ray start --block --address" in call]
    assert "--nodes 2" in workers and "--exclude n1" in workers
    (shards,) = [call for call in calls if call.startswith("twist")]
    assert shards == "twist run --config r.yaml --run /shared/run --until pack at 10.0.0.1:24711"
    (training,) = [call for call in calls if call.startswith("torchrun")]
    assert "--nnodes 3 --nproc-per-node 8" in training and "--rdzv-endpoint 10.0.0.1:24712" in training
    assert training.endswith("-m -- jobs.train --config r.yaml --run /shared/run at nowhere"), "Ray is stopped by then"
    assert calls.index(shards) < calls.index(training)
    token = Path(job["HOME"]) / ".ray/auth_token"
    assert token.stat().st_mode & 0o777 == 0o600


def test_sigterm_reaches_the_command_and_the_job_is_queued_again(job: dict[str, str]) -> None:
    words = ["bash", str(SCRIPT), "r.yaml", "/shared/run"]
    with subprocess.Popen(words, env={**job, "HANGS": "1"}, start_new_session=True) as process:
        deadline_s = time.monotonic() + 30
        while not any(call.startswith("twist run") for call in calls_of(job)) and time.monotonic() < deadline_s:
            time.sleep(0.1)
        time.sleep(0.5)  # for the stand-in to set its trap
        process.send_signal(signal.SIGTERM)
        status = process.wait(timeout=30)
        with contextlib.suppress(ProcessLookupError):  # where none of its children is left
            os.killpg(process.pid, signal.SIGKILL)
    assert status == 0
    assert "twist told" in calls_of(job) and "scontrol requeue 4711" in calls_of(job)


def test_a_job_without_a_recipe_says_how_it_is_submitted(job: dict[str, str]) -> None:
    done = subprocess.run(["bash", str(SCRIPT)], env=job, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode != 0 and "sbatch slurm_job.sh RECIPE RUN" in done.stderr
