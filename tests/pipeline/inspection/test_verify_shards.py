"""Breaks shards in one way at a time; each must be reported in a sentence that names the file."""

from __future__ import annotations

import hashlib
import io
import json
import re
import shutil
import tarfile
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pytest

from pipeline.files import parquet
from pipeline.inspection.verify_shards import verify_shards
from pipeline.records import SAMPLE_SCHEMA
from pipeline.shards import dataset_fingerprint

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

    Break = Callable[[Path], Any]

SHARD = "train/train-000000.tar"


@pytest.fixture
def shards(small_run: Path, tmp_path: Path) -> Path:
    """Shards by themselves, to break."""
    return shutil.copytree(small_run / "shards", tmp_path / "copied")


def violations(shards: Path) -> list[str]:
    return list(verify_shards(str(shards)))


def edit_manifest(shards: Path, number: int, **values: Any) -> None:
    """Changes a row of manifest.parquet."""
    rows = parquet.read(str(shards / "manifest.parquet")).to_pylist()
    rows[number] |= values
    parquet.write(str(shards / "manifest.parquet"), pa.Table.from_pylist(rows, schema=SAMPLE_SCHEMA))


def edit_info(shards: Path, edit: Callable[[dict[str, Any]], Any]) -> None:
    """Changes dataset.json."""
    info = json.loads((shards / "dataset.json").read_text())
    edit(info)
    (shards / "dataset.json").write_text(json.dumps(info))


def edit_tar(shards: Path, edit: Callable[[list[tuple[str, bytes]]], Any]) -> None:
    """Changes the members of a shard, and its checksum to match."""
    with tarfile.open(shards / SHARD) as tar:
        members = [(member.name, tar.extractfile(member).read()) for member in tar]  # type: ignore[union-attr]
    edit(members)
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    seal(shards, buffer.getvalue())


def seal(shards: Path, content: bytes) -> None:
    """Replaces a shard, and its checksum with it."""
    (shards / SHARD).write_bytes(content)

    def fit(info: dict[str, Any]) -> None:
        shard = next(shard for shard in info["shards"] if shard["path"] == SHARD)
        shard["sha256"] = hashlib.sha256(content).hexdigest()
        shard["num_bytes"] = len(content)
        info["fingerprint"] = dataset_fingerprint(info)

    edit_info(shards, fit)


def edit_array(name: str, edit: Callable[[NDArray[np.uint16]], Any]) -> Break:
    """Breaks one array of a shard's first sample."""

    def change(members: list[tuple[str, bytes]]) -> None:
        place = next(place for place, (member, _) in enumerate(members) if member.endswith(name))
        array = np.load(io.BytesIO(members[place][1]))
        array = edit(array)
        buffer = io.BytesIO()
        np.save(buffer, array)
        members[place] = (members[place][0], buffer.getvalue())

    return lambda shards: edit_tar(shards, change)


def replaced(array: NDArray[np.uint16], place: int, value: int) -> NDArray[np.uint16]:
    array[place] = value
    return array


