"""Codebooks from elsewhere: another run's, a NumPy file, the k-means models of fairseq and textlesslib, or SpiRit-LM's.

The official codebooks were made with fairseq's `learn_kmeans.py`, which writes scikit-learn's MiniBatchKMeans with
joblib: a pickle in which each array's bytes directly follow its pickled description. It is read here as plain data,
without scikit-learn and joblib, and so is the same model written with pickle alone; see pipeline/files/inert_pickle.py.
"""

from __future__ import annotations

import hashlib
import io
import math
import re
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from model.artefacts import local_path
from pipeline.errors import RunError, TwistError
from pipeline.files import inert_pickle, storage
from pipeline.files.inert_pickle import Recorded
from pipeline.units import ctc_quantizer
from pipeline.units.codebook import CENTROIDS, FACTS, WEIGHTS, Codebook, CodebookError, check_encoder, load, sizes

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

# What scikit-learn's k-means models are made of: themselves, their arrays, and the generator that seeded them.
KMEANS_NAMES = (
    "sklearn",
    "joblib",
    "numpy",
    "collections.OrderedDict",
    "_codecs.encode",  # how Python 3 writes bytes in protocols 0 to 2
    *("copyreg._reconstructor", "copy_reg._reconstructor"),
    *("builtins.object", "__builtin__.object", "builtins.bytearray", "__builtin__.bytearray"),
)
ARRAY = "joblib.numpy_pickle.NumpyArrayWrapper"
# What numpy's own arrays are in a pickle of protocols 0 to 4, and of 5; before numpy 2 in numpy.core.
PICKLED_ARRAY = re.compile(r"numpy\._?core\.multiarray\._reconstruct")
PICKLED_BUFFER = re.compile(r"numpy\._?core\.numeric\._frombuffer")
# A codebook is a few megabytes; anything that unpacks to more than this is not one.
MAX_BYTES = 2**30
ZLIB, GZIP = b"\x78", b"\x1f\x8b"
OTHER_COMPRESSIONS = {b"BZ": "bz2", b"\xfd7zXZ": "xz", b"\x5d\x00": "lzma", b"\x04\x22\x4d\x18": "lz4"}
ADVICE = "write its centroids with numpy.save, and name that .npy file"
NPY_MAGIC = b"\x93NUMPY"
# As torch.save writes.
ZIP = b"PK\x03\x04"


@dataclass(frozen=True)
class Imported:
    """A codebook from elsewhere.

    Attributes:
        weights: `centroids` [K, D] float32 of a k-means, or the layers of a CTC quantizer.
        source: Where it came from, as the user named it.
        sha256: Checksum (hex) of the file that holds the weights.
        codebook: The whole codebook, if it was a folder of ours; None if only the weights are known.
    """

    weights: Mapping[str, NDArray[np.float32]]
    source: str
    sha256: str
    codebook: Codebook | None


def read(uri: str, source: str) -> Imported:
    """Reads a codebook from a folder that `codebook.write` wrote, or from a file: of centroids (see `read_centroids`),
    or of a CTC quantizer (see `ctc_quantizer.read`).

    Args:
        uri: Folder or file, local or s3://.
        source: What the user called it, for errors and facts.

    Raises:
        CodebookError: it is missing, damaged, or not a codebook.
    """
    if storage.exists(storage.join(uri, FACTS)):
        book = load(uri)
        content = storage.read_bytes(storage.join(uri, WEIGHTS))
        return Imported(book.weights, source, hashlib.sha256(content).hexdigest(), book)
    try:
        content = storage.read_bytes(uri)
    except (FileNotFoundError, IsADirectoryError):
        raise CodebookError(f"{source} is neither a file of centroids nor the folder of a codebook") from None
    except OSError as error:
        raise RunError(f"cannot read the codebook {source}: {error.strerror or error}") from error
    is_ctc = content.startswith(ZIP)
    weights = _ctc_layers(uri, source) if is_ctc else {CENTROIDS: read_centroids(content, source)}
    return Imported(weights, source, hashlib.sha256(content).hexdigest(), None)


def _ctc_layers(uri: str, source: str) -> dict[str, NDArray[np.float32]]:
    try:
        weights = ctc_quantizer.read(local_path(uri))
    except (TwistError, ValueError, AttributeError) as error:
        raise CodebookError(f"{source} cannot be read as a CTC quantizer: {error}") from error
    if not all(np.isfinite(one).all() for one in weights.values()):
        raise CodebookError(f"{source} holds weights with NaN or infinite values")
    return weights


def check(imported: Imported, codebook_size: int, encoder: dict[str, Any]) -> None:
    """Checks that a codebook has the size, the dimensions and the encoder that a run asks for.

    Raises:
        CodebookError: one of these differs.
    """
    found_dim, found_units = sizes(imported.weights)
    if found_units != codebook_size:
        raise CodebookError(
            f"{imported.source} has {found_units} units; set codebook.num_units, now {codebook_size}, to that"
        )
    if found_dim != encoder["feature_dim"]:
        raise CodebookError(
            f"{imported.source} takes features of {found_dim} dimensions, but the features of the encoder "
            f"{encoder['name']} have {encoder['feature_dim']}; it belongs to another encoder"
        )
    if imported.codebook is not None:
        check_encoder(imported.codebook, encoder)


def facts_of(imported: Imported, encoder: dict[str, Any]) -> dict[str, Any]:
    """The facts in codebook.json, except for fingerprint and size."""
    return {"encoder": encoder, "imported_from": imported.source, "imported_sha256": imported.sha256}


