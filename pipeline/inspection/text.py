"""What `twist inspect` prints for a person to read, within 120 columns."""

from __future__ import annotations

import itertools
import math
import textwrap
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from pipeline.inspection.checkpoints import QUALITY
from pipeline.printable import printable_in
from pipeline.runs import (
    CODEBOOK,
    LANGUAGE,
    MANIFEST,
    PITCH,
    PREFERENCES,
    SEGMENTS,
    SHARDS,
    STYLE,
    TEXT,
    TUNED,
    UNITS,
    WORDS,
)
from pipeline.text_table import in_columns

WIDTH = 120
LABEL_WIDTH = 18
BAR_WIDTH = 60
MOST_CURVE_POINTS = 24


def as_text(description: Mapping[str, Any]) -> str:
    """A description, as describe.py gives it, for a person to read; what would steer a terminal is escaped."""
    description = printable_in(description)
    kind = description["kind"]
    title = f"{description['path']} ({kind})"
    lines = [""]
    if "violations" in description:
        lines += [*_violations(description["violations"]), ""]
    if "stages" in description:
        lines += _stages(description["stages"])
        for name, stage in description["stages"].items():
            if stage["finished"]:
                lines += ["", name, *_folder(name, stage)]
        for name in ("checkpoints", TUNED):
            if name in description:
                lines += ["", name, *_folder("checkpoints", description[name])]
    elif "finished" in description:
        lines += _stages({kind: description})
        if description["finished"]:
            lines += ["", *_folder(kind, description)]
    elif not description.get("violations"):
        lines += _folder(kind, description)
    for path in description.get("plots", ()):
        lines += _row("plot", path)
    return "\n".join([title, *(_clip(line.rstrip()) for line in lines)])


def _violations(violations: Sequence[str]) -> list[str]:
    if not violations:
        return ["verified: every checksum and invariant holds"]
    # Whole, however long: what is wrong, and where, is what was asked for.
    return [f"wrong: {violation}" for violation in violations]


def _stages(stages: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """A line per stage."""
    rows = [["stage", "finished (UTC)", "items in", "kept", "audio in", "kept", "dropped"]]
    for name, stage in stages.items():
        if not stage["finished"]:
            rows.append([name, f"not yet, {stage['files_so_far']} files", "", "", "", "", ""])
            continue
        counts = stage["counts"]
        items = [f"{counts[what]['items']:,}" for what in ("input", "kept")]
        lengths = [_hours(counts[what]["hours"]) for what in ("input", "kept")]
        when = str(stage["finished_at"]).replace("T", " ").replace("Z", "")
        rows.append([name, when, *items, *lengths, _dropped(counts["dropped"])])
    yield from in_columns(rows, left_aligned=(0, 1, 6))
    for name, stage in stages.items():
        if told := stage.get("progress"):
            yield ""
            yield f"{name}: {told['summary']}"
            yield _when_told(told)


def _when_told(told: Mapping[str, Any]) -> str:
    told_at = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(told["told_at"]))
    if told["is_stale"]:
        return f"  as of {told_at} UTC; nothing was told since: the command has ended, or is stuck"
    left = "" if told["seconds_left"] is None else f"; about {told['seconds_left'] / 3600:,.1f} h left"
    return f"  as of {told_at} UTC{left}"


def _folder(kind: str, description: Mapping[str, Any]) -> Iterator[str]:
    """Everything particular to one place."""
    particulars = {
        MANIFEST: _manifest,
        LANGUAGE: _language,
        SEGMENTS: _segments,
        WORDS: _words,
        CODEBOOK: _codebook,
        UNITS: _units,
        PITCH: _pitch,
        TEXT: _text,
        STYLE: _style,
        SHARDS: _shards,
        PREFERENCES: _preferences,
        "checkpoints": _checkpoints,
        "checkpoint": _checkpoint,
    }
    yield from particulars[kind](description)
    if "counts" in description:
        yield from _row("dropped", _dropped(description["counts"]["dropped"]))
        yield from _drops_by_corpus(description["dropped_by_corpus"])
        for drop in description["dropped_examples"]:
            yield from _row("", f"{drop['reason']}: {drop['id']} ({_seconds(drop['duration_s'])}): {drop['detail']}")


