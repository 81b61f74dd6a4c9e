"""Reading pickles as data: plain values are read, everything else is recorded, and nothing is executed."""

from __future__ import annotations

import io
import os
import pickle
from argparse import Namespace
from collections import OrderedDict
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

import pytest

from pipeline.files import inert_pickle
from pipeline.files.inert_pickle import Recorded, UnsafePickleError

if TYPE_CHECKING:
    from pathlib import Path

PROTOCOLS = pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
PLAIN = {"a": [1, 2.5, None, True, "text", 2**70], "b": ({"c": ()},), 3: "three"}


def load(content: bytes, *allowed: str, **hooks: Any) -> Any:
    return inert_pickle.load(io.BytesIO(content), allowed, **hooks)


@PROTOCOLS
def test_plain_values_are_themselves(protocol: int) -> None:
    assert load(pickle.dumps(PLAIN, protocol)) == PLAIN


@PROTOCOLS
def test_objects_are_noted_and_not_built(protocol: int) -> None:
    names = ("argparse", "collections.OrderedDict", "copyreg", "copy_reg", "builtins.object", "__builtin__.object")
    namespace = load(pickle.dumps(Namespace(layers=3), protocol), *names)
    assert type(namespace).__mro__[1] is Recorded
    assert (namespace.state, namespace.items) == ({"layers": 3}, [])
    ordered = load(pickle.dumps(OrderedDict(b=1, a=2), protocol), *names)
    assert ordered.name == "collections.OrderedDict"
    assert ordered.items == [("b", 1), ("a", 2)] or ordered.args == ([["b", 1], ["a", 2]],)


def test_sets_of_old_protocols_and_arguments_are_noted() -> None:
    assert load(pickle.dumps({1}, 2), "__builtin__.set", "builtins.set").args == ([1],)
    path = load(pickle.dumps(PurePosixPath("/a/b"), 4), "pathlib")
    assert (path.name, path.args) == ("pathlib.PurePosixPath", ("/", "a", "b"))


class Runs:
    def __init__(self, *call: Any) -> None:
        self.call = call

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call[0], self.call[1:]


@PROTOCOLS
def test_what_is_not_allowed_is_refused_by_name(tmp_path: Path, protocol: int) -> None:
    content = pickle.dumps([Runs(os.mkdir, str(tmp_path / "ran"))], protocol)
    with pytest.raises(UnsafePickleError, match=r"names (posix|nt)\.mkdir"):
        load(content, "collections", "os", "posixpath", "posi")
    assert not (tmp_path / "ran").exists()


@PROTOCOLS
def test_even_what_is_allowed_is_not_called(tmp_path: Path, protocol: int) -> None:
    call = load(pickle.dumps(Runs(os.mkdir, str(tmp_path / "ran")), protocol), "posix", "nt")
    assert call.args == (str(tmp_path / "ran"),)
    assert not (tmp_path / "ran").exists()


def test_what_one_pickle_does_to_its_classes_does_not_reach_the_next() -> None:
    # GLOBAL collections.OrderedDict; then BUILD with a state on the class itself
    hostile = b"ccollections\nOrderedDict\n}S'name'\nS'changed'\nsb."
    with pytest.raises(TypeError):
        load(hostile, "collections")
    assert load(pickle.dumps(OrderedDict(), 2), "collections").name == "collections.OrderedDict"


def test_persistent_ids_are_the_callers() -> None:
    content = b"\x80\x02X\x03\x00\x00\x00keyQ."
    assert load(content, persistent_load=lambda pid: f"<{pid}>") == "<key>"
    with pytest.raises(pickle.UnpicklingError, match="outside itself"):
        load(content)


@pytest.mark.parametrize("protocol", [2, 3])  # later ones have frames, which their writer must end before the bytes
def test_bytes_behind_a_state_can_be_read_on_the_way(protocol: int) -> None:
    content = pickle.dumps(Namespace(size=4), protocol)
    file = io.BytesIO(content[:-1] + b"raw" + content[-1:])
    found = []
    inert_pickle.load(file, ["argparse"], on_state=lambda recorded: found.append((recorded.state, file.read(3))))
    assert found == [({"size": 4}, b"raw")]


def test_one_pickle_is_read_and_no_more() -> None:
    file = io.BytesIO(pickle.dumps(1) + pickle.dumps("two") + b"rest")
    assert (inert_pickle.load(file, ()), inert_pickle.load(file, ()), file.read()) == (1, "two", b"rest")


def long_binput(index: int) -> bytes:
    return b"K\x01r" + index.to_bytes(4, "little") + b"."


def shared(depth: int) -> bytes:
    """A list of lists that share lists: 2 ** depth items when it is written out."""
    return b"]q\x00" + b"".join(b"](h%ch%ceq%c" % (n, n, n + 1) for n in range(depth)) + b"."


NESTED = 100_000
HOSTILE = {
    "a list in itself": (b"]q\x00h\x00a.", "holds itself"),
    "lists that share lists": (shared(40), "more than 134217728 characters"),
    "deep lists": (b"]" * NESTED + b"a" * (NESTED - 1) + b".", "more than 50 values in each other"),
    "deep tuples": (b")" + b"\x85" * NESTED + b".", "more than 50 values in each other"),
    "a key of deep tuples": (b"})" + b"\x85" * NESTED + b"Ns.", "key of tuples in tuples"),
    "a set of deep tuples": (b"\x8f()" + b"\x85" * NESTED + b"\x90.", "key of tuples in tuples"),
    "a frozen set of deep tuples": (b"()" + b"\x85" * NESTED + b"\x91.", "key of tuples in tuples"),
    "keys of deep tuples": (b"}()" + b"\x85" * NESTED + b"Nu.", "key of tuples in tuples"),
    "a dict of deep tuples": (b"()" + b"\x85" * NESTED + b"Nd.", "key of tuples in tuples"),
    "many opcodes": (b"N0" * 500_001 + b"N.", "more than 1000000 opcodes"),
    "many names": (b"".join(b"ccollections\nn%d\n0" % n for n in range(1001)) + b"N.", "more than 1000 classes"),
    "a long number": (pickle.dumps(1 << 20_000), "number of more than 14000 bits"),
    "bytes that are not there": (b"\x8e" + (2**40).to_bytes(8, "little") + b".", "more than 134217728 bytes"),
    "text that is not there": (b"\x8d" + (2**33).to_bytes(8, "little") + b".", "more than 134217728 bytes"),
    "a bytearray that is not there": (b"\x96" + (2**33).to_bytes(8, "little") + b".", "more than 134217728 bytes"),
    "a frame that is not there": (b"\x95" + (2**33).to_bytes(8, "little") + b"N.", "more than 134217728 bytes"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_what_is_too_large_or_entangled_is_refused(name: str) -> None:
    content, message = HOSTILE[name]
    with pytest.raises(pickle.UnpicklingError, match=message):
        load(content, "collections")


def test_a_place_far_into_the_memo_allocates_nothing() -> None:
    assert load(long_binput(2**31)) == 1


def test_objects_may_refer_back_and_values_may_be_shared() -> None:
    shared_list = [1, 2]
    node = Namespace(values=[shared_list, shared_list])
    node.parent = [node]
    loaded = load(pickle.dumps(node), "argparse", "copyreg", "builtins.object")
    assert loaded.state["parent"] == [loaded]
    assert loaded.state["values"][0] is loaded.state["values"][1]
