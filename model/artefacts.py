"""Tokenizers and models by name: our own small ones, stored here, and TWIST's official files, which are downloaded.

    model/embedded/hubert-tiny-25hz/                  a HuBERT of 4M parameters; see docs/hubert-tiny-25hz.md
    model/embedded/hifigan-tiny-25hz/                 a vocoder for its units; see docs/hifigan-tiny-25hz.md
    model/embedded/style-tiny-25hz/                   a style model on its features; see docs/expressive.md
    model/embedded/pitch-tiny/                        a pitch tokenizer; see docs/pitch-tiny.md
    model/embedded/language-tiny/                     English or not; see docs/language-tiny.md
    TWIST_CACHE, else ~/.cache/twist (see pipeline/files/machine_cache.py)
        mhubert_base_25hz_cp_mls_cv_sp_fisher.pt      appears under this name only once it is complete and its
                                                      sha256 is verified
        TWIST-1.3B/                                   the content of a downloaded zip file

Sources: textlesslib's textless/checkpoint_manager and examples/twist.
"""

from __future__ import annotations

import shutil
import tempfile
import warnings
import zipfile
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from tqdm import tqdm

from model.official_files import ARTEFACTS, Artefact
from model.training.checkpoint import OPTIMIZER_PREFIX
from pipeline.errors import RunError, TwistError
from pipeline.files import machine_cache, storage
from pipeline.files.checksums import sha256_of, sha256_of_files
from pipeline.files.file_lock import locked
from pipeline.files.machine_cache import CACHE_VARIABLE, cache_folder

if TYPE_CHECKING:
    from collections.abc import Sequence

TIMEOUT_S = 60
BLOCK_BYTES = 2**20
# Of the files in a transformers folder that say what it computes.
MODEL_SUFFIXES = (".json", ".safetensors", ".bin")


EMBEDDED_FOLDER = Path(__file__).parent / "embedded"
EMBEDDED = (
    "hubert-tiny-25hz", "hubert-tiny-25hz-km100", "hifigan-tiny-25hz", "pitch-tiny", "style-tiny-25hz",
    "language-tiny",
)  # fmt: skip


def local_path(path_or_name: str, beside: Sequence[str] = ()) -> Path:
    """Where a model's file or folder lies on this machine; what is on S3, or published under a name, is fetched.

    Of a checkpoint on S3, the optimizer's files are not.

    Args:
        path_or_name: A local path, the name of an artefact (see `resolve`), or s3://BUCKET/KEY.
        beside: Names of files that belong to a single file on S3, and lie beside it if there are any.

    Raises:
        TwistError: nothing is there, or an official file is not the one that was published.
        RunError: it cannot be fetched.
    """
    if storage.is_s3(path_or_name):
        return machine_cache.copy_of(path_or_name, beside, leave_out=OPTIMIZER_PREFIX)
    return Path(resolve(path_or_name))


def is_name(path_or_name: str) -> bool:
    """Whether this names an artefact, and is no path."""
    return path_or_name in EMBEDDED or path_or_name in ARTEFACTS


def identity(path_or_name: str) -> str:
    """What tells a model from others, wherever it lies: an artefact's name, else sha256 over the model's files.

    Raises:
        TwistError, RunError: as `local_path`.
    """
    if is_name(path_or_name):
        return path_or_name
    # Of a checkpoint, its optimizer's files too.
    path = machine_cache.copy_of(path_or_name) if storage.is_s3(path_or_name) else local_path(path_or_name)
    if path.is_file():
        return f"sha256:{sha256_of(str(path))}"
    files = path.iterdir() if path.is_dir() else ()
    return f"sha256:{sha256_of_files(file for file in files if file.suffix in MODEL_SUFFIXES and file.is_file())}"


def resolve(path_or_name: str) -> str:
    """The path of a named artefact, downloaded if the cache lacks it; any other argument is returned unchanged.

    Write `./NAME` to mean a local file of the same name.

    Raises:
        TwistError: the file is not the one that was published.
        RunError: it cannot be fetched.
    """
    if path_or_name in EMBEDDED:
        return str(EMBEDDED_FOLDER / path_or_name)
    artefact = ARTEFACTS.get(path_or_name)
    if artefact is None:
        return path_or_name
    for name in artefact.beside:
        fetch(ARTEFACTS[name])
    return str(unpack(artefact) if artefact.file_name.endswith(".zip") else fetch(artefact))


