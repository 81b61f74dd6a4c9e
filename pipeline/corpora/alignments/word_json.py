"""Words with times in JSON, in the shapes that are about.

{"aligned_text": [[word, start, end], ...]}                                     slamkit, `twist make-speech`
{"segments": [{"words": [{"word" or "text", "start", "end"}, ...]}, ...]}       Whisper, whisper-timestamped, whisperX
{"words": [{"word" or "text", "start", "end"}, ...]}                            OpenAI's interface
{"chunks": [{"text", "timestamp": [start, end]}, ...]}                          transformers' pipeline, by words
{"tiers": {"words": {"entries": [[begin, end, label], ...]}}}                   Montreal Forced Aligner
{"words": {"0": {"xmin", "xmax", "text"}, ...}}                                 librispeech-phone-alignments
{"alignment": {"word": [[symbol, start, duration, score], ...]}}                Lhotse's supervisions
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from pipeline.corpora.alignments.labelled import AlignmentError, time_s
from pipeline.corpora.alignments.textgrid import tier_of

if TYPE_CHECKING:
    from pipeline.corpora.alignments.labelled import Labelled

# What `twist make-speech` writes: JSON lines in slamkit's shape.
ALIGNED_TEXT = "aligned_text.jsonl"
# What a line of JSON lines calls its audio, the surest first.
NAMES = ("file_name", "recording_id", "audio_filepath", "audio_file", "path", "audio", "file", "utt_id", "id")


def name_of(line: dict[str, Any]) -> str | None:
    """The audio that a line of JSON lines is about; None if it does not say."""
    if isinstance(line.get("recording_id"), str) and isinstance(line.get("channel"), int):
        return f"{line['recording_id']}-{line['channel']}"
    return next((line[name] for name in NAMES if isinstance(line.get(name), str)), None)


def read_word_json(content: Any, tier: str) -> list[Labelled] | None:
    """Words with times; None if this holds no alignment of a known shape.

    Raises:
        AlignmentError: it does, and is damaged.
    """
    if not isinstance(content, dict):
        return None
    try:
        return _read(content, tier)
    except (KeyError, IndexError, TypeError, ValueError) as error:
        if isinstance(error, AlignmentError):
            raise
        raise AlignmentError("bad_alignment", f"it is not as others of its kind: {error!r}") from error


def _read(content: dict[str, Any], tier: str) -> list[Labelled] | None:
    match content:
        case {"aligned_text": list(rows)}:
            return [_labelled(word, start, end) for word, start, end, *_ in rows]
        case {"tiers": dict(tiers)}:
            entries = {
                name: [_labelled(label, begin, end) for begin, end, label, *_ in one["entries"]]
                for name, one in tiers.items()
            }
            return tier_of(entries, tier)
        case {"alignment": {"word": list(items)}}:
            return [_of_lhotse(item) for item in items]
        case {"words": dict(words)}:
            in_order = sorted(words.items(), key=lambda item: int(item[0]))
            return [_labelled(word["text"], word["xmin"], word["xmax"]) for _, word in in_order]
        case {"words": [*words]} if words:
            return [_of_whisper(word) for word in words]
        case {"segments": [*segments]} if any("words" in segment for segment in segments):
            return [_of_whisper(word) for segment in segments for word in segment.get("words") or ()]
        case {"chunks": [*chunks]} if all("timestamp" in chunk for chunk in chunks):
            return [_labelled(chunk["text"], *chunk["timestamp"]) for chunk in chunks]
    return None


def _of_whisper(word: dict[str, Any]) -> Labelled:
    # whisperX gives no time to a word that it could not align.
    return _labelled(word["word"] if "word" in word else word["text"], word.get("start"), word.get("end"))


def _of_lhotse(item: Any) -> Labelled:
    if isinstance(item, dict):
        item = (item["symbol"], item["start"], item["duration"])
    symbol, start, length, *_ = item
    return _labelled(symbol, start, time_s(start, symbol) + time_s(length, symbol))


def _labelled(word: Any, start: Any, end: Any) -> Labelled:
    label = str(word)
    start_s, end_s = (math.nan if value is None else time_s(value, label) for value in (start, end))
    return label, start_s, end_s
