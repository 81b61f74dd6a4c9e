"""The report of a run: all pages, from what is finished of it."""

from __future__ import annotations

import importlib.metadata
import time
from typing import TYPE_CHECKING, Any

from pipeline import stage
from pipeline.errors import TwistError
from pipeline.files import storage
from pipeline.report.as_trained import read_as_trained
from pipeline.report.clips import ClipWriter
from pipeline.report.corpora import read_corpora
from pipeline.report.cutting import Cutter
from pipeline.report.evaluation import read_evaluation
from pipeline.report.generation import read_generation
from pipeline.report.known import look_up
from pipeline.report.listening import listen
from pipeline.report.overview import read_overview
from pipeline.report.packing import read_packing
from pipeline.report.recordings import Recordings
from pipeline.report.segments import read_segments
from pipeline.report.site import write_pages
from pipeline.report.streams import read_streams
from pipeline.report.text import read_text
from pipeline.report.training import read_kinds, read_training
from pipeline.report.units import read_units, unit_colours
from pipeline.report.wanted import draw
from pipeline.runs import CODEBOOK, MANIFEST, SEGMENTS, SHARDS
from pipeline.shards import open_dataset
from pipeline.units import codebook

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pipeline.progress import ReportProgress
    from pipeline.report.config import ReportConfig

NUM_STEPS = 10


def write_report(
    run: str, output: str, compared: Sequence[str], speech: str, config: ReportConfig, report: ReportProgress
) -> None:
    """Writes the report of a run to a folder; pages of what is not finished say so.

    Args:
        run: The run, local or s3://.
        output: The folder, local or s3://. Clips of an earlier report in it are removed.
        compared: Other runs, whose training and results are shown beside this one's.
        speech: The folder that `twist generate` and `twist resynthesize` wrote to.
        config: What to show.
        report: Told of the progress.

    Raises:
        TwistError: the manifest is not finished, or something is damaged.
    """
    if not stage.is_finished(run, MANIFEST):
        raise TwistError(f"{run} holds no finished manifest: there is nothing to report; run `twist manifest` first")
    done = 0

    def step(name: str) -> None:
        nonlocal done
        report(done, NUM_STEPS, "steps", name)
        done += 1

    step("recordings")
    recordings = Recordings.of(run)
    step("segments")
    segments = read_segments(run, recordings) if stage.is_finished(run, SEGMENTS) else None
    dataset = open_dataset(storage.join(run, SHARDS)) if stage.is_finished(run, SHARDS) else None
    step("corpora")
    corpora = read_corpora(run, segments)
    step("overview")
    num_speakers = sum(corpus.num_speakers for corpus in corpora.corpora)
    overview = read_overview(run, recordings, segments, dataset, num_speakers)
    del recordings
    step("units")
    units = read_units(run, dataset, config.seed) if dataset else None
    streams = read_streams(run, config.seed)
    step("clips")
    writer = ClipWriter(output, round(config.max_audio_mb * 1e6) if config.has_audio else 0)
    heard_by = writer if config.has_audio else None
    colours, frame_rate_hz = _colours(run)
    drawn = draw(run, dataset, config.clips, config.seed)
    known = look_up(run, drawn.wanted())
    as_trained = read_as_trained(run)
    cutter = Cutter(run, dataset, known, colours, frame_rate_hz, config.max_clip_s, heard_by, as_trained)
    generation = read_generation(speech, colours, config.max_clip_s, heard_by)
    listening = listen(drawn, cutter)
    step("packing")
    packing = read_packing(run, dataset, listening.pairs) if dataset else None
    step("text")
    kinds = read_kinds(run, as_trained.mixture)
    text = read_text(run, dataset, as_trained, kinds, listening.interleaved, config.clips, config.seed)
    step("training and results")
    names = _names([run, *compared])
    figures: dict[str, Any] = {
        "index": overview,
        "corpora": corpora,
        "segments": segments,
        "units": units,
        "packing": packing,
        "text": text,
        "training": read_training(names, [run, *compared]),
        "evaluation": read_evaluation([run, *compared], config.seed),
        "generation": generation,
        "listening": listening,
    }
    step("pages")
    write_pages(
        output,
        figures,
        {
            "run": run,
            "run_name": names[0],
            "made": time.strftime("%Y-%m-%d %H:%M"),
            "version": importlib.metadata.version("twist-pipeline"),
            "config": config,
            "streams": streams,
            "corpora": [corpus.name for corpus in corpora.corpora],
        },
    )
    report(NUM_STEPS, NUM_STEPS, "steps")


def _colours(run: str) -> tuple[list[str], float]:
    """Of the units, and their frame rate; none before there is a codebook."""
    if not stage.is_finished(run, CODEBOOK):
        return [], 25.0
    book = codebook.load(storage.join(run, CODEBOOK))
    return unit_colours(book.centroids), float(book.facts["encoder"]["frame_rate_hz"])


def _names(runs: Sequence[str]) -> list[str]:
    """The last name of each path; all of it where two share one."""
    short = [run.rstrip("/").rpartition("/")[2] for run in runs]
    return [run if short.count(name) > 1 else name for run, name in zip(runs, short, strict=True)]
