"""Reads an untrusted pickle as data: nothing it names is imported or called.

Where a pickle would build an object or call a function, it yields a `Recorded` that holds the name, the arguments and
the state; the reader of each format picks what it needs from that. Names outside an allow-list are an error even so: a
tampered file must fail, not load as a checkpoint with something missing.

Memory and time stay in bounds too, whatever a pickle holds: Python's own unpickler does it opcode by opcode, where the
one in C allocates what an opcode asks for (ten bytes can ask for gigabytes), and what it yields is neither deep nor,
written out, large.
"""

from __future__ import annotations

import pickle
import struct
from typing import TYPE_CHECKING, Any, ClassVar, Self

from pipeline.errors import TwistError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable
    from typing import Protocol

    class Readable(Protocol):
        def read(self, n: int, /) -> bytes: ...
        def readline(self, size: int, /) -> bytes: ...


# A HuBERT with the state of its optimizer has 40,000 opcodes; one opcode makes at most some 250 bytes.
MAX_OPCODES = 1_000_000
# Of one pickle, without tensors and joblib's arrays, which lie behind or between. Text can take four times as much.
MAX_PICKLE_BYTES = 2**27
# Names that one pickle may hold; k-means models have five, checkpoints of fairseq some twenty.
MAX_NAMES = 1_000
# How deep lists, dicts and tuples may lie in each other; settings have a depth of five.
MAX_DEPTH = 50
# Characters (and items) of a value when it is written out, where what is shared counts each time.
MAX_WRITTEN = 2**27
# Bits of a number; Python itself refuses to write out longer ones.
MAX_NUMBER_BITS = 14_000
CONTAINERS = (dict, list, tuple, set, frozenset)


class UnsafePickleError(TwistError):
    """A pickle that names something outside the allow-list."""


class Recorded:
    """Stands in for an object that a pickle would have made.

    Attributes:
        name: Full name of the class or function, such as `collections.OrderedDict`.
        args: Arguments of the call.
        state: The object's state; None if the pickle sets none.
        items: (key, value) of every item that would have been set, in order.
        entries: Values that would have been appended or added, in order.
    """

    name: ClassVar[str]
    args: tuple[Any, ...]
    state: Any
    items: list[tuple[Any, Any]]
    entries: list[Any]
    _on_state: ClassVar[Callable[[Recorded], None] | None] = None

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        recorded = super().__new__(cls)
        recorded.args = (*args, *kwargs.items())
        recorded.state = None
        recorded.items, recorded.entries = [], []
        return recorded

    # Unpickling fills an object through these.

    def __setstate__(self, state: Any) -> None:
        self.state = state
        if self._on_state is not None:
            type(self)._on_state(self)  # type: ignore[misc]

    def __setitem__(self, key: Any, value: Any) -> None:
        self.items.append((key, value))

    def append(self, entry: Any) -> None:
        self.entries.append(entry)

    def extend(self, entries: Iterable[Any]) -> None:
        self.entries.extend(entries)

    add = append


def load(
    file: Readable,
    allowed: Collection[str],
    persistent_load: Callable[[Any], Any] | None = None,
    on_state: Callable[[Recorded], None] | None = None,
) -> Any:
    """Reads one pickle of any protocol into plain values and, for everything else, Recorded objects.

    Args:
        file: Open file; left positioned after the pickle's last byte.
        allowed: Full names of the classes and functions that may occur; a module's name allows all that is in it.
        persistent_load: Turns a persistent id into a value; by default such an id is an error.
        on_state: Called with each Recorded that gets a state. If `file` has no `peek`, it may read on from there: some
            formats put raw bytes there.

    Raises:
        UnsafePickleError: the pickle names something that is not allowed.
        pickle.UnpicklingError: it is larger, deeper or more entangled than what it is read for can be.
        Exception: of any other kind, if the pickle is damaged.
    """
    loaded = _Unpickler(file, allowed, persistent_load, on_state).load()
    _refuse_entangled(loaded)
    return loaded


class _Limited:
    """A file of which one pickle is read."""

    def __init__(self, file: Readable) -> None:
        self._file = file
        self._left = MAX_PICKLE_BYTES

    def read(self, n: int, /) -> bytes:
        if not 0 <= n <= self._left:
            raise pickle.UnpicklingError(f"a pickle in it has more than {MAX_PICKLE_BYTES} bytes")
        self._left -= n
        return self._file.read(n)

    def readline(self) -> bytes:
        line = self._file.readline(self._left)
        self._left -= len(line)
        return line


class _Dispatch(dict[int, "Callable[[_Unpickler], None]"]):
    """What each opcode does; counts them."""

    num_opcodes = 0

    def __getitem__(self, opcode: int) -> Callable[[_Unpickler], None]:
        self.num_opcodes += 1
        if self.num_opcodes > MAX_OPCODES:
            raise pickle.UnpicklingError(f"a pickle in it has more than {MAX_OPCODES} opcodes")
        return super().__getitem__(opcode)


# Its types are not stated.
_PythonUnpickler: Any = pickle._Unpickler


