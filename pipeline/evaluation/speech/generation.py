"""The words with which a speech LM goes on: how likely a text LM finds them, and how much they repeat themselves.

    first seconds of recordings -> units -> speech LM -> voice -> ASR -> text LM, auto-BLEU, self-BLEU, VERT

Each figure is told twice: of prompt and continuation as one text, and of the continuation alone, which the ASR then
hears by itself.

Source: Lakhotia et al. 2021 (GSLM) for self-BLEU and VERT; Maimon et al. 2025 (Slam) for GenPPL.
"""

from __future__ import annotations

import itertools
import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.audio.read import AudioError, probe
from pipeline.errors import TwistError
from pipeline.evaluation.item_units import HEADERS_AT_ONCE, AudioItem
from pipeline.evaluation.measures import GROUP, Measure
from pipeline.evaluation.results import LeftOut
from pipeline.evaluation.speech.asr import find_asr
from pipeline.evaluation.speech.continuations import continuations_of
from pipeline.evaluation.speech.normalize import NORMALIZER, english_normalizer
from pipeline.evaluation.speech.text_lm import find_text_lm, nats_of_texts
from pipeline.evaluation.speech.text_measures import auto_bleu_gslm, auto_bleu_slamkit, self_bleu
from pipeline.evaluation.speech.transcripts import as_heard, transcripts_of
from pipeline.evaluation.speech.utterances import Utterance, held_out_segments, read_utterances, spread_out
from pipeline.evaluation.speech.wavs import write_wavs
from pipeline.evaluation.speech.word_errors import MANY_REPEATS, most_repeats
from pipeline.speaking.units import Units
from pipeline.stage import digest
from pipeline.work.map_tasks import spread

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

    from pipeline.evaluation.results import Result
    from pipeline.evaluation.speech.continuations import Continuation
    from pipeline.evaluation.speech.text_lm import TextScore
    from pipeline.evaluation.subject import Subject
    from pipeline.speaking.voice import Voice

RULE = "Slam's GenPPL: exp of the mean over utterances of nats a token, prompt and continuation in one transcript"
SCOPES = ("with prompt", "without prompt")
# Recordings whose headers one task reads: all of a source, of which the long enough are drawn from.
HEADERS_PER_TASK = 1_000


