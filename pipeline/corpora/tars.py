"""Lists the members of tars of audio, reading only the headers."""

from __future__ import annotations

import tarfile
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from pipeline.corpora.source import AudioFile, CorpusError
from pipeline.files import storage
from pipeline.files.audio_uri import TarMember
from pipeline.work.map_tasks import spread

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

# Their members cannot be read in place.
COMPRESSED_SUFFIXES = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")
# Smaller than a clip of a few seconds, so that on S3 most of a tar is not downloaded.
HEADER_READ_AHEAD_BYTES = 2**16


@dataclass(frozen=True)
class Member:
    """A file in a tar: its bytes are `offset` to `offset + length` of the tar."""

    name: str
    offset: int
    length: int


def members(uri: str) -> Iterator[Member]:
    """Yields the regular files of a tar in order, with names without a leading `./`.

    Raises:
        CorpusError: the tar is compressed, damaged or cut off; the members before that have been yielded.
    """
    if uri.endswith(COMPRESSED_SUFFIXES):
        raise CorpusError(f"{uri} is compressed, so that audio in it cannot be read in place: decompress it to a .tar")
    with storage.open_read(uri, HEADER_READ_AHEAD_BYTES) as file:
        try:
            size = file.seek(0, 2)
            file.seek(0)
            with tarfile.open(fileobj=file, mode="r:") as tar:
                for info in tar:
                    tar.members = []  # type: ignore[attr-defined]  # tarfile would keep every header in memory
                    if not info.isreg():
                        continue
                    if info.offset_data + info.size > size:
                        raise tarfile.ReadError(f"{info.name} is cut off")
                    if info.sparse is not None:
                        continue
                    yield Member(info.name.removeprefix("./"), info.offset_data, info.size)
                # tarfile takes anything that is not a header for the end.
                file.seek(tar.offset)
                if file.read(tarfile.BLOCKSIZE).strip(b"\0"):
                    raise tarfile.ReadError(f"there is no header at byte {tar.offset}")
        except tarfile.TarError as error:
            raise CorpusError(f"{uri} is not a whole tar: {error}") from error


def members_of_all(uris: Iterable[str]) -> Iterator[tuple[str, list[Member], CorpusError | None]]:
    """Yields each tar's URI, its members, and the error if it cannot be read to the end.

    Many tars are read on the cluster.
    """
    return spread(_members_and_damage, uris)


def _members_and_damage(uri: str) -> tuple[str, list[Member], CorpusError | None]:
    found: list[Member] = []
    try:
        for member in members(uri):
            found.append(member)
    except CorpusError as error:
        return uri, found, error
    return uri, found, None


def address(uri: str, member: Member) -> str:
    """The URI of a member (files/audio_uri.py)."""
    return str(TarMember(uri, member.offset, member.length, member.name))


def leaves_its_folder(name: str) -> bool:
    """Whether a member's name, taken as a path, would point outside the tar's folder."""
    path = PurePosixPath(name)
    return path.is_absolute() or ".." in path.parts


def as_damage(name: str, uri: str, error: CorpusError) -> AudioFile:
    """An entry, to be dropped, for a tar that cannot be read to its end."""
    return AudioFile(name, uri, drop_reason="unreadable", drop_detail=str(error))
