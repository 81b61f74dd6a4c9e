"""Reads files written by torch.save as plain data: torch.load without unpickling.

torch.load(weights_only=True) refuses the configs that fairseq stores beside the weights, and with weights_only=False it
executes what the file says. Here pipeline/files/inert_pickle.py reads the pickle and executes nothing, and only the
tensors that are asked for are read from the file.

    zip format (torch >= 1.6)   <folder>/data.pkl: the pickle; <folder>/data/<key>: the bytes of each storage
    legacy format               pickles of magic number, version, platform, the content and the storages' keys; then,
                                in the order of the keys, each storage: its length as int64 and its bytes
"""

from __future__ import annotations

import io
import math
import os
import pickle
import zipfile
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from pipeline.errors import TwistError
from pipeline.files import inert_pickle
from pipeline.files.inert_pickle import Recorded

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path
    from typing import BinaryIO

LEGACY_MAGIC_NUMBER = 0x1950A86A20F9469CFC6C
LEGACY_PROTOCOL = 1001
REBUILD_TENSOR = ("torch._utils._rebuild_tensor", "torch._utils._rebuild_tensor_v2")
REBUILD_PARAMETER = "torch._utils._rebuild_parameter"
DTYPES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}
# Names that a pickle of tensors and plain values may hold; callers add what else their files hold.
TENSOR_NAMES = (
    *REBUILD_TENSOR,
    REBUILD_PARAMETER,
    *(f"torch.{storage}" for storage in DTYPES),
    "torch.Size",
    "torch.device",
    "collections",
    "_codecs.encode",  # how Python 3 writes bytes for Python 2
    "builtins.set",
    "__builtin__.set",
)


@dataclass(frozen=True)
class _Storage:
    key: str
    dtype: torch.dtype
    num_bytes: int


class TorchFile:
    """An open file that torch.save wrote.

    Args:
        path: The file.
        allowed: Names that its pickle may hold besides TENSOR_NAMES; see inert_pickle.load.

    Raises:
        TwistError: it is missing, damaged, not written by torch.save, or names something that is not allowed.
    """

    def __init__(self, path: Path, allowed: Collection[str] = ()) -> None:
        self._path = path
        allowed = (*TENSOR_NAMES, *allowed)
        try:
            self._file = path.open("rb")
            try:
                is_zip = self._file.read(4) == b"PK\x03\x04"
                self._file.seek(0)
                self._archive: _Archive = (_ZipArchive if is_zip else _LegacyArchive)(self._file, allowed)
            except BaseException:
                self._file.close()
                raise
        except OSError as error:
            raise TwistError(f"cannot read {path}: {error.strerror or error}") from None
        except Exception as error:  # a damaged pickle can raise anything
            raise self._unreadable(error) from error
        self.content: Any = self._archive.content
        """What was saved, with a Recorded for each tensor or other object; dicts may be Recorded OrderedDicts."""

    def __enter__(self) -> TorchFile:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def tensor(self, recorded: object) -> Tensor:
        """Reads the tensor that `recorded`, found in `content`, stands for.

        Raises:
            TwistError: it is not a tensor, or some of its bytes are missing.
        """
        try:
            return self._tensor(recorded)
        except Exception as error:
            raise self._unreadable(error) from error

    def _tensor(self, recorded: object) -> Tensor:
        if not isinstance(recorded, Recorded):
            raise ValueError(f"it holds a {type(recorded).__name__} in place of a tensor")
        if recorded.name == REBUILD_PARAMETER:
            return self._tensor(recorded.args[0])
        if recorded.name not in REBUILD_TENSOR:
            raise ValueError(f"it holds {recorded.name} in place of a tensor")
        storage, offset, shape, stride = recorded.args[:4]
        if not isinstance(storage, _Storage):
            raise ValueError("it holds a tensor without a storage")
        data = self._archive.read(storage)
        if len(data) != storage.num_bytes:
            raise ValueError(f"its storage {storage.key} has {len(data)} bytes in place of {storage.num_bytes}")
        if math.prod(shape) * storage.dtype.itemsize > storage.num_bytes:
            raise ValueError(f"it holds a tensor of {list(shape)} in a storage of {storage.num_bytes} bytes")
        if not data:
            return torch.empty(shape, dtype=storage.dtype)
        # as_strided checks that the tensor lies inside the storage
        return torch.frombuffer(data, dtype=storage.dtype).as_strided(shape, stride, offset).clone()

    def _unreadable(self, error: Exception) -> TwistError:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        return TwistError(f"{self._path} cannot be read as tensors ({reason}); it is damaged or holds other things")


