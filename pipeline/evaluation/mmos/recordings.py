"""The recordings that a study begins from: some of each set, drawn by a seed."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from pipeline.audio.read import AudioError, Span, probe
from pipeline.corpora.readers import find_recordings
from pipeline.corpora.source import AudioFile
from pipeline.errors import TwistError
from pipeline.speaking.wav import read_clip

if TYPE_CHECKING:
    from pipeline.corpora.source import CorpusConfig


@dataclass(frozen=True)
class Drawn:
    """A recording of a study, from where its speech begins to the end of what its continuations are compared with."""

    set_name: str
    recording_id: str
    span: Span

    @property
    def item(self) -> str:
        """What the clips of all systems for it have in common."""
        return f"{self.set_name}/{self.recording_id}"


def draw_recordings(
    corpus: CorpusConfig, num_recordings: int, *, prompt_s: float, min_s: float, max_s: float, seed: int
) -> list[Drawn]:
    """Draws recordings of a set, in the order of their ids.

    Args:
        corpus: The set: any folder or manifest that `twist manifest` reads.
        num_recordings: How many.
        prompt_s: Seconds at the beginning that must hold sound.
        min_s: Seconds that a recording must have.
        max_s: Seconds that are taken of a longer one.
        seed: Of the draw; the set's name goes in too.

    Raises:
        TwistError: the set is not laid out as its reader expects, or has too few recordings of this length.
    """
    found = (file for file in find_recordings(corpus) if isinstance(file, AudioFile) and file.drop_reason is None)
    files = sorted(found, key=lambda file: file.id)
    of_set = int.from_bytes(hashlib.sha256(corpus.label.encode()).digest()[:8], "big")
    drawn: list[Drawn] = []
    for place in np.random.default_rng([seed, of_set]).permutation(len(files)).tolist():
        if len(drawn) == num_recordings:
            break
        span = _usable_span(files[place], prompt_s, min_s, max_s)
        if span is not None:
            drawn.append(Drawn(corpus.label, files[place].id, span))
    if len(drawn) < num_recordings:
        raise TwistError(
            f"the set {corpus.label} ({corpus.root}) has {len(drawn):,} readable recordings of {min_s:g} s or more "
            f"among {len(files):,}, but {num_recordings:,} are to be drawn; set --num-clips or --min-duration-sec lower"
        )
    return sorted(drawn, key=lambda one: one.recording_id)


def _usable_span(file: AudioFile, prompt_s: float, min_s: float, max_s: float) -> Span | None:
    """The stretch of a recording that a study takes; None if it is too short, silent or cannot be read."""
    start_s = file.voice_activity[0][0] if file.voice_activity else 0.0
    try:
        end_s = min(probe(file.uri).duration_s, start_s + max_s)
        if end_s - start_s < min_s:
            return None
        span = Span(file.uri, file.channel, start_s, end_s)
        for one in (span, replace(span, end_s=start_s + prompt_s)):
            read_clip(one, file.id)
    except (AudioError, TwistError):
        return None
    return span