def read_centroids(content: bytes, source: str) -> NDArray[np.float32]:
    """Centroids [K, D] from the content of a `.npy` file, or of a k-means of joblib or pickle (plain, zlib or gzip).

    Args:
        content: The whole file.
        source: Its name, for errors.

    Raises:
        CodebookError: it is damaged, something else, or would run code, or the centroids are not finite.
    """
    try:
        centroids = _npy(content) if content.startswith(NPY_MAGIC) else _kmeans(_decompressed(content))
    except Exception as error:  # a damaged pickle can raise anything
        reason = str(error) or type(error).__name__
        raise CodebookError(f"{source} cannot be read as k-means centroids: {reason}") from error
    if centroids.ndim != 2 or centroids.dtype.kind != "f" or not 2 <= len(centroids) <= 2**16:
        raise CodebookError(
            f"{source} holds {centroids.dtype} {list(centroids.shape)}, no floating-point centroids [K, D] of 2 to "
            f"65536 units"
        )
    with np.errstate(over="ignore"):  # values too large for float32 become infinite, which is refused below
        centroids = np.ascontiguousarray(centroids, np.float32)
    if not np.isfinite(centroids).all():
        raise CodebookError(f"{source} holds centroids with NaN or infinite values")
    return centroids


def _npy(content: bytes) -> NDArray[Any]:
    array: NDArray[Any] = np.load(io.BytesIO(content), allow_pickle=False)
    return array


def _decompressed(content: bytes) -> bytes:
    for magic, name in OTHER_COMPRESSIONS.items():
        if content.startswith(magic):
            raise ValueError(f"it is compressed with {name}; unpack it first")
    if not content.startswith((ZLIB, GZIP)):
        return content
    unpacker = zlib.decompressobj(zlib.MAX_WBITS | 32)  # detects which of the two it is
    unpacked = unpacker.decompress(content, MAX_BYTES)
    if not unpacker.eof:
        raise ValueError(f"its compressed data breaks off, or unpacks to more than {MAX_BYTES} bytes")
    return unpacked


def _kmeans(content: bytes) -> NDArray[Any]:
    file = io.BytesIO(content)
    arrays: dict[int, NDArray[Any]] = {}

    def read_array(recorded: Recorded) -> None:
        if _class_of(recorded) == ARRAY:
            arrays[id(recorded)] = _array_behind(recorded.state, file)

    model = inert_pickle.load(file, KMEANS_NAMES, on_state=read_array)
    if not isinstance(model, Recorded) or not isinstance(model.state, dict):
        raise ValueError(f"it holds no scikit-learn k-means; {ADVICE}")
    centroids = model.state.get("cluster_centers_")
    if id(centroids) in arrays:
        return arrays[id(centroids)]
    if not isinstance(centroids, Recorded):
        raise ValueError(f"its {_class_of(model)} has no array cluster_centers_, so it is no fitted k-means; {ADVICE}")
    return _pickled_array(centroids)


def _class_of(model: Recorded) -> str:
    """The name of a recorded object's class; protocols 0 and 1 name it in a call of _reconstructor."""
    is_named = model.name.endswith("._reconstructor") and model.args and isinstance(model.args[0], type)
    return str(model.args[0].name if is_named else model.name)


def _pickled_array(recorded: Recorded) -> NDArray[Any]:
    """An array whose bytes are inside the pickle, as `pickle.dump` writes it."""
    if PICKLED_ARRAY.fullmatch(recorded.name) and isinstance(recorded.state, tuple):
        _, shape, dtype, is_fortran, data = recorded.state
        order = "F" if is_fortran else "C"
    elif PICKLED_BUFFER.fullmatch(recorded.name):
        data, dtype, shape, order = recorded.args
    else:
        raise ValueError(f"its cluster_centers_ are a {recorded.name}; {ADVICE}")
    if isinstance(data, Recorded) and data.name == "_codecs.encode":
        text, encoding = data.args
        data = text.encode("latin1") if encoding == "latin1" else None
    if not isinstance(data, bytes | bytearray):
        raise ValueError(f"its cluster_centers_ do not hold plain numbers; {ADVICE}")
    return np.frombuffer(data, _dtype(dtype)).reshape(shape, order="F" if order == "F" else "C")


def _array_behind(description: dict[str, Any], file: io.BytesIO) -> NDArray[Any]:
    """Reads the array that starts at the file's position, and leaves the position behind it."""
    dtype = _dtype(description["dtype"])
    shape = tuple(description["shape"])
    assert all(isinstance(size, int) and size >= 0 for size in shape)
    # Since joblib 1.2 one byte gives the length of the padding that aligns the array in the file.
    if description.get("numpy_array_alignment_bytes") is not None:
        file.seek(file.read(1)[0], io.SEEK_CUR)
    num_bytes = math.prod(shape) * dtype.itemsize
    data = file.read(num_bytes) if num_bytes <= MAX_BYTES else b""
    if len(data) < num_bytes:
        raise ValueError("it breaks off inside an array")
    array = np.frombuffer(data, dtype)
    return array.reshape(shape, order="F" if description["order"] == "F" else "C")


def _dtype(recorded: Recorded) -> np.dtype[Any]:
    """The dtype recorded as numpy.dtype("f8", ...) with state (version, byte order, ...)."""
    kind, byte_order = recorded.args[0], recorded.state[1]
    if recorded.name != "numpy.dtype" or not re.fullmatch(r"[biufc]\d{1,2}", kind) or byte_order not in "<>|=":
        raise ValueError(f"it holds an array of {kind!r}")
    dtype: np.dtype[Any] = np.dtype(kind).newbyteorder(byte_order)
    return dtype
