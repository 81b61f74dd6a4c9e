"""Sequences laid into rows in which what several of them begin with stands once.

The members of a pair often begin alike: a story has one context and several endings, a sentence differs from its twin
in one word. A causal model computes the same for equal beginnings, so they need to be computed once.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

# A prefix costs an attention call its mask and copies of keys; a few tokens are cheaper computed again.
FEWEST_SHARED = 8


@dataclass
class SharedRow:
    """Documents one after another, each of which may continue a part of what stands before it.

    Attributes:
        members: The numbers of the sequences that are in it.
        positions: Of each member, the place in the row of each of its tokens, [n].
        documents: Of each document, its own tokens, [n], one at least.
        prefixes: Of each document, the places that it continues, [P], or None.
        num_tokens: All documents' tokens.
    """

    members: list[int] = field(default_factory=list)
    positions: list[NDArray[np.int64]] = field(default_factory=list)
    documents: list[NDArray[np.int64]] = field(default_factory=list)
    prefixes: list[NDArray[np.int64] | None] = field(default_factory=list)
    num_tokens: int = 0

    def add(self, member: int, token_ids: NDArray[np.int64], num_shared: int) -> None:
        """Adds a sequence whose first `num_shared` tokens are those of the last one."""
        prefix = self.positions[-1][:num_shared] if num_shared else np.zeros(0, np.int64)
        own = token_ids[num_shared:]
        places = np.arange(self.num_tokens, self.num_tokens + len(own))
        self.members.append(member)
        self.positions.append(np.concatenate([prefix, places]))
        if len(own):
            self.documents.append(own)
            self.prefixes.append(prefix if num_shared else None)
            self.num_tokens += len(own)


def shared_rows(
    sequences: Sequence[NDArray[np.int64]], tokens_at_once: int, *, share: bool = True
) -> Iterator[SharedRow]:
    """Each sequence once, in rows of about `tokens_at_once` tokens.

    In sorted order no sequence has more in common with any before it than with its neighbour, so that every common
    beginning of a row's sequences is found.

    Args:
        sequences: Token ids, [n] each, n at least 1.
        tokens_at_once: Most tokens of a row, unless a sequence has more.
        share: Whether beginnings are shared; without, equal sequences alone are.
    """
    row = SharedRow()
    last = np.zeros(0, np.int64)
    for member in sorted(range(len(sequences)), key=lambda member: sequences[member].tobytes()):
        token_ids = sequences[member]
        num_shared = _num_shared(last, token_ids)
        if num_shared < len(token_ids) and (num_shared < FEWEST_SHARED or not share):
            num_shared = 0
        num_new = len(token_ids) - num_shared
        if row.members and num_new and row.num_tokens + num_new > tokens_at_once:
            yield row
            row, num_shared = SharedRow(), 0
        row.add(member, token_ids, num_shared)
        last = token_ids
    if row.members:
        yield row


def _num_shared(first: NDArray[np.int64], second: NDArray[np.int64]) -> int:
    """How many tokens two sequences begin with in common."""
    length = min(len(first), len(second))
    different = np.flatnonzero(first[:length] != second[:length])
    return int(different[0]) if len(different) else length
