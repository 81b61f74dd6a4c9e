"""Units per second that one process reads, compared with other libraries that read the same units.

    python benchmarks/loader.py [--samples 40000] [--turns 5] [--quick] [--json]

The contestants take turns on the same samples of 100 to 700 units, from a local disk (from the page cache after the
first turn):

- this loader: shuffled over all samples, in batches of 64: concatenated ids, as our trainer takes them, with units
  checked and unchecked, and rows for other trainers, padded (ids and labels) and packed. It reads the tars in every
  turn, as it does where shards are larger than what a process keeps in memory;
- the same units with words (one for seven units, three tokens for two words), interleaved with their text by
  SpiRit-LM's rule, spans drawn anew: tokens, not units;
- webdataset: `WebDataset(tars).decode()` over the same tars, unshuffled, samples one by one;
- datasets: a JSONL of lists of units, as slamkit trains on, loaded by Hugging Face's `load_dataset`, shuffled, in
  batches of 64; and the same units as Arrow in numpy format;
- litdata: StreamingDataset, shuffled, in batches of 64.

For the last two, batches equal to this loader's padded rows are made with torch's pad_sequence; `*_alone` leaves that
out, and so ends at units that are not ready for training. `restore_s` is the longest time to restore a stream at one of
some random positions among 22 million samples and get its first batch's indices. Needs the extra `bench`.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import itertools
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.machine import machine
from model.lm import shard_reader
from model.lm.batch_stream import BatchStream
from model.lm.epoch_order import BLOCKS_PER_GROUP
from model.lm.loader import TrainingBatches
from model.lm.loader_config import LoaderConfig
from model.lm.mixture.batches import MixtureBatches
from model.lm.mixture.config import INTERLEAVED, MixtureConfig, SpanConfig
from model.lm.mixture.sources import AlignedSource
from model.lm.samples import AlignedSamples, UnitSamples
from model.lm.vocab import Vocabulary
from pipeline.shards import Dataset, Sample, Words, open_dataset, write_index, write_shard

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

NUM_UNITS = 500
BATCH_SIZE = 64
MAX_UNITS = 704
ROW_UNITS = 2048
SAMPLES_PER_SHARD = 10_000
UNITS_PER_WORD = 7
TEXT_SIZE = 32_000
FULL_SIZE = 22_000_000
ROWS_PER_RUN = 25_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=40_000)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="fewer samples and turns: a minute at most")
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    num_samples, num_turns = (6_000, 2) if arguments.quick else (arguments.samples, arguments.turns)
    with tempfile.TemporaryDirectory() as folder:
        result = measure(Path(folder), num_samples, num_turns)
    if arguments.json:
        print(json.dumps(result))
        return
    for name, value in {**result["figures"], **result["ratios"]}.items():
        print(f"{name:28} {value:.6g}")


def measure(folder: Path, num_samples: int, num_turns: int) -> dict[str, Any]:
    shard_reader.BLOCKS_KEPT = 2 * BLOCKS_PER_GROUP + 2
    samples = make_samples(num_samples)
    dataset = make_shards(folder / "shards", samples)
    readers: dict[str, Callable[[], int]] = {
        "ours": read_batches(dataset),
        "ours_unchecked": read_batches(dataset, verify_checksums=False),
        "ours_padded": read_rows(dataset),
        "ours_packed": read_rows(dataset, rows="packed", row_units=ROW_UNITS),
        "ours_interleaved": read_interleaved(make_shards(folder / "aligned", samples, with_words=True)),
        "webdataset": read_webdataset(folder / "shards"),
        **datasets_readers(folder, samples),
        **litdata_readers(folder / "litdata", samples),
    }
    rates: dict[str, list[float]] = {name: [] for name in readers}
    for _ in range(num_turns):
        for name, read in readers.items():
            begin = time.perf_counter()
            num_units = read()
            rates[name].append(num_units / (time.perf_counter() - begin))
    medians = {name: statistics.median(values) for name, values in rates.items()}
    others = {name: medians[name] for name in ("datasets_jsonl", "datasets_arrow", "litdata")}
    return {
        "ratios": {
            "checked_vs_unchecked": medians["ours"] / medians["ours_unchecked"],
            "vs_webdataset": medians["ours_padded"] / medians["webdataset"],
            "vs_fastest": medians["ours_padded"] / max(others.values()),
        },
        "figures": {
            **{f"{name}_units_per_s": rate for name, rate in medians.items()},
            "packed_row_fill": row_fill(dataset),
            "restore_s": max(restore_times()),
        },
        "machine": machine(
            **{name: importlib.metadata.version(name) for name in ("webdataset", "datasets", "litdata")}
        ),
    }


def make_samples(count: int) -> list[NDArray[np.uint16]]:
    generator = np.random.default_rng(0)
    lengths = generator.integers(100, MAX_UNITS, count)
    return [generator.integers(0, NUM_UNITS, length).astype(np.uint16) for length in lengths]


def make_shards(folder: Path, samples: list[NDArray[np.uint16]], *, with_words: bool = False) -> Dataset:
    descriptions, rows = [], []
    generator = np.random.default_rng(1)
    for start in range(0, len(samples), SAMPLES_PER_SHARD):
        chunk = [
            Sample(
                *(f"{n:08d}-{n:016x}", f"a/{n}#0", "a", None, "en", "train", 0.0, len(u) / 16, u),
                durations=np.ones(len(u), "u2"),
                words=make_words(len(u), generator) if with_words else None,
            )
            for n, u in enumerate(samples[start : start + SAMPLES_PER_SHARD], start=start)
        ]
        path = f"train/train-{len(descriptions):06d}.tar"
        description, shard_rows = write_shard(str(folder), path, chunk)
        descriptions.append(description)
        rows += shard_rows
    text = {"text": {"tokenizer": "synthetic", "vocab_size": TEXT_SIZE}} if with_words else {}
    info = {"num_units": NUM_UNITS, "codebook": {"fingerprint": "synthetic"}, "shards": descriptions, **text}
    write_index(str(folder), info, rows)
    return open_dataset(str(folder))


def make_words(num_units: int, generator: np.random.Generator) -> Words:
    """Words that tile the units; half of the cuts divide a unit."""
    cuts = np.arange(UNITS_PER_WORD, num_units - 1, UNITS_PER_WORD)
    first = np.concatenate([[0], cuts - generator.integers(0, 2, len(cuts))])
    num_tokens = generator.integers(1, 3, len(first))
    table = np.stack([num_tokens, first, np.append(cuts, num_units)], axis=1).astype(np.uint32)
    tokens = generator.integers(0, TEXT_SIZE, num_tokens.sum()).astype(np.uint32)
    return Words(tuple(("word", start / 25, end / 25) for _, start, end in table.tolist()), tokens, table)


def read_interleaved(dataset: Dataset) -> Callable[[], int]:
    vocabulary = Vocabulary(NUM_UNITS, TEXT_SIZE + 2, text_size=TEXT_SIZE)
    samples = AlignedSamples(dataset, "train")
    source = AlignedSource(INTERLEAVED, samples, vocabulary, 4096, SpanConfig())
    batches = MixtureBatches(
        {INTERLEAVED: source},
        MixtureConfig(interleaved=1),
        vocabulary,
        batch_size=BATCH_SIZE,
        num_micro_batches=1,
        seed=0,
    )
    epochs = _epochs(dataset)
    return lambda: sum(batches[index].num_units for index in next(epochs))


def batches_of(dataset: Dataset, **data: Any) -> TrainingBatches:
    samples = UnitSamples(dataset, "train", MAX_UNITS, LoaderConfig(**data))
    return TrainingBatches(samples, Vocabulary(NUM_UNITS), batch_size=BATCH_SIZE, num_micro_batches=1, seed=0)


def read_batches(dataset: Dataset, **data: Any) -> Callable[[], int]:
    batches, epochs = batches_of(dataset, **data), _epochs(dataset)
    return lambda: sum(batches[index].num_units for index in next(epochs))


def read_rows(dataset: Dataset, **settings: Any) -> Callable[[], int]:
    batches, epochs = batches_of(dataset), _epochs(dataset)

    def read() -> int:
        epoch = next(epochs)
        return sum(batch.num_units for batch in BatchStream(batches, epoch.start, epoch.stop, **settings))

    return read


def _epochs(dataset: Dataset) -> Iterator[range]:
    """Yields the batches of each turn; each is another epoch, so that drawing the order is timed too."""
    num_batches = len(dataset.columns(["split"])) // BATCH_SIZE
    return (range(turn * num_batches, (turn + 1) * num_batches) for turn in itertools.count())


def row_fill(dataset: Dataset) -> float:
    stream = BatchStream(batches_of(dataset), 0, 20, rows="packed", row_units=ROW_UNITS)
    rows = [batch.micro_batches[0].document_ids for batch in stream]
    return float(np.mean([(row >= 0).double().mean().item() for row in rows if row is not None]))


def read_webdataset(folder: Path) -> Callable[[], int]:
    import webdataset

    tars = sorted(str(path) for path in folder.glob("train/*.tar"))
    return lambda: sum(len(s["units.npy"]) for s in webdataset.WebDataset(tars, shardshuffle=False).decode())


def datasets_readers(folder: Path, samples: list[NDArray[np.uint16]]) -> dict[str, Callable[[], int]]:
    os.environ["HF_DATASETS_OFFLINE"] = "1"
    import datasets

    datasets.disable_progress_bars()
    jsonl = folder / "units.jsonl"
    with jsonl.open("w") as file:
        file.writelines(json.dumps({"units": units.tolist()}) + "\n" for units in samples)
    from_json = datasets.load_dataset("json", data_files=str(jsonl), split="train", cache_dir=str(folder / "hf"))
    table = pa.table({"units": pa.array(samples, pa.list_(pa.uint16()))})
    arrow = folder / "arrow"
    datasets.Dataset(table).save_to_disk(str(arrow))
    from_arrow = datasets.load_from_disk(str(arrow)).with_format("numpy")

    def slices(dataset: Any) -> Iterator[Any]:
        shuffled = dataset.shuffle(seed=0)
        return (shuffled[start : start + BATCH_SIZE]["units"] for start in range(0, len(shuffled), BATCH_SIZE))

    return {
        "datasets_jsonl": lambda: sum(pad(part) for part in slices(from_json)),
        "datasets_arrow": lambda: sum(pad(part) for part in slices(from_arrow)),
        "datasets_arrow_alone": lambda: sum(len(units) for part in slices(from_arrow) for units in part),
    }


def pad(samples: Sequence[Any]) -> int:
    """Makes batches like this loader's padded rows, as most training code does; returns the number of units."""
    ids = [torch.as_tensor(np.asarray(units, np.int64)) + 1 for units in samples]
    token_ids = torch.nn.utils.rnn.pad_sequence(ids, batch_first=True, padding_value=0)
    labels = torch.nn.utils.rnn.pad_sequence(ids, batch_first=True, padding_value=-100)
    assert token_ids.shape == labels.shape
    return sum(map(len, ids))


