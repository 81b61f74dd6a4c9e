"""Writes finished shards in another project's format.

OUTPUT/...              the files of the format (slamkit.py, slm_scaling.py, fairseq_km.py, zerospeech.py)
OUTPUT/export.json      format, fingerprints and counts; written last
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Literal

from pipeline.errors import TwistError
from pipeline.export import fairseq_km, slamkit, slm_scaling, zerospeech
from pipeline.export.source import Source
from pipeline.files import storage

if TYPE_CHECKING:
    from collections.abc import Callable

    from pipeline.progress import ReportProgress
    from pipeline.shards import Dataset

Format = Literal["slamkit", "slm_scaling", "fairseq-km", "zerospeech"]
WRITERS: dict[Format, Callable[[str, Source], None]] = {
    "slamkit": slamkit.write,
    "slm_scaling": slm_scaling.write,
    "fairseq-km": fairseq_km.write,
    "zerospeech": zerospeech.write,
}
FORMAT_VERSION = 1
EXPORT = "export.json"


def export_shards(dataset: Dataset, format: Format, output: str, report: ReportProgress) -> dict[str, Any]:
    """Writes all splits; the same shards give the same bytes. Returns what export.json says.

    Args:
        dataset: The shards.
        format: What to write.
        output: The folder, local or s3://; it must hold nothing but what an interrupted export left.
        report: Takes the number of samples.

    Raises:
        TwistError: the folder holds an export already, the codebook does not fit the format, or a shard is damaged.
    """
    if storage.exists(storage.join(output, EXPORT)):
        raise TwistError(f"{output} holds an export already; name another folder, or delete it")
    source = Source(dataset, report)
    WRITERS[format](output, source)
    told = {
        "format_version": FORMAT_VERSION,
        "format": format,
        "dataset_fingerprint": dataset.fingerprint,
        "codebook_fingerprint": dataset.info["codebook"]["fingerprint"],
        "codebook_size": dataset.codebook_size,
        "frame_rate_hz": dataset.info["frame_rate_hz"],
        "num_samples": source.num_samples,
    }
    storage.write_bytes(storage.join(output, EXPORT), (json.dumps(told, indent=2) + "\n").encode())
    return told
