"""Finds speech that the corpora hold twice, and evaluation data in them, before any GPU time is spent on it.

Corpora state what their recordings were made from (Recording.origins): files and sections of LibriVox (LibriSpeech,
Libri-Light, MLS), sessions of the European Parliament (VoxPopuli). Two recordings hold the same speech if they share an
origin and overlap in it by more than half of the shorter one. One of them stays, by an order of preference between
corpora. That order alone decides, not which recording is longer: a chapter may be dropped for one utterance of it.

Evaluation sets (LibriSpeech's dev and test, and recordings that the user names) come before that order: recordings that
share their speech, or are by a speaker of LibriSpeech's dev and test sets, are dropped, and so are the recordings that
the user names.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from pipeline.errors import TwistError
from pipeline.files import storage

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

SAME_SPEECH, EVALUATION = "same_speech", "evaluation"
MIN_OVERLAP = 0.5
HELD_OUT = ("validation", "test")
ANY_MINUTE = None


@dataclass(frozen=True)
class SameSpeechConfig:
    """What to do about speech that several corpora hold.

    Args:
        drop: Whether to drop all but one recording of the same speech.
        prefer: Names of corpora whose recordings stay, the most preferred first; the others follow in the order of the
            recipe.
        evaluation: A text file, local or s3://, with a recording's id (<corpus>/<id>) per line: these recordings, and
            others of the same speech, never enter the run.
        protect_librispeech: Whether LibriSpeech's dev and test sets are evaluation sets: recordings of other corpora
            that hold their speech or are by their speakers are dropped. The sets themselves stay, as validation and
            test data.
    """

    drop: bool = True
    prefer: tuple[str, ...] = ()
    evaluation: str | None = None
    protect_librispeech: bool = True

    def __post_init__(self) -> None:
        if len(set(self.prefer)) < len(self.prefer):
            raise TwistError(f"same_speech.prefer names a corpus twice: {', '.join(self.prefer)}")


class Corpus(NamedTuple):
    """A corpus of the manifest."""

    name: str
    is_librispeech: bool


class Spoken(NamedTuple):
    """The fields of a Recording that are needed here; a run has millions of recordings."""

    recording_id: str
    corpus: str
    speaker: str | None
    split: str | None
    origins: list[str] | None
    origin_start_s: float | None
    origin_end_s: float | None

    @property
    def is_whole(self) -> bool:
        """Whether it covers all of its origin."""
        return self.origin_start_s == 0 and self.origin_end_s is None


class Mark(NamedTuple):
    """Why a recording is dropped, and the id of the recording that it is dropped for."""

    reason: str
    other_id: str
    detail: str


def read_evaluation(config: SameSpeechConfig) -> frozenset[str]:
    """Reads the ids that the user names; empty if `evaluation` is not set.

    Raises:
        TwistError: there is no such file.
    """
    if config.evaluation is None:
        return frozenset()
    try:
        lines = storage.read_bytes(config.evaluation).decode("utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        raise TwistError(f"{config.evaluation} does not exist; same_speech.evaluation names it") from None
    return frozenset(line.strip() for line in lines if line.strip() and not line.startswith("#"))


def find_same_speech(
    recordings: Callable[[str], Iterator[Spoken]],
    corpora: Sequence[Corpus],
    config: SameSpeechConfig,
    evaluation: frozenset[str],
) -> dict[str, Mark]:
    """Finds the recordings to drop; returns a Mark for each, by recording id.

    Args:
        recordings: Iterates over the recordings of a corpus; called several times per corpus.
        corpora: All corpora, in the order of the recipe.
        config: The order of preference, and whether to drop anything at all.
        evaluation: Ids of recordings that must not enter the run.

    Raises:
        TwistError: `prefer` names an unknown corpus, or `evaluation` holds ids but none of this run.
    """
    names = [corpus.name for corpus in corpora]
    if unknown := [name for name in config.prefer if name not in names]:
        raise TwistError(f"same_speech.prefer names {unknown[0]!r}, which is none of the corpora {', '.join(names)}")
    protected = {corpus.name for corpus in corpora if corpus.is_librispeech and config.protect_librispeech}
    if not config.drop and not evaluation and not protected:
        return {}

    shared, above = _first_look(itertools.chain.from_iterable(map(recordings, names)), protected, evaluation)
    marks: dict[str, Mark] = {}
    held = _Held(shared)
    speakers: dict[str, str] = {}
    for recording in above:
        held.add(recording)
        if recording.recording_id in evaluation:
            marks[recording.recording_id] = Mark(EVALUATION, recording.recording_id, "named as evaluation data")
        elif recording.speaker:
            speakers.setdefault(recording.speaker, recording.recording_id)
    if evaluation and not marks:
        raise TwistError(f"none of the {len(evaluation)} ids in {config.evaluation} is a recording of this run")
    if not shared and not speakers:
        return marks
    by_evaluation = held.copy()
    order = {name: place for place, name in enumerate([*config.prefer, *(n for n in names if n not in config.prefer)])}
    for corpus in sorted(names, key=order.__getitem__):
        own = _Held(shared)
        for recording in recordings(corpus):
            id = recording.recording_id
            if id in marks or _is_protected(recording, protected):
                continue
            if twin := by_evaluation.find(recording, min_overlap=0.0):
                marks[id] = Mark(EVALUATION, twin, f"holds speech of {twin}, which is evaluation data")
            elif recording.corpus not in protected and recording.speaker in speakers:
                twin = speakers[recording.speaker]
                marks[id] = Mark(EVALUATION, twin, f"is by the speaker of {twin}, which is evaluation data")
            elif config.drop and (twin := held.find(recording) or own.find(recording, only_whole=True)):
                marks[id] = Mark(SAME_SPEECH, twin, f"same speech as {twin}")
            else:
                own.add(recording)
        held.merge(own)
    return marks


def _is_protected(recording: Spoken, protected: set[str]) -> bool:
    return recording.corpus in protected and recording.split in HELD_OUT


def _first_look(
    recordings: Iterator[Spoken], protected: set[str], evaluation: frozenset[str]
) -> tuple[frozenset[str], list[Spoken]]:
    """Origins that may be held twice (shared by corpora, covered whole by a recording, or of evaluation data), and the
    recordings that are evaluation data.
    """
    corpus_of: dict[str, str] = {}
    shared: set[str] = set()
    above: list[Spoken] = []
    for recording in recordings:
        is_above = recording.recording_id in evaluation or _is_protected(recording, protected)
        if is_above:
            above.append(recording)
        for origin in recording.origins or ():
            is_first_corpus = corpus_of.setdefault(origin, recording.corpus) == recording.corpus
            if is_above or recording.is_whole or not is_first_corpus:
                shared.add(origin)
    return frozenset(shared), above


class _Held:
    """The recordings that stay, or are evaluation data, indexed by the minutes of their origins that they cover."""

    def __init__(self, shared: frozenset[str]) -> None:
        self._shared = shared
        self._by_minute: dict[tuple[str, int | None], list[Spoken]] = defaultdict(list)
        self._unplaced: dict[str, list[Spoken]] = defaultdict(list)

    def copy(self) -> _Held:
        """A copy that later additions do not change."""
        copy = _Held(self._shared)
        copy.merge(self)
        return copy

    def merge(self, other: _Held) -> None:
        """Adds all recordings of `other`."""
        for place, recordings in other._by_minute.items():
            self._by_minute[place].extend(recordings)
        for origin, unplaced in other._unplaced.items():
            self._unplaced[origin].extend(unplaced)

    def add(self, recording: Spoken) -> None:
        """Adds a recording, unless none of its origins is shared."""
        for origin in recording.origins or ():
            if origin in self._shared:
                if _minutes(recording) == (ANY_MINUTE,):
                    self._unplaced[origin].append(recording)
                else:
                    for minute in (*_minutes(recording), ANY_MINUTE):
                        self._by_minute[origin, minute].append(recording)

    def find(self, recording: Spoken, min_overlap: float = MIN_OVERLAP, only_whole: bool = False) -> str | None:
        """The id of the first recording here with the same speech; None if there is none.

        Args:
            recording: The recording to compare.
            min_overlap: Share of the shorter recording by which the two must overlap.
            only_whole: Whether to consider only recordings that cover all of their origin.
        """
        for origin in recording.origins or ():
            # Recordings without known minutes may lie in any.
            candidates = itertools.chain(
                self._unplaced.get(origin, ()),
                *(self._by_minute.get((origin, minute), ()) for minute in _minutes(recording)),
            )
            for held in candidates:
                if (held.is_whole or not only_whole) and _is_same(recording, held, min_overlap):
                    return held.recording_id
        return None


def _minutes(recording: Spoken) -> Sequence[int | None]:
    """The minutes of its origin that a recording covers; ANY_MINUTE if its times are unknown."""
    if recording.origin_start_s is None or recording.origin_end_s is None:
        return (ANY_MINUTE,)
    return range(int(recording.origin_start_s // 60), int(recording.origin_end_s // 60) + 1)


def _is_same(one: Spoken, other: Spoken, min_overlap: float) -> bool:
    """Whether two recordings of one origin overlap by more than a share of the shorter."""
    if one.is_whole or other.is_whole:
        return True
    start_s, end_s = one.origin_start_s, one.origin_end_s
    other_start_s, other_end_s = other.origin_start_s, other.origin_end_s
    if start_s is None or end_s is None or other_start_s is None or other_end_s is None:
        return min_overlap == 0  # unknown times: they may overlap, which is enough if nothing may slip through
    shared_s = min(end_s, other_end_s) - max(start_s, other_start_s)
    return shared_s > min_overlap * min(end_s - start_s, other_end_s - other_start_s)
