"""Scores as the ZeroSpeech challenge (sLM21) takes them.

    <folder>/lexical/{dev,test}.txt, syntactic/{dev,test}.txt    <file> <score>, higher is likelier
    <folder>/meta.yaml, params.yaml                              what to fill in before it is sent

The challenge's own tool reads the lines by name and takes each file exactly once.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from pipeline.errors import TwistError
from pipeline.files import storage

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pipeline.evaluation.results import LeftOut

# The challenge's validator refuses what still stands in angle brackets.
META = """\
username: <your account>
benchmark_name: sLM21
model_info:
  system_description: <what the system is>
  train_set: <what it was trained on>
  gpu_budget: <hours of GPU>
publication:
  authors: <names>
  institution: <where>
  publication_year: <year>
open_source: true
"""
PARAMS = """\
quiet: false
semantic:
  metric: euclidean
  pooling: mean
  synthetic: true
  librispeech: true
  n_jobs: 1
"""


def scores_file(folder: str, task: str, split: str) -> str:
    """The URI of a task's scores in a submission."""
    return storage.join(folder, task, f"{split}.txt")


def write(folder: str, task: str, split: str, scores: Mapping[str, float], left_out: Sequence[LeftOut]) -> None:
    """Writes the scores of a task's files, and the two files about the system if they are not there.

    Raises:
        TwistError: a file has no score, or an infinite one: a submission must have a number for each.
    """
    if left_out:
        raise TwistError(
            f"a submission needs a score for every file, but {len(left_out):,} pairs were left out, e.g. "
            f"{left_out[0].item_id}: {left_out[0].reason} ({left_out[0].detail})"
        )
    if infinite := [name for name, score in scores.items() if not math.isfinite(score)]:
        raise TwistError(f"a submission needs finite scores, but that of {infinite[0]} is {scores[infinite[0]]}")
    lines = "".join(f"{name} {score:.10g}\n" for name, score in sorted(scores.items()))
    storage.write_bytes(scores_file(folder, task, split), lines.encode())
    for name, text in (("meta.yaml", META), ("params.yaml", PARAMS)):
        uri = storage.join(folder, name)
        if not storage.exists(uri):
            storage.write_bytes(uri, text.encode())
