"""What a sequence may not go on with, and when it ends: controls on token ids, whatever these stand for.

For each sequence of a batch, before its next token is drawn:

1. Tokens that it has already become less likely (repetition penalty).
2. Tokens that would repeat an n-gram of it are banned, and so are the ids that end it before its least length.

It ends with an end id, at its greatest length or, once it has its least length, with an id of a pause.

Source: Keskar et al. 2019 (CTRL), section 4.1, for the penalty; Paulus et al. 2017, section 2.5, for n-grams. Order and
details are those of transformers' logits processors, but for the ids that end a sequence: these are not penalized,
since BOS may be one of them, and every sequence has that.
"""

from __future__ import annotations

import math
from collections import defaultdict, deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

    from torch import Tensor

NONE: frozenset[int] = frozenset()


class GrowingSequence:
    """A sequence that is being continued.

    Attributes:
        ids: Its token ids, those of the prompt first.
        num_prompt_ids: How many are the prompt's.
        min_ids: Before it has so many, it does not end; the prompt's count.
        max_ids: It ends when it has so many; the prompt's count.
        end_ids: Ids of which each ends it.
        pause_ids: Ids of which each ends it, once it has `min_ids`.
    """

    def __init__(
        self,
        prompt_ids: Iterable[int],
        *,
        min_ids: int = 0,
        max_ids: int,
        end_ids: frozenset[int] = NONE,
        pause_ids: frozenset[int] = NONE,
        no_repeat_ngram: int | None = None,
    ) -> None:
        self.ids = list(prompt_ids)
        self.num_prompt_ids = len(self.ids)
        self.min_ids = min_ids
        self.max_ids = max_ids
        self.end_ids = end_ids
        self.pause_ids = pause_ids
        self._ngrams = None if no_repeat_ngram is None else _Ngrams(no_repeat_ngram, self.ids)

    def append(self, token_id: int) -> None:
        """Adds the token that was drawn."""
        self.ids.append(token_id)
        if self._ngrams is not None:
            self._ngrams.append(token_id)

    @property
    def is_finished(self) -> bool:
        """Whether nothing is to follow."""
        if len(self.ids) >= self.max_ids:
            return True
        if len(self.ids) == self.num_prompt_ids:
            return False
        return self.ids[-1] in self.end_ids or (len(self.ids) >= self.min_ids and self.ids[-1] in self.pause_ids)

    def banned(self) -> Collection[int]:
        """The ids that may not come next."""
        repeating = NONE if self._ngrams is None else self._ngrams.repeating()
        return repeating | self.end_ids if len(self.ids) < self.min_ids else repeating

    def penalized(self) -> Collection[int]:
        """The ids that a repetition penalty makes less likely."""
        return set(self.ids) - self.end_ids


class _Ngrams:
    """The n-grams of a growing sequence, by their first n - 1 tokens."""

    def __init__(self, order: int, ids: Iterable[int]) -> None:
        self._order = order
        self._last: deque[int] = deque(maxlen=order - 1)
        self._followers: dict[tuple[int, ...], frozenset[int]] = defaultdict(frozenset)
        for token_id in ids:
            self.append(token_id)

    def append(self, token_id: int) -> None:
        if len(self._last) == self._order - 1:
            self._followers[tuple(self._last)] |= {token_id}
        self._last.append(token_id)

    def repeating(self) -> frozenset[int]:
        """The tokens with which the sequence would have an n-gram for the second time."""
        return self._followers.get(tuple(self._last), NONE) if len(self._last) == self._order - 1 else NONE


@dataclass(frozen=True)
class Lengths:
    """How long a continuation lasts, in seconds; None: nothing is asked for."""

    min_s: float | None
    max_s: float | None

    def in_tokens(self, seconds_per_token: float) -> tuple[int, int | None]:
        """The fewest and the most tokens of a continuation at this pace; None: any number."""
        fewest = 0 if self.min_s is None else math.ceil(self.min_s / seconds_per_token)
        most = None if self.max_s is None else max(1, int(self.max_s / seconds_per_token))
        return fewest, most


def controlled(logits: Tensor, sequences: Sequence[GrowingSequence], repetition_penalty: float) -> Tensor:
    """The logits [B, V] of the sequences' next tokens, after penalty and bans.

    Where every token would be banned, none is: n-grams of few kinds of tokens are used up at some time.
    """
    if repetition_penalty != 1:
        places = _places([sequence.penalized() for sequence in sequences], logits)
        seen = logits[places]
        logits = logits.clone()
        logits[places] = torch.where(seen < 0, seen * repetition_penalty, seen / repetition_penalty)
    banned = [sequence.banned() for sequence in sequences]
    if any(banned):
        without = logits.clone()
        without[_places(banned, logits)] = -math.inf
        is_left = (without > -math.inf).any(dim=1, keepdim=True)
        logits = torch.where(is_left, without, logits)
    return logits


def _places(ids: Sequence[Collection[int]], logits: Tensor) -> tuple[Tensor, Tensor]:
    """The ids of each row as row and column numbers."""
    places = torch.tensor([(row, token) for row, of_row in enumerate(ids) for token in of_row], dtype=torch.long)
    rows, columns = places.reshape(-1, 2).T.to(logits.device)
    return rows, columns
