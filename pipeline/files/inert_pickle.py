"""Reads an untrusted pickle as data: nothing it names is imported or called.

Where a pickle would build an object or call a function, it yields a `Recorded` that holds the name, the arguments and
the state; the reader of each format picks what it needs from that. Names outside an allow-list are an error even so: a
tampered file must fail, not load as a checkpoint with something missing.
"""

from __future__ import annotations

import pickle
from typing import TYPE_CHECKING, Any, ClassVar, Self

from pipeline.errors import TwistError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable
    from typing import Protocol

    class Readable(Protocol):
        def read(self, n: int, /) -> bytes: ...
        def readline(self) -> bytes: ...


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
        Exception: of any other kind, if the pickle is damaged.
    """
    return _Unpickler(file, allowed, persistent_load, on_state).load()


class _Unpickler(pickle.Unpickler):
    def __init__(
        self,
        file: Readable,
        allowed: Collection[str],
        persistent_load: Callable[[Any], Any] | None,
        on_state: Callable[[Recorded], None] | None,
    ) -> None:
        super().__init__(file)
        self._allowed = allowed
        self._persistent_load = persistent_load
        self._on_state = staticmethod(on_state) if on_state else None
        self._classes: dict[str, type[Recorded]] = {}

    def find_class(self, module_name: str, global_name: str, /) -> type[Recorded]:
        name = f"{module_name}.{global_name}"
        if not any(name == entry or name.startswith(f"{entry}.") for entry in self._allowed):
            raise UnsafePickleError(f"it names {name}, which has no place in such a file")
        if name not in self._classes:
            # One class per name and pickle, so that nothing a pickle does to it outlives that pickle.
            self._classes[name] = type("Recorded", (Recorded,), {"name": name, "_on_state": self._on_state})
        return self._classes[name]

    def persistent_load(self, pid: Any) -> Any:
        if self._persistent_load is None:
            raise pickle.UnpicklingError("it refers to something outside itself")
        return self._persistent_load(pid)
