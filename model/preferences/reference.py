"""The reference model's log-probabilities of all endings: computed once, and kept.

    <folder>/reference-<split>-<key>.parquet    a row a pair: pair_id, chosen, rejected

The key is a hash of the reference's weights, of the pairs and of what they are computed in. DPO needs nothing else of
the reference, so that no second model is in memory while the first is tuned.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import pyarrow as pa
import torch

from model.preferences.dpo import PairLogProbs, ending_log_probs
from pipeline.errors import TwistError
from pipeline.files import parquet, storage

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import nn

    from model.preferences.pair_batches import TokenizedPairs
    from model.training.distributed import Ranks

SCHEMA = pa.schema(
    [
        pa.field("pair_id", pa.string(), nullable=False),
        pa.field("chosen", pa.float64(), nullable=False),
        pa.field("rejected", pa.float64(), nullable=False),
    ]
)
# Tokens of a forward pass without gradients.
TOKENS_AT_ONCE = 16_384


def reference_log_probs(
    folder: str,
    split: str,
    pairs: TokenizedPairs,
    identity: Sequence[str],
    model: Callable[[], nn.Module],
    ranks: Ranks,
) -> PairLogProbs:
    """The log-probabilities of all pairs, [num_pairs] float64 on the CPU: those in `folder`, else computed and kept.

    All processes call this together.

    Args:
        folder: Of the checkpoints.
        split: The pairs' split.
        pairs: The pairs.
        identity: Fingerprints of the reference and of the pairs, and what they are computed in.
        model: Gives the reference, in evaluation mode, if it is needed.
        ranks: The processes, among which the pairs are parted.

    Raises:
        TwistError: the file is damaged.
    """
    key = hashlib.sha256("\n".join([*identity, *pairs.ids]).encode()).hexdigest()[:16]
    uri = storage.join(folder, f"reference-{split}-{key}.parquet")
    if not ranks.from_main(int(ranks.is_main and storage.exists(uri))):
        computed = log_probs(model(), pairs, ranks)
        if ranks.is_main:
            columns = [pa.array(pairs.ids), *(pa.array(part.numpy()) for part in computed)]
            parquet.write(uri, pa.table(columns, schema=SCHEMA))
        ranks.wait_for_main()
    table = ranks.all_or_none(lambda: parquet.read(uri, SCHEMA.names))
    if table["pair_id"].to_pylist() != pairs.ids:
        raise TwistError(f"{uri} is of other pairs; delete it, and it is made again")
    return PairLogProbs(
        *(torch.tensor(table[name].to_pylist(), dtype=torch.float64) for name in ("chosen", "rejected"))
    )


@torch.no_grad()
def log_probs(model: nn.Module, pairs: TokenizedPairs, ranks: Ranks) -> PairLogProbs:
    """The log-probabilities of all pairs under a model, [num_pairs] float64 on the CPU.

    What a pair gets does not depend on the number of processes. `model` is left in the mode that it was in.
    """
    sums = torch.zeros(2, len(pairs), dtype=torch.float64, device=ranks.device)
    was_training = model.training
    model.eval()
    for batch, counts in ranks.rounds(_batches(pairs)):
        found = ending_log_probs(model, pairs.micro_batch(batch))
        if counts:
            sums[:, torch.tensor(batch, device=ranks.device)] = torch.stack(found).double()
    model.train(was_training)
    chosen, rejected = ranks.sum(sums).cpu()
    return PairLogProbs(chosen, rejected)


def _batches(pairs: TokenizedPairs) -> list[list[int]]:
    """Pairs of like length, about TOKENS_AT_ONCE tokens together."""
    batches: list[list[int]] = [[]]
    num_tokens = 0
    for index in sorted(range(len(pairs)), key=pairs.length):
        if batches[-1] and num_tokens + pairs.length(index) > TOKENS_AT_ONCE:
            batches.append([])
            num_tokens = 0
        batches[-1].append(index)
        num_tokens += pairs.length(index)
    return batches