def generation(subject: Subject) -> list[Result]:
    """GenPPL, auto-BLEU, self-BLEU and VERT of continuations.

    Raises:
        TwistError: no ASR, text LM or speech is named, models do not fit together, or there are fewer than two
            continuations.
        RunError: a disk or store fails.
    """
    config = subject.config.generation
    if config.asr is None or config.text_lm is None:
        missing = "asr" if config.asr is None else "text_lm"
        raise TwistError(f"generation needs an ASR and a text LM: give --evaluation.generation.{missing}")
    if config.source is None and not subject.run:
        raise TwistError("generation needs speech for prompts: give --evaluation.generation.source, or --run")
    normalize = english_normalizer()
    asr, text_lm = find_asr(config.asr, subject.device), find_text_lm(config.text_lm, subject.device)
    subject.lm  # noqa: B018 - a model that does not fit is told before anything is tokenized
    spoken = Spoken(subject.voice(config.vocoder))

    found = (
        read_utterances(config.source, config.split)
        if config.source is not None
        else held_out_segments(subject.run, config.split)
    )
    prompts, too_short = choose_prompts(found, config)
    units = subject.units([prompt.item for prompt in prompts.values()])
    continuations, fingerprint, without_room = continuations_of(
        subject, units, config.sampling, config.num_continuations
    )
    if len(continuations) < 2:
        raise TwistError(
            f"generation compares continuations with each other, but of {len(found)} recordings {len(prompts)} last "
            f"{config.min_s:g} s, and {len(continuations)} continuations came of them; give more, or a lower min_s"
        )

    by_name = {one.name: one for one in continuations}
    pieces = {_piece(name, scope): (one, scope) for name, one in by_name.items() for scope in SCOPES}
    heard = transcripts_of(
        subject.output,
        list(pieces),
        digest(fingerprint, spoken.voice.fingerprint),
        lambda names: spoken.parts([pieces[name] for name in names]),
        asr,
        subject.cluster,
        subject.report,
    )
    assert not heard.left_out, heard.left_out[0]
    if config.wavs is not None:
        write_wavs(
            Path(config.wavs),
            list(by_name),
            lambda names: [whole for whole, _ in spoken.both([by_name[name] for name in names])],
            spoken.voice,
        )

    table = pa.table(
        {
            "item_id": list(by_name),
            GROUP: [prompts[one.item_id].group for one in continuations],
            "num_units": [len(one.units) for one in continuations],
            "duration_s": [heard.duration_s[_piece(one.name, SCOPES[1])] for one in continuations],
        }
    )
    for scope in SCOPES:
        texts = [heard.of[_piece(name, scope)] for name in by_name]
        scores = nats_of_texts(subject.output, texts, text_lm, subject.cluster, subject.report)
        for name, column in _columns(texts, normalize, scores).items():
            table = table.append_column(f"{name} {scope}", pa.array(column))
    settings = {
        **asdict(config),
        "source": config.source or subject.run,
        "text_lm": text_lm.fingerprint,
        "bos": "before each text, where the text LM has one",
        "words": f"of {NORMALIZER}; slamkit's auto-BLEU: NLTK's of the transcript as it is",
        "many_repeats": MANY_REPEATS,
        **asr.settings,
    }
    del settings["wavs"], settings["vocoder"]  # files; the voice is part of what is measured
    return [
        subject.result(
            "generation",
            _measures(),
            table,
            rule=RULE,
            settings=settings,
            data=units.fingerprint,
            left_out=[*too_short, *units.left_out, *without_room],
            notes=[
                f"Spoken by {spoken.voice.path}, heard by {asr.source}, judged by {text_lm.source}.",
                *(_told_of_cut(table, scope) for scope in SCOPES if pc.any(table[f"is_cut {scope}"]).as_py()),
            ],
            other_models={
                "continuations": fingerprint,
                "asr": asr.fingerprint,
                "text_lm": text_lm.fingerprint,
                "vocoder": spoken.voice.fingerprint,
            },
        )
    ]


def choose_prompts(found: Sequence[Utterance], config: PromptSettings) -> tuple[dict[str, Utterance], list[LeftOut]]:
    """The beginnings of utterances that are long enough, `max_items` of them, by name."""
    long_enough, left_out = [], []
    batches = (found[start : start + HEADERS_PER_TASK] for start in range(0, len(found), HEADERS_PER_TASK))
    for one, end_s in zip(found, itertools.chain.from_iterable(spread(_ends_s, batches)), strict=True):
        item = one.item
        if isinstance(end_s, AudioError):
            left_out.append(LeftOut(item.item_id, end_s.reason, end_s.detail))
        elif end_s - item.start_s < config.min_s:
            left_out.append(LeftOut(item.item_id, "too_short", f"it lasts {end_s - item.start_s:.2f} s"))
        else:
            long_enough.append(one)
    prompts = {}
    for one in spread_out(long_enough, config.max_items):
        item = one.item
        end_s = item.start_s + config.prompt_s
        prompts[item.item_id] = Utterance(
            AudioItem(item.item_id, item.uri, item.start_s, end_s, item.channel), one.text, one.speaker
        )
    return prompts, left_out


def _ends_s(utterances: Sequence[Utterance]) -> list[float | AudioError]:
    """When each ends; runs on any machine, since reading headers waits for a disk or a bucket."""
    with ThreadPoolExecutor(HEADERS_AT_ONCE) as threads:
        return list(threads.map(_end_s, utterances))


def _end_s(utterance: Utterance) -> float | AudioError:
    item = utterance.item
    try:
        return probe(item.uri).duration_s if item.end_s is None else item.end_s
    except AudioError as error:
        return error


class PromptSettings(Protocol):
    """Which utterances give a prompt, and how long it is."""

    @property
    def max_items(self) -> int | None: ...
    @property
    def min_s(self) -> float: ...
    @property
    def prompt_s(self) -> float: ...


