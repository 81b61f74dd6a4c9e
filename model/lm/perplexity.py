"""How well a speech LM predicts units, beside what counting them alone gives."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch
from torch import Tensor

from model.lm.document_attention import attention_within_documents
from model.lm.loader import MicroBatch, collate
from model.lm.samples import UnitSamples
from model.lm.speech_lm import bare_model, next_unit_nll
from model.training.distributed import Ranks

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import nn

    from model.lm.vocab import Vocabulary

# Samples whose units are counted together.
COUNTED_AT_ONCE = 1024


@dataclass(frozen=True)
class Perplexity:
    """A mean over targets, which are all units of the samples but the first of each."""

    nats_per_unit: float
    perplexity: float
    num_targets: int


@dataclass(frozen=True)
class PerplexityReport:
    """Perplexity per corpus, each target counting alike, and the mean of the corpora, each corpus counting alike.

    `mean.perplexity` is the mean of the perplexities (by which the paper chooses checkpoints), not the exponential of
    `mean.nats_per_unit`, the mean of the corpora's nats.
    """

    mean: Perplexity
    corpora: dict[str, Perplexity]

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> Self:
        """Back from `dataclasses.asdict`."""
        corpora = {name: Perplexity(**values) for name, values in content["corpora"].items()}
        return cls(Perplexity(**content["mean"]), corpora)

    @classmethod
    def of(cls, corpora: dict[str, Perplexity]) -> Self:
        """The report of these corpora."""
        mean = Perplexity(
            float(np.mean([corpus.nats_per_unit for corpus in corpora.values()])),
            float(np.mean([corpus.perplexity for corpus in corpora.values()])),
            sum(corpus.num_targets for corpus in corpora.values()),
        )
        return cls(mean, corpora)


def perplexity(
    model: nn.Module,
    vocabulary: Vocabulary,
    samples: UnitSamples,
    *,
    batch_size: int = 16,
    ranks: Ranks | None = None,
) -> PerplexityReport:
    """Perplexity of the samples under a speech LM; takes and raises what `sample_nll` does."""
    return report_of(sample_nll(model, vocabulary, samples, batch_size=batch_size, ranks=ranks), samples)


def sample_nll(
    model: nn.Module,
    vocabulary: Vocabulary,
    samples: UnitSamples,
    *,
    batch_size: int = 16,
    ranks: Ranks | None = None,
) -> NDArray[np.float64]:
    """Nats of each sample under a speech LM, [num_samples]: of all its units but the first.

    Args:
        model: A causal LM; it is left in the mode (train or eval) that it was in.
        vocabulary: The model's.
        samples: What to predict.
        batch_size: Samples per forward pass; samples of like length share one.
        ranks: The processes among which the samples are parted; all of them must call this. None: this one alone.

    Raises:
        TwistError: the samples' units come from another codebook than the model's.
    """
    vocabulary = vocabulary.for_dataset(samples.dataset)
    ranks = ranks or Ranks(device=next(model.parameters()).device)
    by_length = np.argsort(-samples.num_units, kind="stable")
    batches = [by_length[start : start + batch_size] for start in range(0, len(samples), batch_size)]
    nll = np.zeros(len(samples))
    was_training = model.training
    model.eval()
    with torch.no_grad(), attention_within_documents(bare_model(model)):
        for batch, counts in ranks.rounds(batches):
            micro_batch = collate([samples[int(i)] for i in batch], vocabulary)
            nll_of_all = next_unit_nll(model, *_behind(vocabulary.start_ids, micro_batch))
            batch_nll = nll_of_all[:, len(vocabulary.start_ids) :]  # the first unit is given
            if counts:
                nll[batch] = batch_nll.double().sum(dim=1).cpu().numpy()
    model.train(was_training)
    return ranks.sum(torch.from_numpy(nll).to(ranks.device)).cpu().numpy()


def _behind(start_ids: tuple[int, ...], micro_batch: MicroBatch) -> tuple[Tensor, list[int]]:
    """The token ids, concatenated, and lengths of samples that each stand behind `start_ids`."""
    start = torch.tensor(start_ids, dtype=torch.long)
    documents = [
        torch.cat([start, document]) for document in torch.split(micro_batch.token_ids, list(micro_batch.lengths))
    ]
    return torch.cat(documents), list(map(len, documents))


def unit_counts(samples: UnitSamples, vocabulary: Vocabulary, ranks: Ranks | None = None) -> NDArray[np.int64]:
    """How often each unit occurs, [num_units]; the samples are parted among `ranks`, all of which must call this."""
    told = samples.told_unit_counts()
    if told is not None:
        return told
    ranks = ranks or Ranks()
    counts = np.zeros(vocabulary.vocab_size, dtype=np.int64)
    for start in range(ranks.rank * COUNTED_AT_ONCE, len(samples), ranks.world_size * COUNTED_AT_ONCE):
        found = samples.read(np.arange(start, min(start + COUNTED_AT_ONCE, len(samples))))
        # None stands for a sample in a damaged shard that is to be skipped.
        if units := [one for one in found if one is not None]:
            counts += np.bincount(vocabulary.encode(np.concatenate(units)), minlength=vocabulary.vocab_size)
    return ranks.sum(torch.from_numpy(counts).to(ranks.device)).cpu().numpy()[vocabulary.offset :]


def unigram_perplexity(counts: NDArray[np.int64], samples: UnitSamples) -> PerplexityReport:
    """Perplexity of the very targets that `perplexity` scores, each unit predicted by its frequency alone.

    Args:
        counts: [num_units], of the training units; one is added to each, so that no unit is impossible.
        samples: What to predict.
    """
    unit_nll = -np.log((counts + 1) / (counts.sum() + len(counts)))
    nll = np.fromiter((unit_nll[samples[i][1:]].sum() for i in range(len(samples))), np.float64, len(samples))
    return report_of(nll, samples)


def report_of(nll: NDArray[np.float64], samples: UnitSamples) -> PerplexityReport:
    """The samples' nats [num_samples], summed by corpus."""
    known, codes = samples.corpus_codes()
    names = sorted(known[code] for code in np.unique(codes))
    corpus = np.array([names.index(name) if name in names else -1 for name in known])[codes]
    nats = np.bincount(corpus, nll)
    num_targets = np.bincount(corpus, samples.num_units - 1).astype(np.int64)
    with np.errstate(over="ignore"):
        corpora = {
            str(name): Perplexity(float(nats[i] / num_targets[i]), float(np.exp(nats[i] / num_targets[i])), int(n))
            for i, (name, n) in enumerate(zip(names, num_targets, strict=True))
        }
    return PerplexityReport.of(corpora)
