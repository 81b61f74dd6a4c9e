"""The likeliest way to say a text, frame by frame, under CTC: Viterbi's algorithm on the text's units and blanks.

Memory grows with the square root of the number of frames: every so often the scores are kept, and between them the
choices are made a second time, on the way back.
"""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Sequence


@torch.inference_mode()
def align(log_probs: Sequence[Tensor], targets: Sequence[Sequence[int]], blank: int) -> list[Tensor | None]:
    """Aligns texts to frames; texts of a batch do not influence each other.

    Args:
        log_probs: Of each text, the log-probabilities of all units [F, C], on one device.
        targets: Of each text, its units [U].
        blank: CTC's blank among the C units.

    Returns:
        Of each text, the index in `targets` of what each frame says [F], -1 for blank, on the CPU; None if the text has
        more units than fit into the frames.
    """
    fitting = [place for place, units in enumerate(targets) if 0 < frames_needed(units) <= len(log_probs[place])]
    paths: list[Tensor | None] = [None] * len(targets)
    if fitting:
        states = _best_states([log_probs[place] for place in fitting], [targets[place] for place in fitting], blank)
        for place, of_text in zip(fitting, states, strict=True):
            paths[place] = torch.where(of_text % 2 == 1, of_text // 2, -1)
    return paths


def frames_needed(units: Sequence[int]) -> int:
    """The fewest frames that can say a text: equal neighbours have a blank between them."""
    return len(units) + sum(unit == before for before, unit in itertools.pairwise(units))


def _best_states(log_probs: Sequence[Tensor], targets: Sequence[Sequence[int]], blank: int) -> list[Tensor]:
    """State 2u + 1 is unit u, the even ones are the blanks around them."""
    device = log_probs[0].device
    lengths = torch.tensor([len(frames) for frames in log_probs], device=device)
    num_states = torch.tensor([2 * len(units) + 1 for units in targets], device=device)
    labels = torch.full((len(targets), int(num_states.max())), blank, device=device)
    for row, units in enumerate(targets):
        labels[row, 1 : 2 * len(units) : 2] = torch.tensor(units, device=device)
    emissions = torch.nn.utils.rnn.pad_sequence(list(log_probs), batch_first=True).double()  # [B, F, C]
    # A blank may be left out between two units that differ.
    may_skip = F.pad((labels[:, 2:] != labels[:, :-2]) & (labels[:, 2:] != blank), (2, 0))

    def step(scores: Tensor, frame: int) -> tuple[Tensor, Tensor]:
        """Scores [B, S] after `frame`, and by how many states each came on."""
        before = F.pad(scores, (2, 0), value=-math.inf)
        skipped = before[:, :-2].masked_fill(~may_skip, -math.inf)
        best, moves = torch.stack((scores, before[:, 1:-1], skipped)).max(dim=0)
        is_over = (frame >= lengths)[:, None]
        after = best + emissions[:, frame].gather(1, labels)
        return torch.where(is_over, scores, after), moves.masked_fill(is_over, 0).to(torch.uint8)

    num_frames = int(lengths.max())
    stride = math.isqrt(num_frames) + 1
    scores = torch.full(labels.shape, -math.inf, dtype=torch.float64, device=device)
    scores[:, :2] = emissions[:, 0].gather(1, labels[:, :2])
    kept = {0: scores}
    for frame in range(1, num_frames):
        scores, _ = step(scores, frame)
        if frame % stride == 0:
            kept[frame] = scores
    last = torch.stack((num_states - 1, num_states - 2), dim=1)
    state = last.gather(1, scores.gather(1, last).argmax(dim=1, keepdim=True))  # [B, 1]
    path = torch.empty(len(targets), num_frames, dtype=torch.int64, device=device)
    for first in reversed(kept):
        moves = []
        scores = kept[first]
        for frame in range(first + 1, min(first + stride, num_frames - 1) + 1):
            scores, move = step(scores, frame)
            moves.append(move)
        for offset in range(len(moves), 0, -1):
            path[:, first + offset] = state[:, 0]
            state = state - moves[offset - 1].gather(1, state)
    path[:, 0] = state[:, 0]
    return [row[:length] for row, length in zip(path.cpu(), lengths.tolist(), strict=True)]
