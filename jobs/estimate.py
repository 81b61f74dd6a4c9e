"""Estimates what a corpus will take: hours of cores and GPUs, machines, storage, money, from a sample of it.

The corpora are listed first, into the run, where `twist run` finds them. A random sample of whole recordings, in parts,
then goes through the recipe's stages up to `pack` on this machine, or the cluster at RAY_ADDRESS, in a folder that is
removed. How much the parts differ gives the range. Training is not part of it: docs/hardware.md.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from dataclasses import replace
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from jsonargparse import ArgumentParser, Namespace

from jobs import manifest
from jobs.command import add_option, command
from jobs.recipe_text import UsageError
from jobs.run import DATA_SECTIONS, require_encoder, run_stages, stages_of
from pipeline.errors import TwistError
from pipeline.files import storage
from pipeline.runs import CODEBOOK, MANIFEST, TEXT, StageRow

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jobs.recipe import Recipe
    from pipeline.estimate.measure import Measured
    from pipeline.estimate.sample import Part


def work(recipe: Recipe, given: Namespace) -> None:
    """Lists the corpora, works on a sample and prints what the whole will take.

    Raises:
        TwistError: a stage refuses its settings, or nothing of a part of the sample is kept.
    """
    from pipeline import stage
    from pipeline.estimate.measure import folder_bytes
    from pipeline.estimate.project import Machine, project
    from pipeline.estimate.sample import draw_parts
    from pipeline.estimate.text import as_text
    from pipeline.work.cluster import resources

    recipe = manifest.with_audio(recipe, given)
    if os.environ.get("RAY_ADDRESS") and given.scratch is None:
        raise UsageError("on a cluster, give --scratch: a folder that all machines see")
    stages = [row for row in stages_of(recipe, "pack") if row.name not in (MANIFEST, TEXT)]
    require_encoder(recipe, stages)
    with contextlib.ExitStack() as stack:
        stack.enter_context(contextlib.redirect_stdout(sys.stderr))
        manifest.work(recipe)
        folder = stack.enter_context(TemporaryDirectory(prefix="twist-estimate-", dir=given.scratch))
        parts = draw_parts(recipe.run, folder, sample_hours=given.sample_hours, num_parts=given.parts, seed=given.seed)
        measured = [_work_on(recipe, stages, part, parts[0]) for part in parts]
    has = resources()
    estimate = project(
        measured,
        Machine(has.get("CPU", 1.0), has.get("GPU", 0.0)),
        corpus_hours=stage.read_facts(recipe.run, MANIFEST)["counts"]["kept"]["hours"],
        codebook_hours=0.0 if recipe.codebook.path else recipe.codebook.max_hours,
        manifest_bytes=folder_bytes(storage.join(recipe.run, MANIFEST)),
    )
    if given.json:
        print(json.dumps(estimate.as_dict(), indent=2))
    else:
        print(as_text(estimate, days=given.days, price_per_hour=given.price_per_hour))


def _work_on(recipe: Recipe, stages: Sequence[StageRow], part: Part, first: Part) -> Measured:
    from pipeline.estimate.measure import measure

    print(f"part {part.run.rpartition('-')[2]}: {part.hours:.2f} h in {part.num_recordings:,} recordings", flush=True)
    try:
        run_stages(_recipe_of(recipe, part, first), stages, retry_dropped=False)
    except TwistError as error:
        raise TwistError(f"in a part of the sample, {error}; mend that, or give a larger --sample-hours") from error
    return measure(part)


def _recipe_of(recipe: Recipe, part: Part, first: Part) -> Recipe:
    """The recipe for a part: one codebook for all, and no splits, for which a part has too few speakers."""
    codebook = recipe.codebook
    if codebook.path is None and part is not first:
        codebook = type(codebook)(num_units=codebook.num_units, path=storage.join(first.run, CODEBOOK))
    split = replace(recipe.pack.split, corpus_splits="ignore", validation=0.0, test=0.0)
    return replace(recipe, run=part.run, codebook=codebook, pack=replace(recipe.pack, split=split), said={})


def _add_arguments(parser: ArgumentParser) -> None:
    manifest.add_audio(parser)
    add_option(parser, "sample-hours", type=float, default=1.0, help="Hours of audio to work on.")
    parser.add_argument("--parts", type=int, default=4, help="Parts of the sample; at least two, to give a range.")
    parser.add_argument("--seed", type=int, default=0, help="Determines which recordings are drawn.")
    parser.add_argument("--days", type=float | None, help="Days that it may take: says how many machines are needed.")
    add_option(parser, "price-per-hour", type=float | None, help="Price of an hour of a machine like this one.")
    parser.add_argument("--scratch", type=str | None, help="Folder for the sample's files; all machines must see it.")
    parser.add_argument("--json", action="store_true", help="Print one JSON object, with every range.")


def _checked(recipe: Recipe, given: Namespace) -> None:
    if not given.sample_hours > 0 or given.parts < 1:
        raise UsageError("--sample-hours and --parts must be positive")
    if given.days is not None and not given.days > 0:
        raise UsageError("--days must be positive")
    if given.json and (given.days is not None or given.price_per_hour is not None):
        raise UsageError("--days and --price-per-hour are for people; --json gives hours of machines")
    work(recipe, given)


main = command("estimate", __doc__, _checked, DATA_SECTIONS, _add_arguments)


if __name__ == "__main__":
    sys.exit(main())