def flip_a_byte(shards: Path) -> None:
    content = bytearray((shards / SHARD).read_bytes())
    content[len(content) // 2] ^= 1
    (shards / SHARD).write_bytes(content)


def swap_samples(members: list[tuple[str, bytes]]) -> None:
    members[:6] = members[3:6] + members[:3]


def one_speaker_in_two_splits(shards: Path) -> None:
    rows = parquet.read(str(shards / "manifest.parquet")).to_pylist()
    speaker = next(row["speaker"] for row in rows if row["split"] == "validation")
    edit_manifest(shards, 0, speaker=speaker)


def truncate(name: str) -> Break:
    return lambda shards: (shards / name).write_bytes((shards / name).read_bytes()[:-700])


BREAKS: dict[str, tuple[Break, str]] = {
    "a byte of a tar": (flip_a_byte, f"{SHARD} does not have the checksum"),
    "a tar cut short": (truncate(SHARD), f"{SHARD} does not have the checksum"),
    "a tar gone": (lambda s: (s / SHARD).unlink(), f"{SHARD} is missing"),
    "unit counts": (
        lambda s: edit_info(s, lambda info: info["unit_counts"]["train"].__setitem__(0, 10**6)),
        "dataset.json says otherwise how often units occur in train",
    ),
    "a tar too many": (
        lambda s: shutil.copy(s / SHARD, s / "train/train-000077.tar"),
        "train-000077.tar is none of the",
    ),
    "no tar at all": (lambda s: seal(s, b"some text" * 100), f"{SHARD} is damaged: ReadError"),
    "an empty tar": (lambda s: seal(s, b""), f"{SHARD} "),
    "offset": (
        lambda s: edit_manifest(s, 0, offset=512),
        "manifest.parquet: offset of sounds-.* are not those of .*.tar",
    ),
    "offset beyond": (lambda s: edit_manifest(s, 0, units_offset=10**9), "manifest.parquet: units_offset of sounds-"),
    "index": (
        lambda s: edit_manifest(s, 0, index=99),
        f"{SHARD} does not hold the samples that manifest.parquet lists",
    ),
    "key": (lambda s: edit_manifest(s, 0, key="other"), f"{SHARD} does not hold the samples"),
    "a key twice": (lambda s: edit_manifest(s, 0, key=key_of(s, 1)), "manifest.parquet: 1 keys occur more than once"),
    "num_units": (lambda s: edit_manifest(s, 0, num_units=3), "manifest.parquet: num_units of sounds-"),
    "num_units of its sums": (
        lambda s: edit_manifest(s, 0, num_units=3),
        "dataset.json says .* but manifest.parquet lists",
    ),
    "num_frames": (lambda s: edit_manifest(s, 0, num_frames=3), f"{SHARD}: sounds-.*add up to .* it has 3 frames"),
    "duration_s": (lambda s: edit_manifest(s, 0, duration_s=3.0), "manifest.parquet: duration_s of sounds-"),
    "corpus": (lambda s: edit_manifest(s, 0, corpus="other"), "manifest.parquet: corpus of sounds-"),
    "segment_id": (lambda s: edit_manifest(s, 0, segment_id="other"), "manifest.parquet: segment_id of sounds-"),
    "split": (lambda s: edit_manifest(s, 0, split="test"), "manifest.parquet: split of sounds-"),
    "a speaker in two splits": (
        one_speaker_in_two_splits,
        r"manifest.parquet: sounds/\w is in \w+ and, with .*, in \w+",
    ),
    "shard unknown": (lambda s: edit_manifest(s, 0, shard="train/x.tar"), "dataset.json says None of train/x.tar"),
    "manifest cut short": (truncate("manifest.parquet"), "manifest.parquet is not a whole Parquet file"),
    "manifest gone": (lambda s: (s / "manifest.parquet").unlink(), "manifest.parquet is missing"),
    "description gone": (lambda s: (s / "dataset.json").unlink(), "dataset.json is missing"),
    "description cut short": (truncate("dataset.json"), "dataset.json is damaged"),
    "description of less": (
        lambda s: edit_info(s, lambda info: info.pop("shards")),
        "copied is damaged: KeyError: 'shards'",
    ),
    "description of more": (
        lambda s: edit_info(s, lambda info: info["shards"].append("x")),
        "copied is damaged: TypeError",
    ),
    "fingerprint": (lambda s: edit_info(s, lambda info: info.update(fingerprint="x")), "dataset.json: its fingerprint"),
    "totals": (
        lambda s: edit_info(s, lambda info: info["totals"][0].update(num_units=1)),
        "dataset.json says .*'num_units': 1",
    ),
    "totals gone": (
        lambda s: edit_info(s, lambda info: info["totals"].pop()),
        "dataset.json says None of sounds validation",
    ),
    "a smaller codebook": (
        lambda s: edit_info(s, lambda info: info.update(num_units=5)),
        ".tar: .* is outside the codebook of 5",
    ),
    "equal neighbours": (
        edit_array("units.npy", lambda a: replaced(a, 1, int(a[0]))),
        f"{SHARD}: .*neighbouring units are equal",
    ),
    "a unit out of range": (
        edit_array("units.npy", lambda a: replaced(a, 0, 20)),
        f"{SHARD}: .*unit 20 is outside the codebook",
    ),
    "a duration of zero": (
        edit_array("durations.npy", lambda a: replaced(a, 0, 0)),
        f"{SHARD}: .*durations from 0 add up",
    ),
    "durations that do not add up": (edit_array("durations.npy", lambda a: a + 1), f"{SHARD}: .*durations .* add up"),
    "units without durations": (edit_array("durations.npy", lambda a: a[:-1]), f"{SHARD}: .*units and .*durations"),
    "pickled objects": (edit_array("units.npy", lambda a: a.astype(object)), f"{SHARD} is damaged: ValueError"),
    "no units": (edit_array("units.npy", lambda a: a[:0]), f"{SHARD}: .*has 0 units"),
    "numbers of another kind": (edit_array("units.npy", lambda a: a.astype("<f8")), f"{SHARD}: .*units are float64"),
    "a member gone": (lambda s: edit_tar(s, lambda members: members.pop(1)), f"{SHARD}: .*has members"),
    "a member too many": (
        lambda s: edit_tar(s, lambda m: m.insert(3, (f"{key_of(s, 0)}.txt", b""))),
        f"{SHARD}: .*has members",
    ),
    "samples swapped": (lambda s: edit_tar(s, swap_samples), f"{SHARD} does not hold the samples"),
    "a sample gone": (
        lambda s: edit_tar(s, lambda members: members.__delitem__(slice(0, 3))),
        f"{SHARD} does not hold",
    ),
    "another description": (
        lambda s: edit_tar(s, lambda m: m.__setitem__(1, (m[1][0], b"{}"))),
        f"{SHARD} is damaged: KeyError",
    ),
    "a description cut short": (
        lambda s: edit_tar(s, lambda m: m.__setitem__(1, (m[1][0], b'{"a'))),
        f"{SHARD} is damaged",
    ),
}


def key_of(shards: Path, number: int) -> str:
    """The key of a row of the manifest."""
    return str(parquet.read(str(shards / "manifest.parquet"))["key"][number])


def test_untouched_shards_have_no_violation(shards: Path) -> None:
    assert violations(shards) == []


def test_the_helpers_of_these_tests_break_nothing_by_themselves(shards: Path) -> None:
    edit_manifest(shards, 0)
    edit_info(shards, lambda _: None)
    seal(shards, (shards / SHARD).read_bytes())
    assert violations(shards) == []


@pytest.mark.parametrize("name", BREAKS)
def test_one_thing_broken_is_found_and_its_file_named(shards: Path, name: str) -> None:
    damage, expected = BREAKS[name]
    damage(shards)
    found = violations(shards)
    assert any(re.search(expected, violation) for violation in found), f"not found: {found}"
    assert all(str(shards) in violation for violation in found), "a violation that does not say where"


def test_the_search_goes_on_after_something_damaged(shards: Path) -> None:
    flip_a_byte(shards)
    (shards / "train/train-000001.tar").unlink()
    edit_info(shards, lambda info: info["totals"].pop())
    assert len(violations(shards)) == 3, "each of three damages is one violation"


INDEX_BREAKS = (
    "a tar cut short", "a tar gone", "a tar too many", "offset", "offset beyond", "a key twice",
    "num_units of its sums", "a speaker in two splits", "shard unknown", "manifest cut short", "manifest gone",
    "description gone", "description cut short", "fingerprint", "totals", "totals gone",
)  # fmt: skip


@pytest.mark.parametrize("name", INDEX_BREAKS)
def test_damage_to_the_index_is_found_without_checksums(shards: Path, name: str) -> None:
    # No break of an offset leaves it on a block of the tar, with the sample's units behind it.
    damage = (lambda s: edit_manifest(s, 0, offset=77)) if name == "offset" else BREAKS[name][0]
    damage(shards)
    found = list(verify_shards(str(shards), checksums=False))
    assert found, "nobody noticed"
    assert all(str(shards) in violation for violation in found), "a violation that does not say where"


def test_without_checksums_no_tar_is_opened(shards: Path) -> None:
    for tar in shards.rglob("*.tar"):
        tar.write_bytes(bytes(tar.stat().st_size))
    assert list(verify_shards(str(shards), checksums=False)) == []
    assert len(violations(shards)) == len(list(shards.rglob("*.tar")))


def test_rows_of_a_shard_are_found_wherever_they_are(shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet, "ROW_GROUP_ROWS", 2)
    table = parquet.read(str(shards / "manifest.parquet"))
    content = parquet.groups_to_bytes((table.slice(row, 1) for row in reversed(range(len(table)))), SAMPLE_SCHEMA)
    (shards / "manifest.parquet").write_bytes(content)
    assert violations(shards) == []


def test_a_folder_without_shards_is_a_violation(tmp_path: Path) -> None:
    assert violations(tmp_path) == [
        f"{tmp_path} holds no finished shards (dataset.json is missing); make them with `twist pack`"
    ]