class _Unpickler(_PythonUnpickler):  # type: ignore[misc]
    def __init__(
        self,
        file: Readable,
        allowed: Collection[str],
        persistent_load: Callable[[Any], Any] | None,
        on_state: Callable[[Recorded], None] | None,
    ) -> None:
        super().__init__(_Limited(file))
        self._allowed = allowed
        self._persistent_load = persistent_load
        self._on_state = staticmethod(on_state) if on_state else None
        self._classes: dict[str, type[Recorded]] = {}
        self.dispatch = _Dispatch({**_PythonUnpickler.dispatch, **_OWN})

    def find_class(self, module_name: str, global_name: str, /) -> type[Recorded]:
        name = f"{module_name}.{global_name}"
        if not any(name == entry or name.startswith(f"{entry}.") for entry in self._allowed):
            raise UnsafePickleError(f"it names {name}, which has no place in such a file")
        if name not in self._classes:
            if len(self._classes) == MAX_NAMES:
                raise pickle.UnpicklingError(f"it names more than {MAX_NAMES} classes and functions")
            # One class per name and pickle, so that nothing a pickle does to it outlives that pickle.
            self._classes[name] = type("Recorded", (Recorded,), {"name": name, "_on_state": self._on_state})
        return self._classes[name]

    def persistent_load(self, pid: Any) -> Any:
        if self._persistent_load is None:
            raise pickle.UnpicklingError("it refers to something outside itself")
        return self._persistent_load(pid)

    def load_bytearray8(self) -> None:
        """As Python's, which allocates before it reads."""
        (length,) = struct.unpack("<Q", self.read(8))
        self.append(bytearray(self.read(length)))

    def load_dict(self) -> None:
        _refuse_nested_keys(self.stack[::2])
        super().load_dict()

    def load_setitem(self) -> None:
        _refuse_nested_keys(self.stack[-2:-1])
        super().load_setitem()

    def load_setitems(self) -> None:
        _refuse_nested_keys(self.stack[::2])
        super().load_setitems()

    def load_additems(self) -> None:
        _refuse_nested_keys(self.stack)
        super().load_additems()

    def load_frozenset(self) -> None:
        _refuse_nested_keys(self.stack)
        super().load_frozenset()


_OWN = {
    pickle.BYTEARRAY8[0]: _Unpickler.load_bytearray8,
    pickle.DICT[0]: _Unpickler.load_dict,
    pickle.SETITEM[0]: _Unpickler.load_setitem,
    pickle.SETITEMS[0]: _Unpickler.load_setitems,
    pickle.ADDITEMS[0]: _Unpickler.load_additems,
    pickle.FROZENSET[0]: _Unpickler.load_frozenset,
}


def _refuse_nested_keys(keys: list[Any]) -> None:
    """Hashing a tuple hashes those in it, on the C stack and as often as they occur."""
    if any(isinstance(key, tuple) and any(isinstance(part, tuple) for part in key) for key in keys):
        raise pickle.UnpicklingError("it has a key of tuples in tuples")


def _refuse_entangled(value: Any) -> None:
    """Refuses what is too deep or, written out, too large to be compared, hashed or shown.

    What a Recorded holds is looked at apart, since nothing of these looks into one: it may refer back.

    Raises:
        pickle.UnpicklingError: it is.
    """
    measures: dict[int, tuple[int, int]] = {}
    seen: set[int] = set()
    left = [value]
    while left:
        one = left.pop()
        if not isinstance(one, Recorded):
            left += _measure(one, measures)
        elif id(one) not in seen:
            seen.add(id(one))
            left += (one.args, one.state, one.items, one.entries)


def _measure(root: Any, measures: dict[int, tuple[int, int]]) -> list[Recorded]:
    """Adds depth and size of `root` and all in it to `measures`, by id; returns each Recorded found on the way."""
    found: list[Recorded] = []
    path = [root]
    begun: set[int] = set()
    while path:
        node = path[-1]
        if id(node) in measures:
            path.pop()
            continue
        parts = _parts(node)
        if id(node) not in begun:
            begun.add(id(node))
            found += [part for part in parts if isinstance(part, Recorded)]
            inner = [part for part in parts if isinstance(part, CONTAINERS) and id(part) not in measures]
            if any(id(part) in begun for part in inner):
                raise pickle.UnpicklingError("it holds something that holds itself")
            path += inner
            continue
        path.pop()
        begun.discard(id(node))
        measured = [measures.get(id(part)) or (0, _length(part)) for part in parts]
        depth = 1 + max((depth for depth, _ in measured), default=0)
        size = _length(node) + sum(size for _, size in measured)
        if depth > MAX_DEPTH:
            raise pickle.UnpicklingError(f"it holds more than {MAX_DEPTH} values in each other")
        if size > MAX_WRITTEN:
            raise pickle.UnpicklingError(f"it holds values that share others, of more than {MAX_WRITTEN} characters")
        measures[id(node)] = depth, size
    return found


def _parts(node: Any) -> list[Any]:
    if isinstance(node, dict):
        return [*node.keys(), *node.values()]
    return list(node) if isinstance(node, CONTAINERS) else []


def _length(value: Any) -> int:
    if isinstance(value, int) and value.bit_length() > MAX_NUMBER_BITS:
        raise pickle.UnpicklingError(f"it holds a number of more than {MAX_NUMBER_BITS} bits")
    return 1 + len(value) if isinstance(value, str | bytes | bytearray) else 1