def fetch(artefact: Artefact) -> Path:
    """The file's path in the cache; it is downloaded if missing, and verified every time.

    Of several processes on a machine one downloads while the others wait for it.

    Raises:
        TwistError: the checksum of the file in the cache differs.
        RunError: the cache cannot be written, the download fails or breaks off, or gives another file.
    """
    path = cache_folder() / artefact.cached_as
    folder = path.parent
    if not path.is_file():
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with locked(folder / f".{path.name}.lock"):  # pooch has no lock
                if not path.is_file():
                    _download(artefact, path)
        except OSError as error:
            raise RunError(f"cannot write to {folder}: {error.strerror or error}; set {CACHE_VARIABLE}") from error
    if artefact.sha256 is not None:
        sha256 = sha256_of(str(path))
        if sha256 != artefact.sha256:
            raise TwistError(
                f"{path} is not the file that was published: it has sha256 {sha256}, not {artefact.sha256}; delete it "
                f"and fetch it again"
            )
    return path


def unpack(artefact: Artefact) -> Path:
    """Unpacks a zip of a transformers folder beside it in the cache, downloading it if needed, and returns the folder.

    Only files directly in that folder are taken, each verified by the zip's own checksum.

    Raises:
        TwistError: as `fetch`; or the file is not a zip, is damaged, or holds no transformers folder.
        RunError: as `fetch`.
    """
    folder = cache_folder() / artefact.cached_as.removesuffix(".zip")
    if folder.is_dir():
        return folder
    path = fetch(artefact)
    with locked(folder.with_name(f".{folder.name}.lock")):
        if folder.is_dir():
            return folder
        # Not pooch.Unzip, which unpacks in place: a process that is killed would leave part of a model.
        unfinished = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
        try:
            with zipfile.ZipFile(path) as archive:
                _extract(archive, unfinished)
            unfinished.chmod(0o755)  # only its owner can read a temporary folder; a cache may be shared
            unfinished.rename(folder)
        except (zipfile.BadZipFile, ValueError) as error:
            raise TwistError(f"{path} cannot be unpacked ({error}); delete it and fetch it again") from error
        except OSError as error:
            raise RunError(f"cannot unpack {path} beside it: {error.strerror or error}") from error
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
    return folder


def _extract(archive: zipfile.ZipFile, folder: Path) -> None:
    names = [info.filename for info in archive.infolist() if PurePosixPath(info.filename).name == "config.json"]
    if len(names) != 1:
        raise ValueError(f"it holds {len(names)} transformers folders in place of one")
    inside = PurePosixPath(names[0]).parent
    for info in archive.infolist():
        member = PurePosixPath(info.filename)
        if member.parent == inside and not info.is_dir() and member.name not in ("", "..", "."):
            with archive.open(info) as source, (folder / member.name).open("wb") as target:
                shutil.copyfileobj(source, target)


def _download(artefact: Artefact, path: Path) -> None:
    import pooch  # here, for commands that download nothing
    import requests

    pooch.get_logger().setLevel("WARNING")
    try:
        with tqdm(desc=path.name, total=1, unit="B", unit_scale=True, leave=False) as bar:  # pooch sets the total
            downloader = pooch.HTTPDownloader(progressbar=bar, chunk_size=BLOCK_BYTES, timeout=TIMEOUT_S)
            pooch.retrieve(artefact.url, artefact.sha256, path.name, path.parent.absolute(), downloader=downloader)
    except (requests.RequestException, ValueError) as error:  # ValueError: another checksum
        raise RunError(
            f"cannot fetch {artefact.url}; try again, or fetch it on a machine with a network and put it at {path} "
            f"(or in another folder that {CACHE_VARIABLE} names). {error}"
        ) from error
    path.chmod(0o644)  # pooch's file is its owner's alone; a cache may be shared
    if artefact.sha256 is None:
        warnings.warn(
            f"{artefact.url}: no checksum is published for it, so it could not be checked; its sha256 is "
            f"{pooch.file_hash(path)}",
            stacklevel=2,
        )
