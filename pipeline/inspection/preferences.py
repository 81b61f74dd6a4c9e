"""Preference pairs of a run: what they are, and whether they are as they were made."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from model.preferences.pair_shards import PAIRS, SPLITS, open_pairs
from pipeline import stage
from pipeline.files import parquet, storage
from pipeline.inspection import figures
from pipeline.runs import PREFERENCES

if TYPE_CHECKING:
    from collections.abc import Iterator

LENGTHS = ("num_prompt_units", "num_chosen_units", "num_rejected_units")


def describe_preferences(run: str) -> dict[str, Any]:
    """Pairs by split, and how long their parts are."""
    uri = storage.join(run, PREFERENCES)
    dataset = open_pairs(uri)
    table = parquet.read(storage.join(uri, PAIRS))
    splits = table["split"].to_pylist()
    return {
        "pairs": {split: splits.count(split) for split in SPLITS},
        **{name: figures.quantiles(table[name].to_numpy()) for name in LENGTHS},
        "num_without_text": stage.read_facts(run, PREFERENCES)["num_without_text"],
        "codebook": dataset.codebook_fingerprint,
        "fingerprint": dataset.fingerprint,
    }


def verify_preferences(run: str, checksums: bool) -> Iterator[str]:
    """Pairs against their index and counts; without checksums, only that index and counts agree."""
    uri = storage.join(run, PREFERENCES)
    dataset = open_pairs(uri)
    rows = {row["pair_id"]: row for row in parquet.read(storage.join(uri, PAIRS)).to_pylist()}
    kept = stage.read_facts(run, PREFERENCES)["counts"]["kept"]["items"]
    told = sum(shard["num_pairs"] for shard in dataset.info["shards"])
    if not len(rows) == kept == told:
        yield f"{uri}: {PAIRS} names {len(rows)} pairs, the shards hold {told}, and {kept} were kept"
    if not stage.is_output(run, PREFERENCES, dataset.fingerprint):
        yield f"{uri} holds other data than when it was finished: its DONE does not fit them"
    for split in SPLITS if checksums else ():
        for pair in dataset.pairs(split):
            row = rows.get(pair.pair_id)
            if row is None or [row[name] for name in LENGTHS] != [len(part) for part in pair.parts]:
                yield f"{uri}: {pair.pair_id} is not as {PAIRS} has it"
            elif row["split"] != split:
                yield f"{uri}: {pair.pair_id} is in {split}, not in {row['split']}"
            for part in pair.parts:
                if int(part.max()) >= dataset.codebook_size or (part[1:] == part[:-1]).any():
                    yield f"{uri}: {pair.pair_id} has units that are no units, or the same one twice in a row"
