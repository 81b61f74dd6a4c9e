"""Lists the members of tars of audio, reading only the headers."""

from __future__ import annotations

import functools
import posixpath
import tarfile
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, cast

from pipeline.audio.errors import AudioError
from pipeline.audio.places import read_file_patiently
from pipeline.corpora.source import AudioFile, CorpusConfig, CorpusError
from pipeline.files import storage
from pipeline.files.audio_uri import TarMember
from pipeline.work.map_tasks import spread

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import IO

# Their members cannot be read in place.
COMPRESSED_SUFFIXES = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")
# What gzip, bzip2, xz and zstd begin with: no tar does, which begins with a name.
_COMPRESSED_STARTS = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ\0", b"\x28\xb5\x2f\xfd")
# Smaller than a clip of a few seconds, so that on S3 most of a tar is not downloaded.
HEADER_READ_AHEAD_BYTES = 2**16
ZEROS_READ_BYTES = 2**16
# A header that says that its own text is longer is no header.
MAX_HEADER_BYTES = 2**20
# A longer chain of links is a circle.
MOST_LINKS_IN_A_ROW = 40


@dataclass(frozen=True)
class Member:
    """A file in a tar: its bytes are `offset` to `offset + length` of the tar.

    Attributes:
        part: Number of end marks before it; above 0 in tars that were put behind another.
        fault: Why it cannot be read: a link that leads nowhere. None if it can.
    """

    name: str
    offset: int
    length: int
    part: int = 0
    fault: str | None = None


def members(uri: str) -> Iterator[Member]:
    """Yields the regular files of a tar in order, with names without a leading `./`, then the links to such files.

    What comes behind an end mark is read too, if it is a tar.

    Raises:
        CorpusError: the tar is compressed, damaged or cut off; the members before that have been yielded.
    """
    with storage.open_read(uri, HEADER_READ_AHEAD_BYTES) as file:
        if _is_compressed(file.read(tarfile.BLOCKSIZE)):
            raise CorpusError(
                f"{uri} is compressed, so that audio in it cannot be read in place: decompress it to a .tar"
            )
        size = file.seek(0, 2)
        start: int | None = 0
        part = 0
        links: list[tuple[int, tarfile.TarInfo]] = []
        places: dict[str, Member] = {}
        try:
            while start is not None:
                file.seek(start)
                with tarfile.open(fileobj=cast("IO[bytes]", _Headers(file)), mode="r:") as tar:
                    for info in tar:
                        tar.members = []  # type: ignore[attr-defined]  # tarfile would keep every header in memory
                        if info.islnk() or info.issym():
                            links.append((part, info))
                        elif info.isreg():
                            if info.offset_data + info.size > size:
                                raise tarfile.ReadError(f"{info.name} is cut off")
                            fault = None if info.sparse is None else "a file with holes cannot be read in place"
                            member = Member(_plain(info.name), info.offset_data, info.size, part, fault)
                            places[member.name] = member
                            yield member
                    end = tar.offset
                if part and end == start:
                    raise tarfile.ReadError(f"there is no header at byte {end}")
                start = _next_part(file, end)
                if start == end:  # tarfile takes anything that is not a header for the end
                    raise tarfile.ReadError(f"there is no header at byte {end}")
                part += 1
        except tarfile.TarError as error:
            yield from _resolve(links, places)
            raise CorpusError(f"{uri} is not a whole tar: {error}") from error
        yield from _resolve(links, places)


def _is_compressed(block: bytes) -> bool:
    is_header = block[257:262] == b"ustar"  # of a member that is called BZh...
    return block.startswith(_COMPRESSED_STARTS) and not is_header


class _Headers:
    """A tar of which only headers are read; tarfile itself reads as many bytes as one says that it has."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.seek, self.tell = file.seek, file.tell

    def read(self, num_bytes: int) -> bytes:
        if num_bytes > MAX_HEADER_BYTES:
            raise tarfile.ReadError(f"a header of {num_bytes:,} bytes")
        return self._file.read(num_bytes)


def _plain(name: str) -> str:
    while name.startswith("./"):
        name = name[2:].lstrip("/")
    return name


def _next_part(file: IO[bytes], end: int) -> int | None:
    """Where the first block from `end` begins that is not all zeros; None if there is none."""
    file.seek(end)
    while block := file.read(ZEROS_READ_BYTES):
        if rest := block.lstrip(b"\0"):
            first = end + len(block) - len(rest)
            return first - first % tarfile.BLOCKSIZE
        end += len(block)
    return None


def _resolve(links: list[tuple[int, tarfile.TarInfo]], places: dict[str, Member]) -> Iterator[Member]:
    """Yields the links as members with the bytes of the files that they lead to, within the tar."""
    targets: dict[str, str] = {}
    for _, info in links:
        folder = "" if info.islnk() else posixpath.dirname(_plain(info.name))
        targets[_plain(info.name)] = posixpath.normpath(posixpath.join(folder, info.linkname))
    normal = {posixpath.normpath(name): name for name in places}
    for part, info in links:
        name = target = _plain(info.name)
        for _ in range(MOST_LINKS_IN_A_ROW):
            if target not in targets:
                break
            target = targets[target]
        found = places.get(normal.get(target, target))
        if found is None:
            yield Member(name, 0, 0, part, f"a link to {info.linkname!r}, which is no file of the tar")
        else:
            yield Member(name, found.offset, found.length, part, found.fault)


def members_of_all(config: CorpusConfig, names: Iterable[str]) -> Iterator[tuple[list[Member], AudioFile | None]]:
    """Yields the members of each tar, and an entry, to be dropped, for one that cannot be read to its end.

    Many tars are read on the cluster.

    Raises:
        ConnectionError: the place of the corpus fails.
    """
    return spread(functools.partial(members_and_damage, config), names)


def members_and_damage(config: CorpusConfig, name: str) -> tuple[list[Member], AudioFile | None]:
    """The same of one tar."""
    uri = config.uri_of(name)
    found: list[Member] = []

    def read() -> None:
        found.clear()
        for member in members(uri):
            found.append(member)

    try:
        read_file_patiently(read, uri, config.witnesses)
    except CorpusError as damage:
        return found, AudioFile(name, uri, drop_reason="unreadable", drop_detail=str(damage))
    except AudioError as failure:
        return found, AudioFile(name, uri, drop_reason=failure.reason, drop_detail=failure.detail)
    return found, None


def address(uri: str, member: Member) -> str:
    """The URI of a member (files/audio_uri.py)."""
    return str(TarMember(uri, member.offset, member.length, member.name))


def reason_to_drop(member: Member) -> tuple[str | None, str]:
    """Why a member is dropped unopened, as (reason, detail): (None, "") if it is not."""
    path = PurePosixPath(member.name)
    if path.is_absolute() or ".." in path.parts:
        return "bad_name", f"the name {member.name!r} in a tar leaves its folder"
    return ("bad_link", member.fault) if member.fault else (None, "")
