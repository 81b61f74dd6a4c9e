"""ABX as a benchmark: tokens of an item file or of alignments, in each condition, of units and of features.

    triphone-within    tokens reach over the phones beside them, which are the same in A, B and X
    phoneme-within     tokens are the phones alone, and those beside them are the same
    phoneme-any        tokens are the phones alone, and those beside them may differ

each within speakers and across them.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc
import torch

from model.encoder.encoder import load_encoder
from pipeline.audio.read import Span
from pipeline.errors import TwistError
from pipeline.evaluation.measures import Measure
from pipeline.evaluation.results import LeftOut
from pipeline.evaluation.units.abx import abx
from pipeline.evaluation.units.phone_tokens import cut, tokens_of
from pipeline.evaluation.units.spoken_files import matches
from pipeline.speaking.tokenizer import encoder_of
from pipeline.speaking.wav import read_clip

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from pipeline.evaluation.config import Condition, UnitsConfig
    from pipeline.evaluation.item_units import UnitRow
    from pipeline.evaluation.results import Result
    from pipeline.evaluation.subject import Subject
    from pipeline.evaluation.units.abx import Contexts, Speakers, Token
    from pipeline.evaluation.units.alignments import Interval
    from pipeline.evaluation.units.phone_tokens import PhoneToken, TokenSpan
    from pipeline.evaluation.units.spoken_files import SpokenFile

    Tokens = dict[TokenSpan, list[PhoneToken]]

RULE = "Libri-Light: error by contexts, mean over these, over speakers, over ordered pairs of phones"
CONDITIONS: dict[Condition, tuple[TokenSpan, Contexts]] = {
    "triphone-within": ("triphone", "within"),
    "phoneme-within": ("phoneme", "within"),
    "phoneme-any": ("phoneme", "any"),
}
SPEAKERS: tuple[Speakers, ...] = ("within", "across")


def abx_results(
    subject: Subject,
    listed: Sequence[PhoneToken] | None,
    phones: Mapping[str, Sequence[Interval]],
    files: Mapping[str, SpokenFile],
    units: Mapping[str, UnitRow],
    data: str,
) -> Iterator[Result]:
    """ABX of units, and of features if these are asked for.

    Args:
        subject: What is measured.
        listed: The tokens of an item file; None: those of the alignments.
        phones: Alignments, by file.
        files: All audio files.
        units: Those that have units.
        data: A fingerprint of all these.

    Raises:
        TwistError: no file that has units has tokens, no speaker is known, or the tokens make no triple.
    """
    config = subject.config.units
    if listed is None:
        tokens, left_out = _of_alignments(config, phones, files)
    else:
        tokens, left_out = _of_items(config, listed, files, units)
    frames = {name: row.frames for name, row in units.items()}
    yield _result(subject, "abx", tokens, frames, data, left_out)
    if config.features:
        in_use = dict.fromkeys(token.file for of_span in tokens.values() for token in of_span)
        features = _features(subject, [files[name] for name in in_use])
        yield _result(subject, "abx-features", tokens, features, data, left_out)


def _of_alignments(
    config: UnitsConfig, phones: Mapping[str, Sequence[Interval]], files: Mapping[str, SpokenFile]
) -> tuple[Tokens, list[LeftOut]]:
    speakers = {name: speaker for name in phones if (speaker := files[name].speaker) is not None}
    if not speakers:
        raise TwistError(
            f"ABX needs speakers: put the files of {config.audio} into a folder a speaker, name them by "
            f"--evaluation.units.speakers, or do without ABX by --evaluation.units.conditions []"
        )
    left_out = [
        LeftOut(name, "no_speaker", "it is in no speaker's folder, and the table does not name it")
        for name in phones
        if name not in speakers
    ]
    tokens: Tokens = {
        span: [token for name, speaker in speakers.items() for token in tokens_of(name, phones[name], speaker, span)]
        for span in dict.fromkeys(CONDITIONS[condition][0] for condition in config.conditions)
    }
    return tokens, left_out


def _of_items(
    config: UnitsConfig,
    listed: Sequence[PhoneToken],
    files: Mapping[str, SpokenFile],
    units: Mapping[str, UnitRow],
) -> tuple[Tokens, list[LeftOut]]:
    names = dict.fromkeys(token.file for token in listed)
    places = {name: file for name, file in matches(names, files).items() if file in units}
    if not places:
        raise TwistError(f"none of the {len(names)} files that {config.items} names is usable audio in {config.audio}")
    left_out = [
        LeftOut(name, "missing", "the item file names it, and there is no usable audio of this name")
        for name in names
        if name not in places
    ]
    tokens = [replace(token, file=places[token.file]) for token in listed if token.file in places]
    return {config.items_span: tokens}, left_out


def _features(subject: Subject, files: Sequence[SpokenFile]) -> dict[str, NDArray[Any]]:
    """The encoder's features [F, D] of files, by name: made here, one file at a time, and not kept on disk."""
    encoder = load_encoder(encoder_of(subject.codebook, subject.device))
    features = {}
    for number, file in enumerate(files):
        wav = read_clip(Span(file.uri, None, 0.0, math.inf), file.uri)
        with torch.inference_mode():
            features[file.name] = encoder.encode([torch.from_numpy(wav)])[0].cpu().numpy()
        subject.report(number + 1, len(files), "files")
    return features


