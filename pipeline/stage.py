"""A stage's folder: its settings and inputs, what it kept and dropped, and whether it is finished.

    RUN/<stage>/stage.json       settings, inputs, fingerprint; once finished also counts, versions, wall time, and the
                                 sha256 of SHA256SUMS; last the sha256 of all that stands above it
    RUN/<stage>/SHA256SUMS       the sha256 of each other file of the stage (see sha256sums.py)
    RUN/<stage>/dropped.parquet  what was left out, each with its reason
    RUN/<stage>/DONE             written last; holds the fingerprint by which later stages identify this one's output

The fingerprint chains: it covers a stage's settings, its output, and the fingerprints of the stages it reads from.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib.metadata
import itertools
import json
import logging
import time
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Self

from pipeline import sha256sums
from pipeline.errors import TwistError
from pipeline.files import foreign_json, parquet, storage
from pipeline.files.folder_lock import LOCK, FolderInUseError, folder_lock
from pipeline.records import DROPPED_SCHEMA, Dropped, to_table
from pipeline.runs import SHARDS, TEXT, stage_of
from pipeline.sha256sums import SHA256SUMS

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Mapping

    import pyarrow as pa

logger = logging.getLogger(__name__)

FORMAT_VERSION = 1
READ_BYTES = 2**22
STAGE_JSON, DROPPED, DONE, REMOVING = "stage.json", "dropped.parquet", "DONE", "REMOVING"
VERSIONED_PACKAGES = ("twist-pipeline", "torch", "ray", "faiss-cpu", "pyarrow", "soundfile", "soxr", "transformers")


class StageError(TwistError):
    """A stage that cannot start: its input is not finished, its folder holds output of other settings or is in use."""


@dataclass(frozen=True)
class Tally:
    """A number of items and their hours."""

    items: int = 0
    hours: float = 0.0

    def __add__(self, other: Tally) -> Tally:
        return Tally(self.items + other.items, self.hours + other.hours)


@dataclass(frozen=True)
class StageCounts:
    """A stage's input, what it kept, and what it dropped by reason; the last two always add up to the first."""

    input: Tally
    kept: Tally
    dropped: dict[str, Tally] = field(default_factory=dict)

    @classmethod
    def of(cls, input: Tally, kept: Tally, dropped: Iterable[Dropped]) -> Self:
        """Sums `dropped` by reason and asserts that kept and dropped add up to the input."""
        by_reason: dict[str, Tally] = {}
        for drop in dropped:
            by_reason[drop.reason] = by_reason.get(drop.reason, Tally()) + Tally(drop.num_items, drop.duration_s / 3600)
        out = sum(by_reason.values(), kept)
        assert out.items == input.items, f"{input.items} items went in, {out.items} came out: {kept}, {by_reason}"
        assert abs(out.hours - input.hours) < 1e-6 * max(1.0, input.items), f"hours lost: {input} against {out}"
        return cls(input, kept, dict(sorted(by_reason.items())))

    @classmethod
    def of_table(cls, input: Tally, kept: Tally, dropped: pa.Table) -> Self:
        """The same as `of`, for drops in a table of DROPPED_SCHEMA."""
        sums = dropped.group_by("reason").aggregate([("num_items", "sum"), ("duration_s", "sum")]).to_pylist()
        return cls.of(
            input,
            kept,
            [Dropped("", "", row["reason"], "", row["duration_s_sum"], row["num_items_sum"]) for row in sums],
        )


class LengthDifferences:
    """Counts audio that is longer or shorter than its corpus or its header said."""

    def __init__(self) -> None:
        self._longer, self._shorter = Tally(), Tally()

    def add(self, longer_s: float, shorter_s: float) -> None:
        """Adds one item."""
        self._longer += Tally(int(longer_s > 0), longer_s / 3600)
        self._shorter += Tally(int(shorter_s > 0), shorter_s / 3600)

    def as_facts(self) -> dict[str, Any]:
        """For stage.json."""
        return {"longer_than_stated": asdict(self._longer), "shorter_than_stated": asdict(self._shorter)}