def litdata_readers(folder: Path, samples: list[NDArray[np.uint16]]) -> dict[str, Callable[[], int]]:
    from litdata import StreamingDataset
    from litdata.streaming import Cache

    cache = Cache(str(folder), chunk_bytes="32MB")
    for index, units in enumerate(samples):
        cache[index] = {"units": units}
    cache.done()
    cache.merge()

    def units() -> Iterator[NDArray[np.uint16]]:
        return (sample["units"] for sample in StreamingDataset(str(folder), shuffle=True))

    def read() -> int:
        stream = units()
        return sum(pad(part) for part in iter(lambda: list(itertools.islice(stream, BATCH_SIZE)), []))

    return {"litdata": read, "litdata_alone": lambda: sum(map(len, units()))}


def restore_times() -> list[float]:
    """Seconds from a state to the indices of its batch, at random positions of a full-size run."""
    count = FULL_SIZE
    manifest = pa.table(
        {
            "shard": pa.DictionaryArray.from_arrays(
                pa.array(np.repeat(np.arange(count // ROWS_PER_RUN, dtype=np.int32), ROWS_PER_RUN)),
                pa.array([f"train/train-{number:06d}.tar" for number in range(count // ROWS_PER_RUN)]),
            ),
            "units_offset": pa.array(np.tile(np.arange(ROWS_PER_RUN, dtype=np.int64) * 4608, count // ROWS_PER_RUN)),
            "num_units": pa.array(np.full(count, 400, np.int32)),
            "corpus": pa.DictionaryArray.from_arrays(pa.array(np.zeros(count, np.int32)), pa.array(["a"])),
            "split": pa.DictionaryArray.from_arrays(pa.array(np.zeros(count, np.int32)), pa.array(["train"])),
        }
    )
    samples = UnitSamples(Dataset("nowhere", {"fingerprint": "f"}, manifest), "train", MAX_UNITS)
    times = []
    for place in np.random.default_rng(0).integers(0, 3 * count // BATCH_SIZE, 5).tolist():
        batches = TrainingBatches(
            samples, Vocabulary(NUM_UNITS), batch_size=BATCH_SIZE, num_micro_batches=1, seed=int(place)
        )
        begin = time.perf_counter()
        batches.sample_indices(batches.load_state_dict(batches.state_dict(place)))
        times.append(time.perf_counter() - begin)
    return times


if __name__ == "__main__":
    main()
