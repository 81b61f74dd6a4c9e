"""Shards of preference pairs: WebDataset tars, an index of the pairs, and a description of the whole.

    PAIRS/<split>/<split>-000000.tar    per pair <key>.chosen.npy, <key>.json, <key>.prompt.npy, <key>.rejected.npy
    PAIRS/pairs.parquet                 PAIR_SCHEMA
    PAIRS/preferences.json              codebook, encoder, counts, checksums; written last

Units are uint16 without repeats, each of the three parts for itself: the last unit of a prompt may be the first of what
follows. Any WebDataset reader takes the tars.
"""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from pipeline.errors import TwistError
from pipeline.files import foreign_json, parquet, storage
from pipeline.files.tar_writer import TarWriter
from pipeline.shards import SORTED_JSON, make_key

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from numpy.typing import NDArray

PAIRS = "pairs.parquet"
PREFERENCES = "preferences.json"
FORMAT_VERSION = 1
SPLITS = ("train", "validation")
PARTS = ("prompt", "chosen", "rejected")

PAIR_SCHEMA = pa.schema(
    [
        pa.field("pair_id", pa.string(), nullable=False),
        pa.field("key", pa.string(), nullable=False),
        pa.field("split", pa.string(), nullable=False),
        pa.field("shard", pa.string(), nullable=False),
        pa.field("num_prompt_units", pa.int32(), nullable=False),
        pa.field("num_chosen_units", pa.int32(), nullable=False),
        pa.field("num_rejected_units", pa.int32(), nullable=False),
    ]
)


@dataclass(frozen=True, eq=False)
class PreferencePair:
    """A prompt with two endings, of which `chosen` is the better one.

    Attributes:
        pair_id: Unique among the pairs.
        split: train or validation.
        prompt, chosen, rejected: Units without repeats, uint16, one or more each.
        facts: What else is known: texts, voice, scores; JSON values.
    """

    pair_id: str
    split: str
    prompt: NDArray[np.uint16]
    chosen: NDArray[np.uint16]
    rejected: NDArray[np.uint16]
    facts: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        assert self.split in SPLITS, f"{self.pair_id} is in the split {self.split}"
        assert all(len(part) for part in self.parts), f"{self.pair_id} has a part without units"

    @property
    def parts(self) -> tuple[NDArray[np.uint16], NDArray[np.uint16], NDArray[np.uint16]]:
        """Prompt, chosen, rejected."""
        return self.prompt, self.chosen, self.rejected


@dataclass(frozen=True)
class PairDataset:
    """Finished shards of pairs, and what preferences.json says of them."""

    uri: str
    info: dict[str, Any]

    @property
    def fingerprint(self) -> str:
        """Equal for equal pairs."""
        return str(self.info["fingerprint"])

    @property
    def codebook_size(self) -> int:
        """Size of the codebook."""
        return int(self.info["num_units"])

    @property
    def codebook_fingerprint(self) -> str:
        """The codebook that the units come from."""
        return str(self.info["codebook"]["fingerprint"])

    def pairs(self, split: str) -> Iterator[PreferencePair]:
        """The pairs of a split, in order.

        Raises:
            TwistError: a shard is missing or damaged.
        """
        for shard in self.info["shards"]:
            if shard["path"].partition("/")[0] == split:
                yield from read_pair_shard(self.uri, shard)


