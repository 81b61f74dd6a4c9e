"""All benchmarks by name, and those of pairs: data to pairs, pairs to units, units to scores, scores to a result."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from pipeline.errors import TwistError
from pipeline.evaluation.choices import choices
from pipeline.evaluation.pairs import cloze, pair_files, salmon, slm21, submission
from pipeline.evaluation.pairs.directions import directions, require_text
from pipeline.evaluation.pairs.likelier import Rule, accuracies, audio_items, pair_table, score_items
from pipeline.evaluation.pairs.matching import matching
from pipeline.evaluation.pairs.numbered_pairs import one_folder_of_pairs
from pipeline.evaluation.results import OUR_OWN
from pipeline.evaluation.sentiment.stsp import stsp
from pipeline.evaluation.speech.few_shot_tasks import asr, intent, tts
from pipeline.evaluation.speech.generation import generation
from pipeline.evaluation.speech.prosody_kept import prosody
from pipeline.evaluation.speech.resynthesis import resynthesis
from pipeline.evaluation.units.unit_benchmark import units
from pipeline.files import storage
from pipeline.synthetic import benchmark_folder

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from pipeline.evaluation.config import EvaluationConfig, Slm21Config
    from pipeline.evaluation.measures import Measure
    from pipeline.evaluation.pairs.likelier import Pair
    from pipeline.evaluation.results import LeftOut, Result
    from pipeline.evaluation.subject import Subject

    AddMeasures = Callable[[pa.Table], tuple[pa.Table, list[Measure]]]

# The rules by which papers print their figures; `pipeline.evaluation.table` sets these beside ours.
RULES = {
    "swuggy": "ZeroSpeech: sum of log-probabilities, mean over words of the mean over voices, ties 0.5",
    "sblimp": "ZeroSpeech: sum of log-probabilities, mean over sentences of the mean over voices, ties 0.5",
    "ssc": "mean log-probability per token, share of right pairs, ties 0.5",
    "tsc": "mean log-probability per token, share of right pairs, ties 0.5",
    "salmon": "mean log-probability per token, share of right pairs of each part, mean of the parts, ties 0.5",
    "pairs": "mean log-probability per token, mean over groups of the share of right pairs, ties 0.5",
}


@dataclass(frozen=True)
class PairBenchmark:
    """A benchmark of pairs that has its data.

    Attributes:
        name: What its result is filed under.
        rule: The published rule, in words.
        read: Finds the pairs, and the items that lack a twin.
        measures: Adds columns to the table of pairs, and says what can be told of it.
        settings: What the result says about its data.
    """

    name: str
    rule: str
    read: Callable[[], tuple[list[Pair], list[LeftOut]]]
    measures: AddMeasures
    settings: dict[str, Any]


# They hear and say units alone. Those that need no speech LM, or no speech, are left out.
OF_UNITS = ("matching", "tts", "generation")


def require_heard(subject: Subject, benchmark: str) -> None:
    """Refuses a model that says pitch and style, too, where a benchmark would give it units alone.

    Raises:
        TwistError: it is such a model, or none can be loaded.
    """
    if benchmark in OF_UNITS and subject.lm.vocabulary.is_expressive:
        raise _units_alone(benchmark, subject)


def _units_alone(benchmark: str, subject: Subject) -> TwistError:
    return TwistError(
        f"{benchmark} hears units alone, and {subject.checkpoint} was trained on units, pitch and style: what it "
        f"scores would mean nothing; measure pairs of audio, its perplexity by kind, and its voice by prosody"
    )


def swuggy(subject: Subject) -> Iterator[Result]:
    """sWUGGY: is a word likelier than a non-word that sounds alike?

    Raises:
        TwistError: no data is named or its layout does not fit; and as `measure_pairs`.
    """
    return _slm21(subject, "swuggy", subject.config.swuggy, "lexical", slm21.lexical_measures)


def sblimp(subject: Subject) -> Iterator[Result]:
    """sBLIMP: is a grammatical sentence likelier than one that is not?

    Raises:
        TwistError: no data is named or its layout does not fit; and as `measure_pairs`.
    """
    return _slm21(subject, "sblimp", subject.config.sblimp, "syntactic", slm21.syntactic_measures)


def _slm21(
    subject: Subject, name: str, config: Slm21Config, task: slm21.Task, measures: AddMeasures
) -> Iterator[Result]:
    folder = _given(name, "folder", config.folder)
    if config.submission and not slm21.has_gold(folder, task, config.split):
        raise TwistError(f"a submission is of the challenge's own files, and {folder} has no {task}/{config.split}")
    settings = {"folder": folder, "split": config.split}
    read = functools.partial(slm21.read_pairs, folder, task, config.split)
    result, scores = measure_pairs(subject, PairBenchmark(name, RULES[name], read, measures, settings))
    yield result  # before a submission is refused: what was measured is kept
    if config.submission:
        submission.write(config.submission, task, config.split, scores, result.left_out)


def submission_of(config: EvaluationConfig, benchmark: str) -> str | None:
    """The file of scores that a benchmark writes for the challenge; None if it writes none."""
    tasks: dict[str, tuple[Slm21Config, slm21.Task]] = {
        "swuggy": (config.swuggy, "lexical"),
        "sblimp": (config.sblimp, "syntactic"),
    }
    if benchmark not in tasks:
        return None
    of_task, task = tasks[benchmark]
    return of_task.submission and submission.scores_file(of_task.submission, task, of_task.split)


def storycloze(subject: Subject) -> Iterator[Result]:
    """StoryCloze: is the right ending of a story likelier? A result each for sSC and tSC, of those given.

    A model of text and speech is also measured on written and on spoken contexts and endings in all four directions,
    where sSC and tSC say what lies where (pairs.jsonl): results `ssc-cross` and `tsc-cross`, and `cross` for a set of
    the user's own.

    Raises:
        TwistError: no data is named or its layout does not fit; and as `measure_pairs`.
    """
    config = subject.config.storycloze
    folders = {name: folder for name, folder in (("ssc", config.spoken), ("tsc", config.topic)) if folder}
    if not folders and config.cross is None:
        raise _no_data("storycloze", "spoken")
    if config.cross is not None:
        require_text(subject.lm, "storycloze.cross")
        if subject.lm.vocabulary.is_expressive:
            raise _units_alone("storycloze.cross", subject)
    for name, folder in folders.items():
        settings = {"folder": folder}
        read = functools.partial(one_folder_of_pairs, folder, "_")
        yield measure_pairs(subject, PairBenchmark(name, RULES[name], read, _all_pairs, settings))[0]
        pairs = storage.join(folder, cloze.PAIRS)
        # Stories across speech and text are heard as units alone.
        hears_units = not subject.lm.vocabulary.is_expressive
        if subject.lm.vocabulary.text_size and hears_units and storage.exists(pairs):
            yield directions(subject, f"{name}-cross", cloze.read_cloze(pairs), settings, _notes(settings))
    if config.cross is not None:
        yield directions(subject, "cross", cloze.read_cloze(config.cross), {"source": config.cross})


def salmon_parts(subject: Subject) -> Iterator[Result]:
    """SALMon: does the model hear changes and misfits of voice, room, background and mood?

    Raises:
        TwistError: no data is named or its layout does not fit; and as `measure_pairs`.
    """
    folder = _given("salmon", "folder", subject.config.salmon.folder)
    benchmark = PairBenchmark(
        "salmon", RULES["salmon"], lambda: salmon.read_pairs(folder), _by_part, {"folder": folder}
    )
    yield measure_pairs(subject, benchmark)[0]


def own_pairs(subject: Subject) -> Iterator[Result]:
    """Pairs of the user's own.

    Raises:
        TwistError: no data is named or its layout does not fit; and as `measure_pairs`.
    """
    config = subject.config.pairs
    source = _given("pairs", "source", config.source)
    benchmark = PairBenchmark(
        config.name, RULES["pairs"], lambda: pair_files.read_pairs(source), _all_pairs, {"source": source}
    )
    yield measure_pairs(subject, benchmark)[0]


def measure_pairs(subject: Subject, benchmark: PairBenchmark) -> tuple[Result, dict[str, float]]:
    """Measures a benchmark of pairs; also returns the sum of log-probabilities by item.

    Raises:
        TwistError: its layout does not fit, the model speaks other units, or no pair has a score.
        RunError: a disk or store fails.
    """
    pairs, unpaired = benchmark.read()
    subject.lm  # noqa: B018 - a model that does not fit is told before anything is tokenized
    rates = subject.heard.rates if subject.heard else None
    made = subject.units_heard(audio_items(pairs))
    scores, unscored = score_items(subject.lm, made.of, subject.config.scoring, rates)
    table, broken = pair_table(pairs, scores, [*made.left_out, *unscored])
    left_out = [*unpaired, *broken]
    measures: list[Measure] = []
    if len(table):
        table, measures = benchmark.measures(table)
    result = subject.result(
        benchmark.name,
        measures,
        table,
        rule=benchmark.rule,
        settings=benchmark.settings,
        data=made.fingerprint,
        left_out=left_out,
        notes=_notes(benchmark.settings),
    )
    return result, {item_id: score.sum for item_id, score in scores.items()}


def _notes(settings: dict[str, Any]) -> list[str]:
    folder = settings.get("folder")
    # That of stories lies a folder above them.
    if folder and any(storage.exists(storage.join(folder, up, benchmark_folder.MARKER)) for up in ("", "..")):
        return [OUR_OWN]
    return []


def _all_pairs(items: pa.Table, rule: Rule = "mean") -> tuple[pa.Table, list[Measure]]:
    return items, accuracies(rule, "all", weight="by_group")


def _by_part(items: pa.Table) -> tuple[pa.Table, list[Measure]]:
    parts = items["part"].to_pylist()
    measures = accuracies("mean", "mean of parts", mean_over="part")
    for part in dict.fromkeys(parts):
        column = f"part {part}"
        items = items.append_column(column, pa.array([one == part for one in parts]))
        measures += accuracies("mean", part, where=column)
    return items, measures


def _given(benchmark: str, setting: str, value: str | None) -> str:
    if value is None:
        raise _no_data(benchmark, setting)
    return value


def _no_data(benchmark: str, setting: str) -> TwistError:
    return TwistError(f"{benchmark} needs its data: give --evaluation.{benchmark}.{setting}")


BENCHMARKS: dict[str, Callable[[Subject], Iterable[Result]]] = {
    "swuggy": swuggy,
    "sblimp": sblimp,
    "storycloze": storycloze,
    "salmon": salmon_parts,
    "pairs": own_pairs,
    "matching": matching,
    "choices": choices,
    "asr": asr,
    "tts": tts,
    "intent": intent,
    "units": units,
    "resynthesis": resynthesis,
    "generation": generation,
    "stsp": stsp,
    "prosody": prosody,
}