class _Archive(Protocol):
    content: Any

    def read(self, storage: _Storage) -> bytearray: ...


class _ZipArchive:
    def __init__(self, file: BinaryIO, allowed: Collection[str]) -> None:
        self._zip = zipfile.ZipFile(file)
        names = [name for name in self._zip.namelist() if name.endswith("/data.pkl") and name.count("/") == 1]
        if len(names) != 1:
            raise ValueError("the zip file has no data.pkl of torch.save")
        self._folder = names[0].removesuffix("data.pkl")
        if f"{self._folder}constants.pkl" in self._zip.namelist():
            raise ValueError("it is a TorchScript program")
        byteorder = f"{self._folder}byteorder"
        if byteorder in self._zip.namelist() and self._member(byteorder) != b"little":
            raise ValueError("it was written on a big-endian machine")
        self.content = inert_pickle.load(io.BytesIO(self._member(names[0])), allowed, _storage)

    def read(self, storage: _Storage) -> bytearray:
        return bytearray(self._member(f"{self._folder}data/{storage.key}"))

    def _member(self, name: str) -> bytes:
        member = self._zip.getinfo(name)
        if member.compress_type != zipfile.ZIP_STORED:  # torch.save never does; it could unpack to any size
            raise ValueError(f"its {name} is compressed")
        return self._zip.read(member)


class _LegacyArchive:
    def __init__(self, file: BinaryIO, allowed: Collection[str]) -> None:
        self._file = file
        if inert_pickle.load(file, ()) != LEGACY_MAGIC_NUMBER or inert_pickle.load(file, ()) != LEGACY_PROTOCOL:
            raise ValueError("torch.save did not write it")
        if inert_pickle.load(file, ()).get("little_endian") is not True:
            raise ValueError("it was written on a big-endian machine")
        # A storage's size in bytes follows from its type, which only references to it give.
        storages: dict[str, _Storage] = {}

        def referred(pid: Any) -> _Storage:
            storage = _storage(pid)
            return storages.setdefault(storage.key, storage)

        self.content = inert_pickle.load(file, allowed, referred)
        self._offsets: dict[str, int] = {}
        for key in inert_pickle.load(file, ()):
            storage = storages[key]
            length = int.from_bytes(file.read(8), "little")
            if length * storage.dtype.itemsize != storage.num_bytes:
                raise ValueError(f"its storage {key} has another length than its tensors say")
            self._offsets[key] = file.tell()
            file.seek(storage.num_bytes, os.SEEK_CUR)
        # Storages lie in an order of chance: what is missing may be one that nobody asks for.
        if file.tell() > file.seek(0, os.SEEK_END):
            raise ValueError("it ends too early")

    def read(self, storage: _Storage) -> bytearray:
        self._file.seek(self._offsets[storage.key])
        return bytearray(self._file.read(storage.num_bytes))


def _storage(pid: Any) -> _Storage:
    """The storage that a persistent id ("storage", type, key, device, number of elements, view) stands for."""
    kind, storage_type, key, _, num_elements, *view = pid
    name = storage_type.name.removeprefix("torch.")
    if kind != "storage" or name not in DTYPES or (view and view[0] is not None):
        raise pickle.UnpicklingError(f"it refers to a {kind} of {name}, which is not supported")
    if not isinstance(key, str) or not isinstance(num_elements, int) or num_elements < 0:
        raise pickle.UnpicklingError("its references to storages are damaged")
    return _Storage(key, DTYPES[name], num_elements * DTYPES[name].itemsize)


def mapping(value: object) -> dict[Any, Any]:
    """A dict of a file's content, plain or recorded as an OrderedDict, as a plain dict.

    Raises:
        ValueError: it is neither.
    """
    if isinstance(value, dict):
        return value
    if isinstance(value, Recorded) and value.name == "collections.OrderedDict":
        # Python 2 gave the items as a list of pairs.
        pairs = value.args[0] if value.args else ()
        return dict([*pairs, *value.items])
    raise ValueError("not a dict")