@dataclass(frozen=True)
class Spoken:
    """Speaks prompts with their continuations, in one piece and at its own pace, as the published script does."""

    voice: Voice

    def both(self, continuations: Sequence[Continuation]) -> list[tuple[NDArray[np.float32], NDArray[np.float32]]]:
        """Of each continuation the wav [S] with its prompt, and that part of it without."""
        said = [self.voice.with_durations(Units(np.concatenate([one.prompt, one.units]))) for one in continuations]
        pairs = []
        for one, units, wav in zip(continuations, said, self.voice.batch(said), strict=True):
            prompt_frames, frames = len(units[: len(one.prompt)].frames), len(units.frames)
            pairs.append((wav, wav[len(wav) * prompt_frames // frames :]))
        return pairs

    def parts(self, wanted: Sequence[tuple[Continuation, str]]) -> Iterator[NDArray[np.float32] | AudioError]:
        """The audio at 16 kHz of each continuation in a scope; what is wanted in both scopes is spoken once."""
        unique = list({one.name: one for one, _ in wanted}.values())
        spoken = dict(zip((one.name for one in unique), self.both(unique), strict=True))
        for one, scope in wanted:
            yield as_heard(spoken[one.name][SCOPES.index(scope)], self.voice.sample_rate_hz)


def _piece(name: str, scope: str) -> str:
    return f"{name} {scope}"


def _columns(
    texts: Sequence[str], normalize: Callable[[str], str], scores: Sequence[TextScore]
) -> dict[str, Sequence[Any]]:
    """What is told of each transcript."""
    words = [normalize(text) for text in texts]
    per_token = [score.nats / score.num_tokens if score.num_tokens else None for score in scores]
    return {
        "heard": texts,
        "num_words": [len(text.split()) for text in words],
        "is_empty": [not text for text in words],
        "is_repeated": [most_repeats(text) >= MANY_REPEATS for text in words],
        "nats": [score.nats for score in scores],
        "num_tokens": [score.num_tokens for score in scores],
        "num_cut_tokens": [score.num_cut_tokens for score in scores],
        "has_tokens": [score.num_tokens > 0 for score in scores],
        "is_cut": [score.num_cut_tokens > 0 for score in scores],
        "nats_per_token": per_token,
        "perplexity": [None if nats_each is None else math.exp(nats_each) for nats_each in per_token],
        "auto_bleu_gslm": [auto_bleu_gslm(text) for text in words],
        "auto_bleu_slamkit": [auto_bleu_slamkit(text) for text in texts],
        "self_bleu": self_bleu(words),
    }


def _told_of_cut(table: pa.Table, scope: str) -> str:
    num_cut, num_tokens = (pc.sum(table[f"{name} {scope}"]).as_py() for name in ("is_cut", "num_cut_tokens"))
    return (
        f"Perplexities, {scope}: of {num_cut:,} of {len(table):,} transcripts the text LM takes the beginning alone; "
        f"{num_tokens:,} tokens are not judged."
    )


def _measures() -> list[Measure]:
    measures = []
    for scope in SCOPES:
        where = f"has_tokens {scope}"
        measures += [
            Measure(f"GenPPL, {scope}", f"nats_per_token {scope}", where=where, exponential=True),
            Measure(f"GenPPL of all tokens, {scope}", f"nats {scope}", f"num_tokens {scope}", exponential=True),
            Measure(f"mean of utterances' perplexities, {scope}", f"perplexity {scope}", where=where),
            Measure(f"auto-BLEU (GSLM), {scope}", f"auto_bleu_gslm {scope}"),
            Measure(f"auto-BLEU-2 (slamkit), {scope}", f"auto_bleu_slamkit {scope}"),
            Measure(f"self-BLEU, {scope}", f"self_bleu {scope}"),
            Measure(f"VERT, {scope}", f"self_bleu {scope}", geometric_with=f"auto_bleu_gslm {scope}"),
            Measure(f"words, {scope}", f"num_words {scope}"),
            Measure(f"nothing heard, {scope}", f"is_empty {scope}"),
            Measure(f"longer than the text LM takes, {scope}", f"is_cut {scope}"),
            Measure(f"a phrase {MANY_REPEATS} times in a row, {scope}", f"is_repeated {scope}"),
        ]
    return [
        *measures,
        Measure("units of the continuation", "num_units"),
        Measure("seconds of the continuation", "duration_s"),
    ]
