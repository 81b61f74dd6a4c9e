"""Imports go one way: jobs -> pipeline -> model -> pipeline.{files, errors, records, shards, text_shards}."""

from __future__ import annotations

import ast
import graphlib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
# What each package may import from the others, as prefixes of module names.
ALLOWED = {
    "pipeline": ("pipeline", "model"),
    "model": (
        "model",
        "pipeline.files",
        "pipeline.errors",
        "pipeline.records",
        "pipeline.shards",
        "pipeline.text_shards",
    ),
    "jobs": ("jobs", "pipeline", "model"),
    "twist": ("pipeline", "model"),
}
KNOW_RAY = (
    "jobs/train_on_ray.py",
    "pipeline/work/cluster.py",
    "pipeline/work/dataflow.py",
    "pipeline/work/driver.py",
    "pipeline/work/worker.py",
)
MODULES = [ROOT / "twist.py", *(path for package in ALLOWED for path in sorted((ROOT / package).rglob("*.py")))]


def imported(path: Path) -> set[str]:
    """Our own modules, and Ray, that a file imports anywhere, also inside functions."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {name for name in names if name.partition(".")[0] in (*ALLOWED, "ray")}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_run_one_way(path):
    package = path.relative_to(ROOT).parts[0].removesuffix(".py")
    ours = {name for name in imported(path) if not name.startswith("ray")}
    strays = {name for name in ours if not name.startswith(ALLOWED[package])}
    assert not strays, f"{package} may import only {', '.join(ALLOWED[package])}"


def test_no_module_imports_itself_through_others():
    modules = {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in MODULES}
    # An imported name is a module, or something in one.
    graph = {
        name: {found for other in imported(path) if (found := other if other in modules else other.rpartition(".")[0])}
        for name, path in modules.items()
    }
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        pytest.fail(f"a circle of imports: {' -> '.join(error.args[1])}")


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_few_files_know_ray(path):
    uses_ray = any(name.partition(".")[0] == "ray" for name in imported(path))
    assert not uses_ray or str(path.relative_to(ROOT)) in KNOW_RAY
