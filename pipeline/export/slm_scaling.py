"""Shards of slm_scaling (github.com/tiagoCuervo/slm_scaling), schema 2; one for each tar.

    OUTPUT/<split>/shard-00000/audio.bin        int16: units without repeats, then EOS, of each sample
                               audio.len        int64: how many these are
                               samples.jsonl    what each sample is
                               skips.jsonl      empty
                               meta.json        vocabulary, counts and checksums; written last

EOS is the codebook's size, padding the number after it.
"""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.errors import TwistError
from pipeline.files import storage
from pipeline.records import SAMPLE_RATE_HZ

if TYPE_CHECKING:
    from pipeline.export.source import Source
    from pipeline.shards import Sample

SCHEMA_VERSION = 2


def write(output: str, source: Source) -> None:
    """Writes a folder of shards a split.

    Raises:
        TwistError: the codebook is too large for int16.
        DatasetError: a shard is missing or damaged.
    """
    eos = source.dataset.codebook_size
    if eos + 1 > np.iinfo(np.int16).max:
        raise TwistError(f"slm_scaling keeps units as int16, which {eos:,} units and two marks do not fit")
    info = source.dataset.info
    preprocessing = {
        "sample_rate": SAMPLE_RATE_HZ,
        "unit_extractor": "hubert-kmeans",
        "collapsed": True,
        "vocab_size": eos + 2,
        "eos_token": eos,
        "pad_token": eos + 1,
        "encoder": info["encoder"],
        "kmeans": {"name": "codebook", "fingerprint": info["codebook"]["fingerprint"]},
        "dataset_fingerprint": source.dataset.fingerprint,
    }
    for split, tars in source.splits.items():
        for number, tar in enumerate(tars):
            _write_shard(
                storage.join(output, split, f"shard-{number:05d}"), list(source.samples([tar])), eos, preprocessing
            )


def _write_shard(folder: str, samples: list[Sample], eos: int, preprocessing: dict[str, Any]) -> None:
    codes = [np.append(sample.units.astype("<i2"), np.array(eos, "<i2")) for sample in samples]
    lengths = np.array([len(one) for one in codes], "<i8")
    rows = [json.dumps(_row(sample), ensure_ascii=False, sort_keys=True) + "\n" for sample in samples]
    files = {
        "audio.bin": np.concatenate(codes).tobytes(),
        "audio.len": lengths.tobytes(),
        "samples.jsonl": "".join(rows).encode(),
        "skips.jsonl": b"",
    }
    meta = {
        "schema_version": SCHEMA_VERSION,
        "num_samples": len(samples),
        "num_audio_steps": int(lengths.sum()),
        "num_skipped": 0,
        "keep_audio": False,
        "preprocessing": preprocessing,
        "checksums": {name: hashlib.sha256(content).hexdigest() for name, content in files.items()},
    }
    for name, content in files.items():
        storage.write_bytes(storage.join(folder, name), content)
    storage.write_bytes(storage.join(folder, "meta.json"), (json.dumps(meta, indent=2, sort_keys=True) + "\n").encode())


def _row(sample: Sample) -> dict[str, Any]:
    return {
        "id": sample.key,
        "audio_steps": len(sample.units) + 1,
        "dataset": sample.corpus,
        "split": sample.split,
        "source_revision": None,
        "speaker": sample.speaker,
        "language": sample.language,
        "segment_id": sample.segment_id,
        "source_uri": sample.uri,
        "source_offset": sample.start_s,
        "source_duration": sample.end_s - sample.start_s,
    }