def _result(
    subject: Subject,
    name: str,
    tokens: Tokens,
    frames: Mapping[str, NDArray[Any]],
    data: str,
    left_out: Sequence[LeftOut],
) -> Result:
    config = subject.config.units
    with_frames = {
        span: cut(of_span, frames, subject.frame_rate_hz, config.frame_rule) for span, of_span in tokens.items()
    }
    notes = [
        f"{num_without:,} of {len(of_span):,} {span}s have no frame"
        for span, of_span in tokens.items()
        if (num_without := len(of_span) - len(with_frames[span]))
    ]
    errors = _errors(with_frames, config, subject.seed)
    notes += [f"{told}: there are no A, B and X" for told, table in errors.items() if not len(table)]
    measures = [Measure(told, "error", where=told, mean_over="pair") for told, table in errors.items() if len(table)]
    if not measures:
        raise TwistError(
            f"ABX: in none of the conditions {', '.join(config.conditions)} do the {' and '.join(tokens)}s hold a "
            f"phone twice, and another one by the same speaker, in the same context"
        )
    table = pa.concat_tables(errors.values())
    for measure in measures:
        table = table.append_column(measure.name, pc.equal(table["condition"], measure.name))
    return subject.result(
        name,
        measures,
        table,
        rule=RULE,
        settings={
            "folder": config.audio,
            "source": config.items or config.alignments,
            "frame_rule": config.frame_rule,
            "max_tokens": config.max_tokens,
            "max_x_speakers": config.max_x_speakers,
            "distance": "0 of equal units, else 1" if name == "abx" else "angle of features",
        },
        data=data,
        left_out=left_out,
        notes=notes,
        needs_lm=False,
    )


def _errors(tokens: Mapping[TokenSpan, Sequence[Token]], config: UnitsConfig, seed: int) -> dict[str, pa.Table]:
    """The errors in each condition that the tokens are fit for, within speakers and across, by name."""
    tables = {}
    for condition in config.conditions:
        span, contexts = CONDITIONS[condition]
        for speakers in SPEAKERS if span in tokens else ():
            told = f"{condition}, {speakers} speakers"
            table = abx(
                tokens[span],
                speakers=speakers,
                contexts=contexts,
                max_tokens=config.max_tokens,
                max_x_speakers=config.max_x_speakers,
                seed=seed,
            )
            item_ids = pc.binary_join_element_wise(told, table["item_id"], ": ")
            table = table.set_column(0, "item_id", item_ids)
            tables[told] = table.append_column("condition", pa.array([told] * len(table), pa.string()))
    return tables