def write_pair_shards(
    uri: str, pairs: Sequence[PreferencePair], pairs_per_shard: int, info: Mapping[str, Any]
) -> PairDataset:
    """Writes all shards, the index, and last preferences.json; the same pairs give the same bytes.

    Args:
        uri: The folder.
        pairs: In the order that they are to have.
        pairs_per_shard: Most pairs in a tar.
        info: What preferences.json says besides: `num_units`, `codebook`, `encoder`, `frame_rate_hz`.
    """
    shards, rows = [], []
    for split in SPLITS:
        of_split = [pair for pair in pairs if pair.split == split]
        for number, first in enumerate(range(0, len(of_split), pairs_per_shard)):
            some = of_split[first : first + pairs_per_shard]
            name = f"{split}/{split}-{number:06d}.tar"
            content = _tar_of(some)
            storage.write_bytes(storage.join(uri, name), content)
            sha256 = hashlib.sha256(content).hexdigest()
            shards.append({"path": name, "sha256": sha256, "num_bytes": len(content), "num_pairs": len(some)})
            rows += [_row(pair, name) for pair in some]
    parquet.write(storage.join(uri, PAIRS), pa.Table.from_pylist(rows, PAIR_SCHEMA))
    identity = [info["codebook"]["fingerprint"], *(shard["sha256"] for shard in shards)]
    fingerprint = hashlib.sha256("\n".join(identity).encode()).hexdigest()
    told = {"format_version": FORMAT_VERSION, "fingerprint": fingerprint, **info, "shards": shards}
    storage.write_bytes(storage.join(uri, PREFERENCES), (json.dumps(told, indent=2) + "\n").encode())
    return PairDataset(uri, told)


def open_pairs(uri: str) -> PairDataset:
    """Opens finished shards of pairs.

    Raises:
        TwistError: there are none, or they are not of this format.
    """
    place = storage.join(uri, PREFERENCES)
    try:
        info = foreign_json.parse(storage.read_bytes(place))
    except FileNotFoundError:
        raise TwistError(
            f"{uri} holds no preference pairs ({PREFERENCES} is missing); make them with `twist prepare-preferences`"
        ) from None
    except ValueError as error:
        raise TwistError(f"{place} is damaged: {error}; make the pairs again") from error
    if not isinstance(info, dict) or info.get("format_version") != FORMAT_VERSION:
        raise TwistError(f"{place} does not describe preference pairs of format {FORMAT_VERSION}")
    return PairDataset(uri, info)


def read_pair_shard(uri: str, shard: Mapping[str, Any]) -> Iterator[PreferencePair]:
    """The pairs of one tar, held to its checksum.

    Args:
        uri: The folder of the pairs.
        shard: What preferences.json says of it.

    Raises:
        TwistError: it is missing or damaged.
    """
    place = storage.join(uri, shard["path"])
    try:
        content = storage.read_bytes(place)
        if hashlib.sha256(content).hexdigest() != shard["sha256"]:
            raise ValueError(f"it does not have the sha256 in {PREFERENCES}")
        with tarfile.open(fileobj=io.BytesIO(content), mode="r:") as tar:
            yield from _pairs_of(tar, shard["path"].partition("/")[0])
    except FileNotFoundError:
        raise TwistError(f"{place} is missing; restore it, or make the pairs again") from None
    except (tarfile.TarError, ValueError, KeyError, AssertionError) as error:
        raise TwistError(f"{place} is damaged ({error}); restore it, or make the pairs again") from error


def _tar_of(pairs: Sequence[PreferencePair]) -> memoryview:
    tar = TarWriter()
    for pair in pairs:
        key = make_key(pair.pair_id)
        tar.add_array(f"{key}.chosen.npy", pair.chosen)
        tar.add(f"{key}.json", SORTED_JSON.encode({"pair_id": pair.pair_id, **pair.facts}).encode())
        tar.add_array(f"{key}.prompt.npy", pair.prompt)
        tar.add_array(f"{key}.rejected.npy", pair.rejected)
    return tar.finished()


def _pairs_of(tar: tarfile.TarFile, split: str) -> Iterator[PreferencePair]:
    members: dict[str, bytes] = {}
    for member in tar:
        file = tar.extractfile(member)
        if file is None:
            raise ValueError(f"{member.name} is no file")
        members[member.name.partition(".")[2]] = file.read()
        if len(members) == len(PARTS) + 1:
            facts = foreign_json.parse(members["json"])
            units = {name: np.load(io.BytesIO(members[f"{name}.npy"]), allow_pickle=False) for name in PARTS}
            yield PreferencePair(facts.pop("pair_id"), split, **units, facts=facts)
            members = {}


def _row(pair: PreferencePair, shard: str) -> dict[str, Any]:
    return {
        "pair_id": pair.pair_id,
        "key": make_key(pair.pair_id),
        "split": pair.split,
        "shard": shard,
        **{f"num_{name}_units": len(part) for name, part in zip(PARTS, pair.parts, strict=True)},
    }
