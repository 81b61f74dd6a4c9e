"""What would bring back something that was dropped, by stage and reason."""

from __future__ import annotations

from pipeline.runs import LANGUAGE, SEGMENTS, SHARDS, WORDS, stage_of
from pipeline.work.retry import RETRIED_REASONS

_OF_STAGE = {
    LANGUAGE: {
        "other_language": "add its language to `language.languages`, or correct what its corpus says, in a new run",
        "uncertain_language": "state its language in its corpus' settings, or lower the thresholds in `language`, in a "
        "new run",
        "unknown_language": "set `language.unknown: keep`, or state the language in its corpus' settings, in a new run",
        "same_speech": "nothing, unless its twin leaves the corpora: one recording of a speech is kept",
        "evaluation": "nothing: it is kept out of training because models are measured on it",
    },
    SEGMENTS: {
        "no_speech": "nothing where it is a pause; if it is speech, set `segments.detect_speech: none` in a new run",
        "too_short": "lower `segments.min_s` in a new run",
    },
    SHARDS: {
        "duplicate": "`pack.duplicates.drop: none`, and `twist pack --again`",
        "near_duplicate": "`pack.duplicates.drop: exact`, and `twist pack --again`",
        "evaluation": "take the evaluation set out of `pack.decontaminate`, and `twist pack --again`",
        "degenerate": "other bounds in `pack.degenerate`, and `twist pack --again`",
    },
}
_OF_WORDS = "a text and an alignment that fit it, in a new run; its units do not need words"
_OF_AUDIO = "a whole copy of the file, in a new run"


def remedy(stage: str, reason: str) -> str:
    """What would bring back what `stage` dropped for `reason`."""
    if reason in RETRIED_REASONS:
        return f"mend that, then `twist {stage_of(stage).command} --retry-dropped`"
    return _OF_STAGE.get(stage, {}).get(reason, _OF_WORDS if stage == WORDS else _OF_AUDIO)
