"""When the words of synthesized speech are said, by espeak-ng's own events.

Not every word has an event: it says "in the" or "it would" as one. Such words are one here too, with a blank between
them. Numbers must be spelled out, since a digit may have an event of its own.
"""

from __future__ import annotations

import bisect
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipeline.corpora.alignments.labelled import Labelled
    from pipeline.synthetic.espeak import Speech


def word_times(text: str, speech: Speech) -> list[Labelled]:
    """The words of `text` as they are written, with start and end in seconds; a pause belongs to none of them."""
    words = list(re.finditer(r"\S+", text))
    first_characters = [word.start() for word in words]
    events: list[tuple[int, float]] = []
    for event in speech.words:
        # An event counts characters from 1.
        place = bisect.bisect_right(first_characters, int(event.name) - 1) - 1
        if not events or place > events[-1][0]:
            events.append((place, event.start_s))
    if not events:
        return []
    events[0] = (0, events[0][1])
    duration_s = len(speech.wav) / speech.sample_rate_hz
    labelled: list[Labelled] = []
    for (first, start_s), (behind, limit_s) in zip(events, [*events[1:], (len(words), duration_s)], strict=True):
        said = [sound.end_s for sound in speech.phonemes if sound.name and start_s <= sound.start_s < limit_s]
        end_s = min(limit_s, max(said, default=limit_s))
        labelled.append((" ".join(word.group() for word in words[first:behind]), start_s, end_s))
    return labelled
