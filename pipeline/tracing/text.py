"""What became of a recording, in one screen."""

from __future__ import annotations

from typing import Any

from pipeline.printable import printable
from pipeline.runs import LANGUAGE, SEGMENTS, SHARDS, UNITS
from pipeline.text_table import in_columns

MAX_SEGMENTS = 12
MAX_DROPS = 6
MAX_TEXT_CHARS = 100


def as_text(traced: dict[str, Any]) -> str:
    """Lines for people: recording, language, segments with their words, units and samples, and what was dropped."""
    lines = [_line("recording", _recording(traced)), _line("language", _language(traced))]
    segments, finished = traced["segments"], traced["finished"]
    if SEGMENTS in finished:
        seconds = sum(segment["end_s"] - segment["start_s"] for segment in segments)
        lines.append(_line("segments", f"{len(segments):,}, {seconds:,.1f} s"))
    for stage, name in ((SEGMENTS, "segments"), (UNITS, "units"), (SHARDS, "shards")):
        if stage not in finished:
            lines.append(_line(name, "not finished yet"))
    if segments:
        lines += ["", *_table(segments, traced["dropped"])]
    if len(segments) == 1:
        lines += ["", *_of_one(segments[0], traced["copies"])]
    if drops := traced["dropped"]:
        lines.append("")
        for drop in drops[:MAX_DROPS]:
            told = f"{drop['reason']} ({drop['duration_s']:.1f} s of {drop['id']}): {drop['detail']}"
            lines += [_line(f"dropped by {drop['stage']}", told), _line("to have it", drop["remedy"])]
        if len(drops) > MAX_DROPS:
            lines.append(f"and {len(drops) - MAX_DROPS:,} more drops; --json has all")
    return "\n".join(printable(part) for line in lines for part in line.split("\n"))


def _line(label: str, text: str) -> str:
    return f"{label:<11} {text}"


def _recording(traced: dict[str, Any]) -> str:
    row = traced["recording"]
    if row is None:
        return f"{traced['recording_id']}, not in the manifest"
    facts = [f"{row['duration_s']:.1f} s"]
    facts += [f"{row['sample_rate_hz']:,} Hz"] if row["sample_rate_hz"] else []
    facts += [f"channel {row['channel']}"] if row["channel"] is not None else []
    facts += [f"speaker {row['speaker']}"] if row["speaker"] else []
    facts += [f"text {row['text'][:MAX_TEXT_CHARS]!r}"] if row["text"] else []
    return f"{row['recording_id']}: {', '.join(facts)}\n{_line('audio', row['uri'])}"


def _language(traced: dict[str, Any]) -> str:
    row = traced["language"]
    if row is None:
        return "never reached" if LANGUAGE in traced["finished"] else "not finished yet"
    score = "" if row["score"] is None else f", score {row['score']:.3f}"
    kept = "kept" if row["keep"] else f"dropped as {row['reason']}"
    return f"{kept}: {row['language'] or 'unknown'}, evidence {row['evidence']}{score}"


def _table(segments: list[dict[str, Any]], drops: list[dict[str, Any]]) -> list[str]:
    reasons = {drop["id"]: drop["reason"] for drop in drops if drop["num_items"]}
    rows = [("start_s", "end_s", "chunk", "units", "frames", "split", "shard", "offset")]
    for segment in segments[:MAX_SEGMENTS]:
        sample = segment.get("sample") or {}
        rows.append(
            (
                f"{segment['start_s']:.2f}",
                f"{segment['end_s']:.2f}",
                segment["work_unit"],
                _or_dash(segment["num_units"]),
                _or_dash(segment["num_frames"]),
                sample.get("split", "-"),
                sample.get("shard") or reasons.get(segment["segment_id"], "-"),
                _or_dash(sample.get("offset")),
            )
        )
    lines = in_columns(rows, left_aligned=(2, 5, 6))
    more = len(segments) - MAX_SEGMENTS
    return [*lines, f"and {more:,} more; name one (RECORDING#START-END), or --json"] if more > 0 else lines


def _of_one(segment: dict[str, Any], copies: list[dict[str, Any]]) -> list[str]:
    lines = [_line("segment", segment["segment_id"])]
    if segment["words"] is not None:
        lines.append(_line("words", segment["words"]))
    if segment["first_units"]:
        more = " ..." if segment["num_units"] > len(segment["first_units"]) else ""
        lines.append(_line("units", " ".join(map(str, segment["first_units"])) + more))
    if sample := segment.get("sample"):
        lines.append(_line("sample", f"{sample['key']}, number {sample['index']} of {sample['shard']}"))
    lines += [_line("copy of it", f"{row['id']}, dropped as {row['reason']}") for row in copies[:MAX_DROPS]]
    return lines


def _or_dash(value: int | None) -> str:
    return "-" if value is None else f"{value:,}"
