"""Is the right ending of a context likelier than the wrong one, where each is written or spoken? Four directions.

    T->T    [TEXT] context ending                  S->S    [SPEECH] context ending
    T->S    [TEXT] context [SPEECH] ending         S->T    [SPEECH] context [TEXT] ending

What is scored is log p(ending | all before it). [TEXT] or [SPEECH] before the ending belongs to the prompt: it is
given, not scored, and the same for both endings. Where an ending is text, its tokens are those that it has behind the
text of the context, also where the context is speech: so are the words behind a switch in what models are trained on.
Where both are speech each is encoded by itself, and a unit that the one ends and the other begins with is one.

The higher score wins; a tie is half a point. Three scores decide, side by side: the mean per token of the ending, their
sum, and the mean per token of context and ending together (without [TEXT] and [SPEECH]), which is what the mean
of whole recordings is (results `ssc` and `tsc`). The sum of these would decide as that of the endings.

Source: Nguyen et al. 2024 (SpiRit-LM), section 4.1, for the directions; it does not say over what it takes its mean.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from model.lm.parts import Part, encode
from model.lm.scoring import token_scores
from pipeline.errors import TwistError
from pipeline.evaluation.measures import GROUP, Measure
from pipeline.evaluation.pairs.likelier import points
from pipeline.evaluation.results import LeftOut
from pipeline.speaking.text_and_speech import TextAndSpeechLM
from pipeline.stage import digest

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from model.lm.modality import Modality
    from pipeline.evaluation.item_units import UnitRow
    from pipeline.evaluation.pairs.cloze import ClozePair, Piece
    from pipeline.evaluation.results import Result
    from pipeline.evaluation.subject import Subject
    from pipeline.speaking.speech_lm import SpeechLM

RULE = "log p(ending | context), mean per token of the ending, share of pairs whose right ending is likelier, ties 0.5"
DIRECTIONS: dict[str, tuple[Modality, Modality]] = {
    "T->T": ("text", "text"),
    "S->S": ("speech", "speech"),
    "T->S": ("text", "speech"),
    "S->T": ("speech", "text"),
}
SCORES = ("mean", "sum", "mean of all")


@dataclass(frozen=True)
class _Task:
    """A pair in one direction: the ids of context and right, and of context and wrong ending, and their lengths."""

    pair: ClozePair
    direction: str
    sequences: tuple[NDArray[np.int64], NDArray[np.int64]]
    num_scored: tuple[int, int]


def directions(
    subject: Subject, name: str, pairs: Sequence[ClozePair], settings: dict[str, Any], notes: Sequence[str] = ()
) -> Result:
    """The result of one set of contexts and endings, in all directions for which it has text and audio.

    Args:
        subject: What is measured: a model of text and speech.
        name: What the result is filed under.
        pairs: The set.
        settings: What the result says of its data.
        notes: What a reader should know.

    Raises:
        TwistError: the model knows no text, it speaks other units, or no pair has a score.
        RunError: a disk or store fails.
    """
    require_text(subject.lm, name)
    model = TextAndSpeechLM(subject.lm)
    audio = [piece.audio for pair in pairs for piece in pair.pieces if piece.audio is not None]
    units = subject.units(audio)
    why = {item.item_id: item for item in units.left_out}
    tasks: list[_Task] = []
    left_out: list[LeftOut] = []
    tried = _tried(pairs)
    for pair in pairs:
        for direction in tried:
            made = _task(pair, direction, model, units.of, why)
            (left_out if isinstance(made, LeftOut) else tasks).append(made)  # type: ignore[arg-type]
    table = _table(subject.lm, tasks)
    missing = [direction for direction in DIRECTIONS if direction not in tried]
    if missing:
        notes = [*notes, f"No pair has what {', '.join(missing)} needs."]
    return subject.result(
        name,
        _measures(),
        table,
        rule=RULE,
        settings=settings,
        data=digest(units.fingerprint, *(str(piece.text) for pair in pairs for piece in pair.pieces)),
        left_out=left_out,
        notes=notes,
    )


def require_text(lm: SpeechLM, benchmark: str) -> None:
    """Refuses a model that knows no text.

    Raises:
        TwistError: it is one of units alone.
    """
    if not lm.vocabulary.text_size:
        raise TwistError(f"{benchmark} needs a model of text and speech, and {lm.path} is one of units alone")


def _tried(pairs: Sequence[ClozePair]) -> list[str]:
    """The directions for which at least one pair has text and audio."""
    return [
        direction
        for direction, modalities in DIRECTIONS.items()
        if any(all(_has(*one) for one in _wanted(pair, modalities)) for pair in pairs)
    ]


def _wanted(pair: ClozePair, modalities: tuple[Modality, Modality]) -> list[tuple[Piece, Modality]]:
    of_context, of_ending = modalities
    return [(pair.context, of_context), (pair.right, of_ending), (pair.wrong, of_ending)]


def _has(piece: Piece, modality: Modality) -> bool:
    return (piece.text if modality == "text" else piece.audio) is not None


def _task(
    pair: ClozePair,
    direction: str,
    model: TextAndSpeechLM,
    units: Mapping[str, UnitRow],
    why: Mapping[str, LeftOut],
) -> _Task | LeftOut:
    name = f"{pair.pair_id} {direction}"
    wanted = _wanted(pair, DIRECTIONS[direction])
    for piece, modality in wanted:
        if not _has(piece, modality):
            return LeftOut(name, f"no_{'text' if modality == 'text' else 'audio'}", "the set has none for it")
        if modality == "speech" and piece.audio is not None and piece.audio.item_id not in units:
            cause = why[piece.audio.item_id]
            return LeftOut(name, cause.reason, f"{cause.item_id}: {cause.detail}")
    sequences, num_scored = [], []
    for ending in (pair.right, pair.wrong):
        before, after = _parts(pair.context, ending, DIRECTIONS[direction], model, units)
        ids = encode([before, after], model.lm.vocabulary)
        positions = getattr(model.lm.model.config, "max_position_embeddings", None)
        if not len(after.values) or not len(before.values):
            return LeftOut(name, "too_short", "nothing is left of the context or an ending")
        if positions is not None and len(ids) > positions:
            return LeftOut(name, "too_long", f"{len(ids)} tokens, but the model takes {positions}")
        sequences.append(np.array(ids, np.int64))
        num_scored.append(len(after.values))
    return _Task(pair, direction, (sequences[0], sequences[1]), (num_scored[0], num_scored[1]))


def _parts(
    context: Piece,
    ending: Piece,
    modalities: tuple[Modality, Modality],
    model: TextAndSpeechLM,
    units: Mapping[str, UnitRow],
) -> tuple[Part, Part]:
    """A context and an ending as the model reads them."""
    of_context, of_ending = modalities
    both = (context, ending)
    texts = iter(model.text_parts([piece.text for piece in both if piece.text is not None]))
    written = [None if piece.text is None else next(texts) for piece in both]

    def part(place: int, modality: Modality) -> Part:
        audio, text = both[place].audio, written[place]
        if modality == "text":
            assert text is not None
            return text
        assert audio is not None
        return Part("speech", units[audio.item_id].units.astype(np.int64))

    before, after = part(0, of_context), part(1, of_ending)
    is_both_spoken = of_context == of_ending == "speech"
    if is_both_spoken and len(after.values) and before.values[-1:] == after.values[:1]:
        after = Part("speech", after.values[1:])
    return before, after


def _table(lm: SpeechLM, tasks: Sequence[_Task]) -> pa.Table:
    """A row a pair and direction. `<score>_right` and `<score>_wrong` are its scores, `right_<score>` its points."""
    nats = iter(token_scores(lm.model, [ids for task in tasks for ids in task.sequences]))
    marks = np.array([*lm.vocabulary.switch_ids, *([] if lm.vocabulary.bos_id is None else [lm.vocabulary.bos_id])])
    rows = []
    for task in tasks:
        row: dict[str, Any] = {"item_id": f"{task.pair.pair_id} {task.direction}", GROUP: task.pair.group}
        row |= {direction: direction == task.direction for direction in DIRECTIONS}
        for side, ids, num_scored in zip(("right", "wrong"), task.sequences, task.num_scored, strict=True):
            of_tokens = next(nats)
            of_ending = float(of_tokens[-num_scored:].sum())
            said = of_tokens[~np.isin(ids[1:], marks)]
            scores = (of_ending / num_scored, of_ending, float(said.sum()) / len(said))
            if not np.isfinite(scores).all():
                raise TwistError(f"{lm.path} gives {row['item_id']} a likelihood that is not finite; take another one")
            row |= {f"{score}_{side}": value for score, value in zip(SCORES, scores, strict=True)}
            row[f"tokens_{side}"] = num_scored
        row |= {f"right_{score}": points(row[f"{score}_right"], row[f"{score}_wrong"]) for score in SCORES}
        rows.append(row)
    return pa.Table.from_pylist(rows)


def _measures() -> list[Measure]:
    return [
        Measure(f"{direction}, {score}", f"right_{score}", where=direction)
        for score in SCORES
        for direction in DIRECTIONS
    ]
