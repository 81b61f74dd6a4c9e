"""A recipe of all that commands make in a run, and the commands beside `twist run` that make it."""

from __future__ import annotations

import itertools
import json
from typing import TYPE_CHECKING, NamedTuple

from tests.jobs.small_trainings import PITCH, PRETRAIN, STYLE, VOCODER

if TYPE_CHECKING:
    from pathlib import Path

TUNE = """
tune: {num_steps: 4, batch_size: 4, warmup_steps: 1, validate_every: 2, checkpoint_every: 2, log_every: 1, device: cpu}
"""
SUBJECTS, VERBS = ("The baker", "A sailor", "My teacher"), ("opened the window", "left the market", "went up the hill")


class WholeRun(NamedTuple):
    """A finished run and its recipe."""

    run: Path
    recipe: Path


def write_recipe(folder: Path, recipe: str) -> Path:
    """Adds words, codes, text, preferences and all trainings to a recipe, and writes what they read beside it."""
    from tests.text_models import TEXT, write_tokenizer  # loads transformers

    write_tokenizer(folder / "lm")
    (folder / "texts").mkdir()
    (folder / "texts" / "a.txt").write_text("".join(f"{line} {number}\n" for number in range(20) for line in TEXT))
    rows = [
        {"prompt_text": f"{who} {did}.", "chosen_text": "Then we sat down.", "rejected_text": "Six sixths she sells."}
        for who, did in itertools.product(SUBJECTS, VERBS)
    ]
    (folder / "pairs.jsonl").write_text("\n".join(map(json.dumps, rows)))
    text = f"{{tokenizer: {folder}/lm, validation: 0.2, corpora: [{{path: {folder}/texts, document: line}}]}}"
    pairs = f"{{source: {folder}/pairs.jsonl, validation_share: 0.3, pairs_per_shard: 4}}"
    path = folder / "whole.yaml"
    codes = "pitch: {model: pitch-tiny}\nstyle: {model: style-tiny-25hz}\n"
    trainings = f"{TUNE}{PRETRAIN}{VOCODER}{PITCH}{STYLE}"
    path.write_text(f"words: {{}}\n{codes}text: {text}\npreferences: {pairs}\n{recipe}{trainings}")
    return path


def commands(recipe: Path, run: str, audio: str) -> list[tuple[str, ...]]:
    """The commands from audio to all models, in order; a style model is made in a local folder alone."""
    of_run = ("--config", str(recipe), "--run", run)
    after = ("prepare-preferences", "tune", "train-vocoder", "pretrain-tokenizer", "train-pitch")
    style = () if run.startswith("s3://") else (("train-style", *of_run),)
    return [("run", *of_run, "--audio", audio), *((command, *of_run) for command in after), *style]
