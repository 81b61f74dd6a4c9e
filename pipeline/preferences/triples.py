"""Triples of prompt, good and bad ending, as others write them: recordings, texts to be spoken, SpokenSwag's Parquet.

<file>.jsonl            prompt_path, chosen_path, rejected_path (relative to the file) or else prompt_text, chosen_text,
                        rejected_text; with paths the texts too, if known; perhaps id, split, speaker
<file>.csv              SWAG's columns: gold-source, sent1, sent2, ending0 to ending3, label
<file or folder>        Parquet with columns prompt, chosen, rejected (bytes of audio), speaker, prompt_text, ...; of a
                        folder's files train-* and validation-* tell the split

Source: the layouts of slamkit and of the data set SpokenSwag (Maimon et al. 2025).
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from model.preferences.pair_shards import PARTS, SPLITS
from pipeline.corpora.names import beside_table
from pipeline.errors import TwistError
from pipeline.files import csv_table, foreign_json, storage
from pipeline.files.audio_uri import ParquetRow, batch_rows, open_parquet

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pyarrow.parquet as pq

PATHS, TEXTS = ("_path", "_text")
SWAG_COLUMNS = ("gold-source", "sent1", "sent2", "ending0", "ending1", "ending2", "ending3", "label")
NUM_ENDINGS = 4


@dataclass(frozen=True)
class Triple:
    """A prompt and two endings, spoken or yet to be spoken.

    Attributes:
        pair_id: Unique in the source.
        audio: The URI of each part; None if only texts are known.
        texts: The text of each part; None if they are not known.
        split: train or validation; None where the source does not say.
        speaker: Who speaks, if that is known.
    """

    pair_id: str
    audio: tuple[str, str, str] | None
    texts: tuple[str, str, str] | None
    split: str | None = None
    speaker: str | None = None


def read_triples(source: str, seed: int) -> list[Triple]:
    """The triples of a source; `seed` chooses the wrong ending of each of SWAG's.

    Raises:
        TwistError: there is no such source, it is laid out otherwise, holds nothing, or has an id twice.
    """
    lower = source.lower()
    if lower.endswith(".jsonl"):
        found = list(_of_jsonl(source))
    elif lower.endswith(".csv"):
        found = list(_of_swag(source, seed))
    else:
        found = list(_of_parquet(source))
    if not found:
        raise TwistError(f"{source} holds no triples: give a .jsonl, SWAG's .csv, or Parquet in SpokenSwag's layout")
    ids: set[str] = set()
    for triple in found:
        if triple.pair_id in ids:
            raise TwistError(f"{source} has two triples that are called {triple.pair_id}")
        ids.add(triple.pair_id)
    return found


def drawn(seed: int, *names: str) -> int:
    """A number that depends on these alone."""
    return int.from_bytes(hashlib.sha256("\n".join([str(seed), *names]).encode()).digest()[:8], "big")


def _of_jsonl(source: str) -> Iterator[Triple]:
    table = storage.absolute(source)
    try:
        lines = storage.read_bytes(source).decode("utf-8").splitlines()
    except FileNotFoundError:
        raise TwistError(f"there is no {source}") from None
    except UnicodeDecodeError as error:
        raise TwistError(f"{source} is not in UTF-8: {error}") from error
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        where = f"{source}, line {number}"
        try:
            row = foreign_json.parse(line)
        except ValueError as error:
            raise TwistError(f"{where} is no JSON: {error}") from error
        if not isinstance(row, dict):
            raise TwistError(f"{where} is no JSON object")
        paths, texts = _parts(row, PATHS), _parts(row, TEXTS)
        if paths is None and texts is None:
            raise TwistError(f"{where} has neither prompt_path, chosen_path, rejected_path nor prompt_text, ...")
        audio = paths and tuple(beside_table(table, path, where) for path in paths)
        yield Triple(str(row.get("id", number)), audio, texts, _split(row.get("split"), where), _speaker(row))  # type: ignore[arg-type]


def _parts(row: dict[str, Any], ending: str) -> tuple[str, str, str] | None:
    prompt, chosen, rejected = (row.get(f"{part}{ending}") for part in PARTS)
    if isinstance(prompt, str) and isinstance(chosen, str) and isinstance(rejected, str):
        return prompt, chosen, rejected
    return None


def _split(said: Any, where: str) -> str | None:
    if said is not None and said not in SPLITS:
        raise TwistError(f"{where}: the split is {said!r}; it must be {' or '.join(SPLITS)}")
    return said if said in SPLITS else None


def _of_swag(source: str, seed: int) -> Iterator[Triple]:
    for line, row in csv_table.read_rows(source, SWAG_COLUMNS):
        if row["gold-source"] != "gold":
            continue
        endings = [row[f"ending{number}"] for number in range(NUM_ENDINGS)]
        if row["label"] not in ("0", "1", "2", "3"):
            raise TwistError(f"{source}, line {line}: the label is {row['label']!r}; it must be 0 to 3")
        right = endings.pop(int(row["label"]))
        wrong = endings[drawn(seed, "ending", str(line)) % len(endings)]
        texts = (row["sent1"], f"{row['sent2']} {right}", f"{row['sent2']} {wrong}")
        yield Triple(f"swag-{line}", None, texts)


def _of_parquet(source: str) -> Iterator[Triple]:
    folder = storage.absolute(source)
    files = [folder] if folder.endswith(".parquet") else []
    files = files or [storage.join(folder, name) for name in storage.list_files(folder, ".parquet")]
    for uri in files:
        name = uri.rpartition("/")[2].removesuffix(".parquet")
        split = next((split for split in SPLITS if name.startswith(split)), None)
        try:
            with open_parquet(uri) as table:
                columns = [
                    one for one in ("speaker", *(f"{part}_text" for part in PARTS)) if one in table.schema_arrow.names
                ]
                if missing := [part for part in PARTS if part not in table.schema_arrow.names]:
                    raise TwistError(f"{uri} lacks the columns {', '.join(missing)}")
                for group in range(table.num_row_groups):
                    for number, row in enumerate(_rows(table, group, columns)):
                        audio = tuple(str(ParquetRow(uri, group, number, part)) for part in PARTS)
                        yield Triple(f"{name}-{group}-{number}", audio, _parts(row, TEXTS), split, _speaker(row))  # type: ignore[arg-type]
        except FileNotFoundError:
            raise TwistError(f"there is no {uri}") from None
        except (OSError, ValueError, pa.ArrowException) as error:
            raise TwistError(f"{uri} cannot be read as Parquet: {error}") from error


def _rows(table: pq.ParquetFile, group: int, columns: list[str]) -> Iterator[dict[str, Any]]:
    """The rows of a row group, without their audio."""
    if not columns:
        yield from ({} for _ in range(table.metadata.row_group(group).num_rows))
        return
    size = batch_rows(table, group, columns)
    for batch in table.iter_batches(size, row_groups=[group], columns=columns, use_threads=False):
        yield from batch.to_pylist()


def _speaker(row: dict[str, Any]) -> str | None:
    """Who speaks, as a name: tables may have numbers."""
    speaker = row.get("speaker")
    return None if speaker is None else str(speaker)