class Stage:
    """One stage of a run, from `begin` to `finish`.

    Args:
        run: The run's folder, local or s3://.
        name: The stage's folder in it.
        config: Every setting that changes what the stage writes.
        inputs: Fingerprints of the stages that it reads, by name.
    """

    def __init__(self, run: str, name: str, config: Mapping[str, Any], inputs: Mapping[str, str]) -> None:
        self.run = run
        self.name = name
        self.uri = storage.join(run, name)
        self._settings = {"config": _plain(config), "inputs": dict(inputs), "format_version": FORMAT_VERSION}
        self.fingerprint = _sha256({"stage": name, **self._settings})
        self._started_at = time.time()

    @contextlib.contextmanager
    def begin(self, prepare: Callable[[], None] | None = None, *, again: bool = False) -> Iterator[bool]:
        """Opens the stage; yields whether there is work to do: False if the stage is already finished.

        A local folder is locked for the time of the block, so that no two commands work on one stage at once.

        Args:
            prepare: Called once the stage is locked and its settings are checked; may `reopen` it.
            again: Removes what the stage has written first, whatever its settings.

        Raises:
            StageError: the folder holds output of other settings or inputs, is in use by another process, or cannot be
                written.
            TwistError: it lies in a store that refuses conditional writes.
            ConnectionError: its store cannot be reached.
        """
        with self._locked():
            if again or storage.exists(self._removing_uri):
                self._remove_output()
            self._refuse_other_settings()
            if prepare is not None:
                prepare()
            if storage.exists(self._done_uri):
                yield False
                return
            try:
                storage.require_conditional_put(self.uri)
                storage.remove_temporaries(self.uri)
                self._write_json({})
            except ConnectionError:
                raise
            except OSError as error:
                raise self._not_writable(error) from error
            yield True

    def finish(
        self,
        counts: StageCounts,
        dropped: list[Dropped] | pa.Table,
        output: str,
        work_files: Collection[str] = (),
        /,
        **facts: Any,
    ) -> None:
        """Writes drops and counts, and last the done marker; then removes work files.

        Args:
            counts: What was kept and dropped.
            dropped: The drops, as records or as a table of DROPPED_SCHEMA; their order must not depend on how the work
                was scheduled.
            output: A digest of what the stage wrote.
            work_files: URIs of files in the stage's folder that are of no use once it is finished.
            facts: Further figures for stage.json.
        """
        table = to_table(dropped, DROPPED_SCHEMA) if isinstance(dropped, list) else dropped
        parquet.write(storage.join(self.uri, DROPPED), table)
        self._write_json(
            {
                "counts": asdict(counts),
                "versions": _versions(),
                "wall_time_s": round(time.time() - self._started_at, 1),
                "finished_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
                **facts,
                "files": {SHA256SUMS: sha256sums.write(self.uri, self._files(work_files))},
            }
        )
        storage.write_bytes(self._done_uri, _done_marker(self.fingerprint, output).encode())
        storage.delete_all(work_files)

    def reopen(self) -> None:
        """Removes the done marker, because some of the output is about to be made again."""
        storage.delete(self._done_uri)

    def _remove_output(self) -> None:
        """Removes all files; killed half-way, it leaves a marker by which the next `begin` does the rest."""
        storage.write_bytes(self._removing_uri, b"")
        storage.delete(self._done_uri)
        names = storage.list_files(self.uri)
        storage.delete_all(storage.join(self.uri, name) for name in names if name not in (LOCK, REMOVING))
        storage.delete(self._removing_uri)

    def _files(self, work_files: Collection[str]) -> list[str]:
        """The files whose sha256 SHA256SUMS gives: all but tars, which have theirs in dataset.json."""
        of_work = set(work_files)
        return [
            file
            for file in storage.list_files(self.uri)
            if file not in (STAGE_JSON, SHA256SUMS, DONE, LOCK, REMOVING)
            and storage.join(self.uri, file) not in of_work
            and not (self.name in (SHARDS, TEXT) and file.endswith(".tar"))
        ]

    @property
    def _removing_uri(self) -> str:
        return storage.join(self.uri, REMOVING)

    @property
    def _done_uri(self) -> str:
        return storage.join(self.uri, DONE)

    @property
    def _json_uri(self) -> str:
        return storage.join(self.uri, STAGE_JSON)

    def _write_json(self, facts: dict[str, Any]) -> None:
        # As it will be read: JSON has no keys but text.
        content = _plain({"stage": self.name, "fingerprint": self.fingerprint, **self._settings, **facts})
        storage.write_bytes(self._json_uri, _json_text({**content, "sha256": _sha256(content)}).encode())

    def _refuse_other_settings(self) -> None:
        try:
            before = read_facts(self.run, self.name)
        except FileNotFoundError:
            return
        if before["fingerprint"] == self.fingerprint or not self._has_output():
            return
        changes = _differences({k: before.get(k) for k in self._settings}, self._settings)
        changes = changes or ["its fingerprint does not belong to the settings beside it"]
        raise StageError(
            f"{self.uri} was made with other settings: {'; '.join(changes)}. Choose another --run, set them back, or "
            f"delete {self.uri} (and the stages after it) to make it again."
        )

    def _has_output(self) -> bool:
        """Whether anything that depends on the settings was written; not so if the first try failed early."""
        return any(name not in (STAGE_JSON, LOCK) for name in storage.list_files(self.uri))

    def _not_writable(self, error: OSError) -> StageError:
        return StageError(f"cannot write to {self.uri}: {error.strerror or error}; mend that or choose another --run")

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        if storage.is_s3(self.uri):  # S3 has no locks; commits there are conditional and idempotent
            yield
            return
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(folder_lock(self.uri))
            except FolderInUseError as error:
                raise StageError(f"{self.uri} is in use by process {error.holder}; wait for it or stop it") from None
            except OSError as error:
                raise self._not_writable(error) from error
            yield


