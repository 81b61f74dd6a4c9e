"""Contexts with a right and a wrong ending, each as text, as audio, or as both.

<file>.jsonl    a line a pair: {"id": "1", "context": PIECE, "right": PIECE, "wrong": PIECE}, and perhaps "group";
                PIECE is {"text": "...", "audio": "clip.wav", "start_s": 0.0, "end_s": 7.2}, of which text or audio may
                be left out, and so may the times; audio is relative to the file
<folder>        <name>_mutual.wav, <name>_correct.wav, <name>_incorrect.wav, and .txt beside each (slamkit's)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pipeline.corpora.names import beside_table
from pipeline.corpora.tables import number, read_json_lines
from pipeline.errors import TwistError, brief
from pipeline.evaluation.item_units import AudioItem
from pipeline.files import storage

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

# Beside the audio of `twist make-benchmark storycloze`.
PAIRS = "pairs.jsonl"
PIECES = ("context", "right", "wrong")
SLAMKIT = {"context": "mutual", "right": "correct", "wrong": "incorrect"}


@dataclass(frozen=True)
class Piece:
    """A context or an ending: its words, its audio, or both."""

    text: str | None
    audio: AudioItem | None


@dataclass(frozen=True)
class ClozePair:
    """A context, the ending that fits and one that does not.

    Attributes:
        pair_id: Unique in the set.
        group: What the pair says nothing new beside.
        context, right, wrong: The pieces.
    """

    pair_id: str
    group: str
    context: Piece
    right: Piece
    wrong: Piece

    @property
    def pieces(self) -> tuple[Piece, Piece, Piece]:
        """Context, right and wrong ending."""
        return self.context, self.right, self.wrong


def read_cloze(source: str) -> list[ClozePair]:
    """The pairs of a JSONL file or of a folder of slamkit's.

    Raises:
        TwistError: there is none, or a line is no pair.
    """
    if not source.lower().endswith(".jsonl"):
        pairs = _of_folder(source)
    elif storage.exists(source):
        rows = enumerate(read_json_lines(source), start=1)
        pairs = [_pair(row, source, f"{source}, line {number}") for number, row in rows]
    else:
        raise TwistError(f"there is no file of contexts and endings {source}")
    if not pairs:
        raise TwistError(f"{source} holds no contexts with endings")
    if len({pair.pair_id for pair in pairs}) < len(pairs):
        raise TwistError(f"{source} has two pairs of one id")
    return pairs


def _pair(row: Mapping[str, Any], uri: str, where: str) -> ClozePair:
    pair_id = str(row.get("id", ""))
    if not pair_id:
        raise TwistError(f'{where} has no "id"')
    context, right, wrong = (_piece(row.get(name), name, pair_id, uri, where) for name in PIECES)
    return ClozePair(pair_id, str(row.get("group") or pair_id), context, right, wrong)


def _piece(told: Any, name: str, pair_id: str, uri: str, where: str) -> Piece:
    if not isinstance(told, dict) or not (told.get("text") or told.get("audio")):
        raise TwistError(f'{where}: {brief(told)} is no {name}: {{"text": "...", "audio": "clip.wav"}}, one or both')
    text, path = told.get("text"), told.get("audio")
    if not all(one is None or isinstance(one, str) for one in (text, path)):
        raise TwistError(f"{where}: text and audio of the {name} must be strings")
    if path is None:
        return Piece(text, None)
    start_s, end_s = number(told.get("start_s", 0.0)), number(told.get("end_s", 0.0))
    if start_s is None or end_s is None or ("end_s" in told and end_s <= start_s):
        raise TwistError(f"{where}: the {name} has no stretch of time in start_s and end_s")
    item = AudioItem(f"{pair_id}/{name}", beside_table(uri, path, where), start_s, end_s if "end_s" in told else None)
    return Piece(text, item)


def _of_folder(folder: str) -> list[ClozePair]:
    names: Sequence[str] = storage.list_files(folder)
    ends = f"_{SLAMKIT['context']}.wav"
    stems = sorted(name.removesuffix(ends) for name in names if name.endswith(ends))
    if not stems:
        raise TwistError(f"{folder} is neither a .jsonl file nor a folder with files <name>{ends}")
    there = set(names)
    pairs = []
    for stem in stems:
        pieces = []
        for piece, suffix in SLAMKIT.items():
            audio, text = f"{stem}_{suffix}.wav", f"{stem}_{suffix}.txt"
            if audio not in there:
                raise TwistError(f"{folder} has {stem}{ends} but no {audio}")
            words = storage.read_bytes(storage.join(folder, text)).decode(errors="replace") if text in there else ""
            item = AudioItem(f"{stem}/{piece}", storage.join(folder, audio))
            pieces.append(Piece(words.strip() or None, item))
        pairs.append(ClozePair(stem, stem, *pieces))
    return pairs
