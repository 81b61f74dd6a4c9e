"""The page of text: what shards of text hold, what words go with speech, and how the two become sequences."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow.compute as pc

from pipeline import stage
from pipeline.errors import TwistError
from pipeline.files import parquet, storage
from pipeline.report.chart import Chart, histogram
from pipeline.report.draw_rows import draw_rows
from pipeline.runs import TEXT
from pipeline.text_shards import open_text, read_document

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from pipeline.report.as_trained import AsTrained
    from pipeline.report.listening import Group
    from pipeline.report.training import KindSeen
    from pipeline.shards import Dataset
    from pipeline.text_shards import Document, TextDataset

LONGEST_SHOWN = 120
LENGTH_EDGES = (0, *(2**power for power in range(3, 18)), np.inf)
LENGTH_LABELS = (
    "< 8",
    *(f"{2**power:,}–{2 ** (power + 1) - 1:,}" for power in range(3, 17)),
    f"≥ {2**17:,}",
)
NO_TOKENIZER = "the recipe names no tokenizer, or another than the shards were made with"


@dataclass(frozen=True)
class TextTotal:
    """What shards of text hold of a corpus in one split."""

    corpus: str
    split: str
    num_documents: int
    num_tokens: int


@dataclass(frozen=True)
class WordsTotal:
    """Samples of speech that carry words, of a corpus in one split."""

    corpus: str
    split: str
    num_samples: int
    hours: float
    num_words: int
    num_text_tokens: int


@dataclass(frozen=True)
class DocumentShown:
    """A document: its place, and how it begins, as text where there is its tokenizer, and as tokens."""

    key: str
    source: str
    row: int
    split: str
    num_tokens: int
    text: str
    tokens: tuple[int, ...]


@dataclass(frozen=True)
class DocumentsOfCorpus:
    """Some documents of a corpus."""

    corpus: str
    documents: tuple[DocumentShown, ...]


@dataclass(frozen=True)
class TextDrop:
    """What packing text left out for one reason, and an example's name and detail."""

    reason: str
    num_documents: int
    example: str
    detail: str


@dataclass(frozen=True)
class TextFigures:
    """All that a run has of text. `no_text` says why documents are shown as tokens alone, if they are."""

    num_documents: int
    num_tokens: int
    vocab_size: int | None
    totals: tuple[TextTotal, ...]
    words: tuple[WordsTotal, ...]
    kinds: tuple[KindSeen, ...]
    dropped: tuple[TextDrop, ...]
    documents: tuple[DocumentsOfCorpus, ...]
    no_text: str
    interleaved: tuple[Group, ...]
    is_expressive: bool
    charts: tuple[Chart, ...]

    @property
    def hours_with_words(self) -> float:
        """Of speech."""
        return sum(one.hours for one in self.words)


def read_text(
    run: str,
    dataset: Dataset | None,
    as_trained: AsTrained,
    kinds: Sequence[KindSeen],
    interleaved: Sequence[Group],
    size: int,
    seed: int,
) -> TextFigures | None:
    """Reads the figures of finished shards of text, a row group at a time, and of words in shards of units.

    Args:
        run: The run.
        dataset: Its shards of units, where they are finished.
        as_trained: What its recipe says of text.
        kinds: What its training has seen.
        interleaved: Clips of samples that carry words.
        size: Documents to show of each corpus.
        seed: Of the draw.

    Returns:
        None where there are neither documents nor words.

    Raises:
        TwistError: a table or a shard is damaged.
    """
    text = open_text(storage.join(run, TEXT)) if stage.is_finished(run, TEXT) else None
    told = dataset.info.get("text") if dataset else None
    words = [_words_total(row) for row in told["totals"] if row["num_samples"]] if told else []
    if text is None and not words:
        return None
    totals = [] if text is None else [TextTotal(**row) for row in text.info["totals"]]
    documents, no_text = _documents(text, as_trained.tokenizer, size, seed) if text else ((), "")
    vocab_size = text.vocab_size if text else told["vocab_size"] if told else None
    return TextFigures(
        sum(total.num_documents for total in totals),
        sum(total.num_tokens for total in totals),
        vocab_size,
        tuple(totals),
        tuple(words),
        tuple(kinds),
        _dropped(run) if text else (),
        documents,
        no_text,
        tuple(interleaved),
        dataset is not None and dataset.has_streams,
        (_lengths(text),) if text else (),
    )


def _words_total(row: dict[str, Any]) -> WordsTotal:
    return WordsTotal(**{name: row[name] for name in WordsTotal.__dataclass_fields__})


def _lengths(text: TextDataset) -> Chart:
    lengths: defaultdict[str, NDArray[np.int64]] = defaultdict(lambda: np.zeros(len(LENGTH_LABELS), np.int64))
    for table in text.rows(["corpus", "num_tokens"]):
        num_tokens = table["num_tokens"].to_numpy()
        for corpus in pc.unique(table["corpus"]).to_pylist():
            is_of_it = pc.equal(table["corpus"], corpus).to_numpy(zero_copy_only=False)
            lengths[corpus] += np.histogram(num_tokens[is_of_it], LENGTH_EDGES)[0]
    return histogram("How long documents are", "tokens", "documents", LENGTH_LABELS, lengths)


def _dropped(run: str) -> tuple[TextDrop, ...]:
    tallies = stage.read_facts(run, TEXT)["counts"]["dropped"]
    examples: dict[str, tuple[str, str]] = {}
    for table in parquet.iterate(storage.join(run, TEXT, stage.DROPPED), ["id", "reason", "detail"]):
        for reason in pc.unique(table["reason"]).to_pylist():
            row = table.filter(pc.equal(table["reason"], reason)).slice(0, 1).to_pylist()[0]
            examples.setdefault(reason, (row["id"], row["detail"] or ""))
    drops = [TextDrop(reason, tally["items"], *examples.get(reason, ("", ""))) for reason, tally in tallies.items()]
    return tuple(sorted(drops, key=lambda drop: (-drop.num_documents, drop.reason)))


def _documents(
    text: TextDataset, tokenizer: str | None, size: int, seed: int
) -> tuple[tuple[DocumentsOfCorpus, ...], str]:
    """Some documents of each corpus; and why they have no text, if they have none."""
    decode = _decoder(tokenizer, text.tokenizer)
    drawn = draw_rows(text.rows(text.schema.names), "corpus", size, seed)
    shown = [
        DocumentsOfCorpus(corpus, tuple(_shown(read_document(text, row), decode) for row in rows))
        for corpus, rows in drawn.items()
    ]
    return tuple(shown), "" if decode else NO_TOKENIZER


def _decoder(folder: str | None, fingerprint: str) -> Any | None:
    """The tokenizer of this fingerprint, if that in `folder` is it."""
    from model.lm.text_tokenizer import fingerprint_of_tokenizer, read_tokenizer

    try:
        return read_tokenizer(folder) if folder and fingerprint_of_tokenizer(folder) == fingerprint else None
    except (TwistError, OSError):  # a tokenizer that has gone, or is elsewhere: tokens say enough
        return None


def _shown(document: Document, decode: Any | None) -> DocumentShown:
    first = document.tokens[:LONGEST_SHOWN].tolist()
    more = " …" if len(document.tokens) > LONGEST_SHOWN else ""
    return DocumentShown(
        document.key,
        document.source,
        document.row,
        document.split,
        len(document.tokens),
        decode.decode(first) + more if decode else "",
        tuple(first),
    )