def _drops_by_corpus(drops: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """A line per reason and corpus, where there is more than one corpus to tell apart."""
    if len({drop["corpus"] for drop in drops}) > 1:
        rows = [[drop["reason"], drop["corpus"], f"{drop['items']:,}", _hours(drop["hours"])] for drop in drops]
        yield from (
            "",
            *(f"  {line}" for line in in_columns([["dropped", "corpus", "items", "audio"], *rows], (0, 1))),
            "",
        )


def _style(description: Mapping[str, Any]) -> Iterator[str]:
    model = description["model"]
    yield from _row("model", f"{model['fingerprint'][:12]}, {model['num_codes']} codes, {model['rate_hz']:g} a second")
    used = (
        f"{description['codes_used']:,} of {model['num_codes']:,} used, perplexity {description['code_perplexity']:.1f}"
    )
    yield from _row(
        "codes", f"{description['num_seconds']:,}: {used}; the commonest {description['largest_share']:.0%}"
    )


def _manifest(description: Mapping[str, Any]) -> Iterator[str]:
    for name, corpus in description["corpora"].items():
        kind = description["kinds"].get(name)
        corpus_told = f"{name}: {_count(corpus['recordings'], 'recordings')}, {_hours(corpus['hours'])}, read as {kind}"
        yield from _row("corpus", corpus_told)
    for name, told in description["notices"].items():
        for what, notice in told.items():
            yield from _row("noticed", f"{name}: {notice['count']:,} {what}, e.g. {notice['example']}")
    yield from _row("recordings", _spread(description["recordings_s"], _seconds))
    yield from _row("sample rates", _histogram(_with_hz(description["sample_rates_hz"])))
    yield from _row("speakers", f"{description['num_speakers']:,}")
    told = ("speaker", "language", "text")
    known = [f"{what} of {description[f'with_{what}']:,}" for what in told]
    yield from _row("the corpora say", f"{', '.join(known)} recordings")
    yield from _examples(
        "  ".join([example["recording_id"], _seconds(example["duration_s"]), *filter(None, map(example.get, told))])
        for example in description["examples"]
    )


def _with_hz(rates: Mapping[str, int]) -> dict[str, int]:
    return {"not told" if rate == "None" else f"{rate} Hz": count for rate, count in rates.items()}


def _language(description: Mapping[str, Any]) -> Iterator[str]:
    yield from _row("languages found", _histogram(description["languages"]))
    yield from _row("evidence", _histogram(description["evidence"]))
    if (unproven := description["kept_without_evidence"]) and unproven["items"]:
        kept = _count(unproven["items"], "recordings")
        yield from _row("without evidence", f"{kept} kept ({_hours(unproven['hours'])})")
    if (unsure := description.get("kept_unsure")) and unsure["items"]:
        kept = _count(unsure["items"], "recordings")
        yield from _row("unsure by audio", f"{kept} kept ({_hours(unsure['hours'])})")
    audio = description["audio_evidence"]
    if not audio["available"] and audio["unheard"]["items"]:
        unheard = f"{audio['unheard']['items']:,} recordings ({_hours(audio['unheard']['hours'])})"
        yield from _row("audio evidence", f"not available; {unheard} would have been listened to")
    rows = [["corpus", "decision", "evidence", "recordings", "audio"]]
    for group in description["by_evidence"]:
        told = [group["corpus"], group["decision"], group["evidence"]]
        rows.append([*told, f"{group['items']:,}", _hours(group["hours"])])
    yield from ("", *(f"  {line}" for line in in_columns(rows, left_aligned=(0, 1, 2))), "")
    for row in description["least_certain"]:
        what = f"{row['decision']}: {row['language']} by {row['evidence']}, wanted {row['score']:.2f}"
        yield from _row("least certain", f"{row['recording_id']}  {what}")


def _segments(description: Mapping[str, Any]) -> Iterator[str]:
    yield from _row("segments", f"{description['num_segments']:,} in {description['num_work_units']:,} chunks")
    yield from _row("durations", _spread(description["segments_s"], _seconds))
    yield from _lengths(description["lengths"], "recordings")
    yield from _examples(
        f"{example['segment_id']}  {_seconds(example['end_s'] - example['start_s'])}"
        for example in description["examples"]
    )


def _words(description: Mapping[str, Any]) -> Iterator[str]:
    yield from _row("words", f"{description['num_words']:,}")
    for source, tally in description["by_source"].items():
        yield from _row("times from", f"{source}: {_count(tally['items'], 'segments')}, {_hours(tally['hours'])}")
    yield from _row("durations", _spread(description["words_s"], _seconds))
    for place, told in description["notices"].items():
        for what, notice in told.items():
            yield from _row("noticed", f"{place}: {notice['count']:,} {what}, e.g. {notice['example']}")
    yield from _examples(
        f"{example['segment_id']}  "
        + " ".join(f"{word['word']} {word['start_s']:.2f}-{word['end_s']:.2f}" for word in example["words"])
        for example in description["examples"]
    )


def _lengths(lengths: Mapping[str, Mapping[str, float]] | None, what: str) -> Iterator[str]:
    """How much audio is longer or shorter than its table or header says, if the run is not older than this count."""
    for key, how in (("longer_than_stated", "longer"), ("shorter_than_stated", "shorter")):
        if lengths and lengths[key]["items"]:
            told = f"{_count(int(lengths[key]['items']), what)} {how} than stated, by {_hours(lengths[key]['hours'])}"
            yield from _row("lengths", told)


def _codebook(description: Mapping[str, Any]) -> Iterator[str]:
    facts = description["codebook"]
    encoder = facts["encoder"]
    yield from _row("codebook", f"{facts['num_units']:,} units of {facts['feature_dim']} dimensions")
    yield from _row(
        "encoder", f"{_encoder(encoder)}, layer {encoder['layer']}" if encoder["layer"] else _encoder(encoder)
    )
    if encoder["path"]:
        yield from _row("", str(encoder["path"]))
    if "imported_from" in facts:
        yield from _row("taken from", facts["imported_from"])
        yield from _row("", f"sha256 {facts['imported_sha256']}")
    else:
        yield from _row(
            "fitted on", f"{facts['num_frames']:,} frames in {facts['num_iterations']} iterations, seed {facts['seed']}"
        )
        held_out = facts["held_out_inertia"]
        told = "" if held_out is None else f", {held_out:.4g} over {facts['held_out_frames']:,} frames kept aside"
        yield from _row("inertia", f"{facts['inertia']:.4g} a frame{told}")
        yield from _row("use", f"{facts['empty_units']} units are empty; perplexity {facts['unit_perplexity']:.1f}")
    yield from _row("fingerprint", facts["fingerprint"])


def _units(description: Mapping[str, Any]) -> Iterator[str]:
    yield from _row("encoder", _encoder(description))
    if levels := description["levels"]:
        yield from _row("levels", f"median {levels['median_dbfs']} dBFS, {_levels_below(levels)}")
    yield from _lengths(description["lengths"], "segments")
    if left_out := description["segments_with_channels_left_out"]:
        yield from _row("channels", f"dead, damaged or cancelling ones left out in {_count(left_out, 'segments')}")
    yield from _unit_rows(description)
    for example in description["examples"]:
        yield from _row("e.g.", f"{example['segment_id']}  {_seconds(example['duration_s'])}")
        yield from _row("", _first_units(example))


def _pitch(description: Mapping[str, Any]) -> Iterator[str]:
    model = description["pitch_model"]
    yield from _row("tokenizer", f"{model['num_codes']} codes at {model['rate_hz']:g} Hz, F0 by {model['extractor']}")
    yield from _row("fingerprint", model["fingerprint"])
    used = f"{description['codes_used']} of {model['num_codes']}, perplexity {description['code_perplexity']:.1f}"
    yield from _row("codes", f"{description['num_pitch_codes']:,}; {used}")
    if unvoiced := description["segments_without_voice"]:
        yield from _row("unvoiced", f"{_count(unvoiced, 'segments')} without a voiced frame")
    yield from _row("mean F0", _spread(description["f0_means_hz"], lambda hz: f"{hz:.0f} Hz"))
    for example in description["examples"]:
        mean = "unvoiced" if example["f0_mean_hz"] is None else f"{example['f0_mean_hz']:.0f} Hz"
        yield from _row("e.g.", f"{example['segment_id']}  {_seconds(example['end_s'] - example['start_s'])}, {mean}")
        yield from _row("", " ".join(map(str, example["pitch"][:30])))


def _shards(description: Mapping[str, Any]) -> Iterator[str]:
    samples = f"{description['num_samples']:,} samples of {_count(description['num_speakers'], 'speakers')}"
    yield from _row(
        "shards", f"{_count(description['num_shards'], 'shards')}: {samples}, {_hours(description['hours'])}"
    )
    yield from _row("encoder", _encoder(description))
    yield from _row("codebook", description["codebook"])
    yield from _row("fingerprint", description["fingerprint"])
    rows = [["corpus", "split", "samples", "audio", "units", "frames"]]
    for total in description["totals"]:
        figures = [f"{total[name]:,}" for name in ("num_samples", "num_units", "num_frames")]
        rows.append([total["corpus"], total["split"], figures[0], _hours(total["hours"]), *figures[1:]])
    yield from ("", *(f"  {line}" for line in in_columns(rows, left_aligned=(0, 1))), "")
    yield from _words_of_shards(description["words"])
    languages = description["languages"].items()
    yield from _row(
        "languages", ", ".join(f"{name} {f['num_samples']:,} ({_hours(f['hours'])})" for name, f in languages)
    )
    yield from _row("durations", _spread(description["samples_s"], _seconds))
    yield from _row("units a sample", _spread(description["samples_units"], lambda number: f"{number:,.0f}"))
    yield from _unit_rows(description)
    for example in description["examples"]:
        yield from _row("e.g.", f"{example['key']}  {_seconds(example['duration_s'])}  {example['split']}")
        yield from _row("", _first_units(example))


def _words_of_shards(words: Mapping[str, Any] | None) -> Iterator[str]:
    """Which samples carry words."""
    if words is None:
        return
    rows = [["corpus", "split", "samples with words", "audio", "words", "tokens of text"]]
    for total in words["totals"]:
        figures = [f"{total[name]:,}" for name in ("num_samples", "num_words", "num_text_tokens")]
        rows.append([total["corpus"], total["split"], figures[0], _hours(total["hours"]), *figures[1:]])
    yield from (*(f"  {line}" for line in in_columns(rows, left_aligned=(0, 1))), "")
    yield from _row("text", f"{words['vocab_size']:,} kinds of tokens, tokenizer {words['tokenizer']}")


def _text(description: Mapping[str, Any]) -> Iterator[str]:
    told = f"{description['num_documents']:,} documents, {description['num_tokens']:,} tokens"
    yield from _row("shards", f"{_count(description['num_shards'], 'shards')}: {told}")
    tokens = f"{description['vocab_size']:,} kinds, {description['token_type']}"
    yield from _row("tokens", f"{tokens}, tokenizer {description['tokenizer']}")
    yield from _row("fingerprint", description["fingerprint"])
    rows = [["corpus", "split", "documents", "tokens"]]
    for total in description["totals"]:
        rows.append([total["corpus"], total["split"], f"{total['num_documents']:,}", f"{total['num_tokens']:,}"])
    yield from ("", *(f"  {line}" for line in in_columns(rows, left_aligned=(0, 1))), "")
    yield from _row("tokens a document", _spread(description["documents_tokens"], lambda number: f"{number:,.0f}"))
    for example in description["examples"]:
        first = " ".join(map(str, example["first_tokens"]))
        yield from _row("e.g.", f"{example['key']}  {example['split']}")
        yield from _row("", f"{example['num_tokens']:,} tokens: {first} …")


def table_of_corpora(description: Mapping[str, Any]) -> str:
    """Hours and units by corpus, as in the paper's Table 1, from a description of shards."""
    totals = printable_in(description["totals"])
    rows = [["corpus", "hours", "units", "units an hour"]]
    corpora = list(dict.fromkeys(total["corpus"] for total in totals))
    for name, part in [
        *((corpus, [total for total in totals if total["corpus"] == corpus]) for corpus in corpora),
        ("total", totals),
    ]:
        hours, units = sum(total["hours"] for total in part), sum(total["num_units"] for total in part)
        rows.append(
            [
                name,
                f"{hours:,.2f}" if hours >= 10 else f"{hours:.4f}",
                f"{units:,}",
                f"{units / hours:,.0f}" if hours else "",
            ]
        )
    return "\n".join(in_columns(rows, left_aligned=(0,)))


def _unit_rows(description: Mapping[str, Any]) -> Iterator[str]:
    size = description["codebook_size"]
    yield from _row("frames", f"{description['num_frames']:,} ({description['units_per_hour_before']:,.0f} an hour)")
    yield from _row(
        "units", f"{description['num_units']:,} without repeats ({description['units_per_hour']:,.0f} an hour)"
    )
    for remark in description["remarks"]:
        yield from _row("note", remark)
    entropy, perplexity = description["unit_entropy_bits"], description["unit_perplexity"]
    unused = description["unused_units"]
    yield from _row(
        "entropy", f"{entropy:.2f} bits: perplexity {perplexity:.1f} of {size:,}; {unused:,} units never occur"
    )
    frequent = [f"{row['unit']} {row['share']:.1%}" for row in description["most_frequent_units"]]
    yield from _row("most frequent", ", ".join(frequent))
    yield from _row("frequencies", f"{_bars(description['unit_histogram'])}  most to least frequent")


def _preferences(description: Mapping[str, Any]) -> Iterator[str]:
    yield from _row("pairs", ", ".join(f"{split} {count:,}" for split, count in description["pairs"].items()))
    for name in ("prompt", "chosen", "rejected"):
        lengths = description[f"num_{name}_units"].items()
        yield from _row(f"{name} units", ", ".join(f"{which} {value:,.0f}" for which, value in lengths))
    yield from _row("without text", f"{description['num_without_text']:,}, whose auto-BLEU is not known")
    yield from _row("codebook", description["codebook"])


def _checkpoints(description: Mapping[str, Any]) -> Iterator[str]:
    if not description["steps"]:
        yield from _row("checkpoints", "none yet")
        return
    trains = description["trains"]
    quality, decimals = QUALITY[trains], 2 if trains == "speech_lm" else 4
    label = quality.replace("_", " ")
    yield from _row("trains", trains.replace("speech_lm", "speech LM").replace("_", " "))
    yield from _row("steps", ", ".join(f"{step:,}" for step in description["steps"]))
    yield from _row("seen", _seen(description))
    measured = {name: value for name, value in description[quality].items() if value is not None}
    if measured:
        yield from _row(label, ", ".join(f"{name} {value:,.{decimals}f}" for name, value in measured.items()))
    if description["best_step"] is not None:
        yield from _row("best step", f"{description['best_step']:,}")
    curve = description["validation_curve"]
    stride = math.ceil(len(curve) / MOST_CURVE_POINTS) or 1
    points = curve[::-stride][::-1]  # the newest is among them
    yield from _row("validation", "   ".join(f"{point['step']:,}: {point[quality]:,.{decimals}f}" for point in points))


def _checkpoint(description: Mapping[str, Any]) -> Iterator[str]:
    yield from _row("model", f"{description['architecture']}, {description['num_parameters']:,} parameters")
    if description["holds"] == "speech_lm":
        vocabulary = description["vocabulary"].items()
        yield from _row("vocabulary", ", ".join(f"{name} {value}" for name, value in vocabulary if value is not None))
    elif description["holds"] == "vocoder":
        yield from _row("speaks", f"{description['codebook_size']:,} units, {description['sample_rate_hz']:,} Hz")
        yield from _row("codebook", description["codebook"] or "not stated")
    elif description["holds"] == "pitch_tokenizer":
        told = f"{description['num_codes']} codes at {description['rate_hz']:g} Hz, F0 by {description['extractor']}"
        yield from _row("tokenizer", told)
    elif description["holds"] == "language_classifier":
        yield from _row("languages", ", ".join(description["languages"]))
    if description["progress"]:
        progress = description["progress"]
        yield from _row("trained for", f"{progress['step']:,} steps over {_seen(progress)}")


def _seen(progress: Mapping[str, Any]) -> str:
    if "num_units_seen" in progress:
        return f"{progress['num_units_seen']:,} units"
    if "num_pairs_seen" in progress:
        return f"{progress['num_pairs_seen']:,} preference pairs"
    if "num_frames_seen" in progress:
        return f"{progress['num_frames_seen']:,} frames"
    return f"{progress['num_samples_seen']:,} samples of audio"


def _row(label: str, value: str) -> Iterator[str]:
    """A label and its value, which goes on below itself where it is long."""
    lines = textwrap.wrap(value, WIDTH - LABEL_WIDTH - 2, break_on_hyphens=False) or ["none"]
    for number, line in enumerate(lines):
        yield f"  {'' if number else label:<{LABEL_WIDTH}}{line}"


def _examples(lines: Iterable[str]) -> Iterator[str]:
    """A line each, cut off where it is long."""
    for line in lines:
        yield f"  {'e.g.':<{LABEL_WIDTH}}{line}"


def _clip(line: str) -> str:
    return line if len(line) <= WIDTH or line.startswith("wrong:") else f"{line[: WIDTH - 1]}…"


def _encoder(description: Mapping[str, Any]) -> str:
    return f"{description.get('encoder') or description['name']} at {description['frame_rate_hz']:g} Hz"


def _levels_below(levels: Mapping[str, Any]) -> str:
    shares = [f"{share:.1%} of segments below {level} dBFS" for level, share in levels["share_below_dbfs"].items()]
    return ", ".join(shares)


def _first_units(example: Mapping[str, Any]) -> str:
    return f"{example['num_units']:,} units: {' '.join(map(str, example['first_units']))} …"


def _dropped(dropped: Mapping[str, Mapping[str, Any]]) -> str:
    reasons = []
    for reason, tally in dropped.items():
        # Of an unreadable file the hours are unknown; pauses are dropped without their recording.
        items = f" {tally['items']:,}" if tally["items"] else ""
        hours = f" ({_hours(tally['hours'])})" if tally["hours"] else ""
        reasons.append(reason + items + hours)
    return ", ".join(reasons) or "nothing"


def _spread(quantiles: Mapping[str, float], form: Any) -> str:
    if not quantiles:
        return "none"
    least, low, median, high, most = map(form, quantiles.values())
    return f"{least} to {most}, median {median}; four in five from {low} to {high}"


def _histogram(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in counts.items())


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun.removesuffix('s') if number == 1 else noun}"


def _hours(hours: float) -> str:
    if hours >= 1:
        return f"{hours:,.1f} h"
    return f"{hours * 60:.1f} min" if hours * 60 >= 1 else _seconds(hours * 3600)


def _seconds(seconds: float) -> str:
    return f"{seconds:,.1f} s"


def _bars(counts: Sequence[int]) -> str:
    """Units from the most to the least frequent, as bars of as many units each."""
    ordered = sorted(counts, reverse=True)
    num_bars = min(BAR_WIDTH, len(ordered))
    edges = [bar * len(ordered) // num_bars for bar in range(num_bars + 1)]
    heights = [sum(ordered[start:end]) / (end - start) for start, end in itertools.pairwise(edges)]
    top = max(heights) or 1.0
    return "".join(" ▁▂▃▄▅▆▇█"[math.ceil(8 * height / top)] for height in heights)
