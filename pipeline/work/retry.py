"""Takes up again what a stage dropped for reasons that may have passed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.files import parquet, storage
from pipeline.files.places import DOUBTFUL_REASONS
from pipeline.runs import part_files, parts_uri

if TYPE_CHECKING:
    from pipeline.stage import Stage

# Other reasons are faults of the audio itself, which would recur.
RETRIED_REASONS = ("quarantined", *DOUBTFUL_REASONS)


def take_back_dropped(stage: Stage) -> None:
    """Deletes the parts of a stage with items dropped for RETRIED_REASONS, so that they are made again.

    A finished stage of which a part is deleted is no longer finished.
    """
    to_retry = parts_to_retry(parts_uri(stage.run, stage.name))
    if to_retry:
        stage.reopen()  # before the first deletion: a stage with a done marker has all its parts
    for uri in to_retry:
        storage.delete(uri)


def parts_to_retry(folder: str) -> list[str]:
    """The part files in a folder with items dropped for RETRIED_REASONS."""
    uris = part_files(folder)
    return [
        uri
        for uri, table in zip(uris, parquet.read_many(uris, ["drop_reason"]), strict=True)
        if pc.any(pc.is_in(table["drop_reason"], pa.array(RETRIED_REASONS))).as_py()
    ]
