"""The module `twist`: every name can be imported, but `import twist` itself loads none of them."""

from __future__ import annotations

import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import twist

ROOT = Path(__file__).resolve().parents[1]


def test_importing_it_loads_no_library() -> None:
    code = "import sys, twist; print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert not {"torch", "transformers", "numpy", "pyarrow", "pipeline", "model"} & set(done.stdout.split())


@pytest.mark.parametrize("name", twist.__all__)
def test_every_name_is_there_and_says_what_it_is(name: str) -> None:
    assert inspect.getdoc(getattr(twist, name))
    assert name in dir(twist)


def test_other_names_are_not() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = twist.nothing


@pytest.mark.parametrize("kind", ["tokenizer", "voice", "lm"])
def test_an_unknown_name_is_answered_with_the_known_ones(kind: str) -> None:
    with pytest.raises(twist.TwistError, match=r"there is no .* nope: give a run, a folder or one of .*\w"):
        getattr(twist, f"load_{kind}")("nope")