def fingerprint_of(run: str, name: str) -> str:
    """Reads the fingerprint of a finished stage from its done marker.

    Raises:
        StageError: the stage is not finished.
    """
    uri = storage.join(run, name)
    try:
        return storage.read_bytes(storage.join(uri, DONE)).decode(errors="replace")
    except FileNotFoundError:
        raise StageError(f"{uri} is not finished; run `twist {stage_of(name).command}` on this run first") from None


def read_facts(run: str, name: str) -> dict[str, Any]:
    """Reads a stage's stage.json.

    Raises:
        FileNotFoundError: the stage was never begun.
        StageError: the file is damaged.
    """
    folder = storage.join(run, name)
    uri = storage.join(folder, STAGE_JSON)
    try:
        # Earlier versions listed all files of the stage here: 32 MiB for 300,000.
        facts = foreign_json.parse(storage.read_bytes(uri), max_bytes=None)
    except ValueError as error:
        raise StageError(f"{uri} is damaged ({error}); delete {folder} to make it again") from error
    if not isinstance(facts, dict) or not isinstance(facts.get("fingerprint"), str):
        raise StageError(f"{uri} is damaged (it holds no fingerprint); delete {folder} to make it again")
    return facts


def damage(run: str, name: str) -> Iterator[str]:
    """A sentence on each file of a finished stage that is not as it was when the stage was finished.

    A stage that was made before there were such checksums is left alone; a warning says that it is not checked.
    """
    folder = storage.join(run, name)
    facts = read_facts(run, name)
    if "files" not in facts or "sha256" not in facts:
        what = f"{STAGE_JSON}, {DROPPED} and parts of work"
        logger.warning("%s of %s are not checked: an older version made it, without their checksums", what, folder)
        return
    content = {key: value for key, value in facts.items() if key != "sha256"}
    settings = {key: content.get(key) for key in ("stage", "config", "inputs", "format_version")}
    text = storage.read_bytes(storage.join(folder, STAGE_JSON))
    if (facts["sha256"], facts["fingerprint"]) != (_sha256(content), _sha256(settings)) or (
        text != _json_text(facts).encode()  # also where a damaged bit leaves JSON that says the same
    ):
        yield f"{storage.join(folder, STAGE_JSON)} is not as it was written: its sha256 does not fit it"
        return
    sums = facts["files"]
    if found := list(sha256sums.differences(folder, sums)):
        yield from found
    elif SHA256SUMS in sums:
        yield from sha256sums.differences(folder, sha256sums.read(folder))


def checksums(run: str, name: str) -> dict[str, str]:
    """The sha256 of each file of a finished stage as its work left it, by its name in the stage's folder.

    Empty of a stage that was made before there were such checksums.

    Raises:
        FileNotFoundError: the stage was never begun, or its SHA256SUMS is gone.
        StageError: its stage.json is damaged.
    """
    files: dict[str, str] = read_facts(run, name).get("files", {})
    return _listed(storage.join(run, name), files[SHA256SUMS]) if SHA256SUMS in files else files


@functools.lru_cache(maxsize=4)
def _listed(folder: str, sha256: str) -> dict[str, str]:  # noqa: ARG001  # the list's own, for the cache
    """A stage's SHA256SUMS, read once: that of hundreds of thousands of parts has megabytes."""
    return sha256sums.read(folder)


def is_finished(run: str, name: str) -> bool:
    """Whether a stage has its done marker."""
    return storage.exists(storage.join(run, name, DONE))


def is_output(run: str, name: str, output: str) -> bool:
    """Whether a finished stage wrote the output whose digest is `output`.

    Raises:
        StageError: the stage is not finished.
    """
    return fingerprint_of(run, name) == _done_marker(read_facts(run, name)["fingerprint"], output)


def digest_of_files(uris: Iterable[str]) -> str:
    """What `digest` gives for the contents of some files, of which a piece is in memory at a time.

    Raises:
        FileNotFoundError: a file is missing.
    """
    total = hashlib.sha256()
    for uri in uris:
        total.update(storage.size(uri).to_bytes(8, "little"))
        with storage.open_read(uri) as file:
            while piece := file.read(READ_BYTES):
                total.update(piece)
    return total.hexdigest()


def digest(*parts: bytes | str) -> str:
    """The sha256, in hex, of byte strings and their lengths; for `Stage.finish`."""
    total = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        total.update(len(data).to_bytes(8, "little") + data)
    return total.hexdigest()


def _json_text(content: Mapping[str, Any]) -> str:
    return json.dumps(content, indent=2) + "\n"


def _done_marker(fingerprint: str, output: str) -> str:
    return _sha256({"key": fingerprint, "output": output})


def _sha256(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _plain(config: Mapping[str, Any]) -> dict[str, Any]:
    # Through JSON and back, so that a tuple and the list it is stored as compare equal.
    plain: dict[str, Any] = json.loads(json.dumps(config))
    return plain


def _differences(before: Any, now: Any, path: str = "") -> list[str]:
    if isinstance(before, dict) and isinstance(now, dict):
        keys = sorted(before.keys() | now.keys())
        return [line for k in keys for line in _differences(before.get(k), now.get(k), f"{path}.{k}" if path else k)]
    if before == now:
        return []
    if isinstance(before, list) and isinstance(now, list) and any(isinstance(item, dict) for item in before + now):
        pairs = enumerate(itertools.zip_longest(before, now))
        return [line for number, pair in pairs for line in _differences(*pair, f"{path}[{number}]")]
    if path.startswith("inputs."):
        return [f"its input {path.removeprefix('inputs.')} has changed since"]
    return [f"{path.removeprefix('config.')} was {json.dumps(before)}, is {json.dumps(now)}"]


def _versions() -> dict[str, str]:
    versions = {}
    for package in VERSIONED_PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    return versions
