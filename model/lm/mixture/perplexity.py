"""How well a speech and text LM predicts each kind of sequence, and text beside the text LM that it began as."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence

from model.lm.document_attention import attention_within_documents
from model.lm.loader import MicroBatch
from model.lm.perplexity import Perplexity, PerplexityReport
from model.lm.speech_lm import bare_model, next_unit_nll
from model.training.distributed import Ranks

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray
    from torch import Tensor, nn

    from model.lm.mixture.sources import Source
    from model.lm.vocab import Vocabulary

    Score = Callable[[MicroBatch], tuple[Tensor, Tensor]]

# Determines the spans of interleaved samples, the same at every validation.
SEED = 0
# Samples whose tokens are counted for `frequency_perplexity`, and how many at once.
MOST_COUNTED, COUNTED_AT_ONCE = 2**16, 256


def perplexity_by_kind(
    model: nn.Module, vocabulary: Vocabulary, sources: Sequence[Source], *, batch_size: int, ranks: Ranks
) -> PerplexityReport:
    """Perplexity of each kind of sequence, in place of the corpora of PerplexityReport.

    [TEXT] and [SPEECH] are not scored, nor is the first token of a sequence behind them: so a kind of speech alone has
    the targets that TWIST's perplexity has.

    Args:
        model: The LM; it is left in the mode (train or eval) that it was in.
        vocabulary: The model's.
        sources: The sequences of each kind.
        batch_size: Samples per forward pass; those of like length share one.
        ranks: The processes among which the samples are parted; all of them must call this.
    """
    score = _by_model(model, vocabulary)
    kinds = {source.kind: _perplexity(model, source, score, batch_size, ranks) for source in sources}
    return PerplexityReport.of(kinds)


def text_lm_perplexity(
    model: nn.Module, vocabulary: Vocabulary, text: Source, *, batch_size: int, ranks: Ranks
) -> Perplexity:
    """Perplexity of text under the text LM that a new model was made of: without [TEXT], among text tokens alone.

    The targets are those of `perplexity_by_kind`.
    """
    return _perplexity(model, text, _by_text_lm(model, vocabulary), batch_size, ranks)


def sample_nats(
    model: nn.Module, vocabulary: Vocabulary, source: Source, *, batch_size: int, is_text_lm: bool = False
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Nats of each sample of one kind, and how many targets these are over, [N] each: the parts of the perplexities.

    Args:
        model: The LM, or the text LM that it was made of; it is left in the mode (train or eval) that it was in.
        vocabulary: The model's, with text and units.
        source: The sequences.
        batch_size: Samples per forward pass.
        is_text_lm: Whether this is the text LM, which knows no [TEXT]; see `text_lm_perplexity`.
    """
    score = _by_text_lm(model, vocabulary) if is_text_lm else _by_model(model, vocabulary)
    nats, num_targets = np.zeros(len(source.lengths)), np.zeros(len(source.lengths), np.int64)
    by_length = np.argsort(-source.lengths, kind="stable")
    was_training = model.training
    model.eval()
    with torch.no_grad(), attention_within_documents(bare_model(model)):
        for start in range(0, len(by_length), batch_size):
            samples = by_length[start : start + batch_size]
            # One by one, since a sample may become several sequences.
            made = [source.sequences(samples[i : i + 1], samples[i : i + 1], SEED) for i in range(len(samples))]
            assert not any(num_damaged for _, num_damaged in made), "evaluation refuses damaged samples"
            batch = MicroBatch(
                torch.cat([one.token_ids for one, _ in made]), tuple(n for one, _ in made for n in one.lengths)
            )
            nll, is_scored = score(batch)
            of_sequences = (nll.double().cpu() * is_scored.cpu()).sum(dim=1).numpy()
            owner = np.repeat(samples, [len(one.lengths) for one, _ in made])
            np.add.at(nats, owner, of_sequences)
            np.add.at(num_targets, owner, is_scored.sum(dim=1).cpu().numpy())
    model.train(was_training)
    return nats, num_targets


def _by_model(model: nn.Module, vocabulary: Vocabulary) -> Score:
    def score(batch: MicroBatch) -> tuple[Tensor, Tensor]:
        return next_unit_nll(model, batch.token_ids, batch.lengths), _scored(batch, vocabulary)

    return score


def _by_text_lm(model: nn.Module, vocabulary: Vocabulary) -> Score:
    def score(batch: MicroBatch) -> tuple[Tensor, Tensor]:
        documents = [document[1:] for document in torch.split(batch.token_ids, list(batch.lengths))]
        lengths = list(map(len, documents))
        nll = next_unit_nll(model, torch.cat(documents), lengths, num_ids=vocabulary.text_size)
        return nll, pad_sequence([torch.ones(length - 1, dtype=torch.bool) for length in lengths], batch_first=True)

    return score


def frequency_perplexity(train: Source, validation: Source, vocabulary: Vocabulary, ranks: Ranks) -> Perplexity:
    """Perplexity of speech, each of its tokens predicted by its frequency alone.

    Frequencies are those in up to MOST_COUNTED samples, drawn evenly; the targets those of `perplexity_by_kind`.

    Args:
        train: Whose tokens are counted.
        validation: What is predicted.
        vocabulary: The model's.
        ranks: The processes among which the counting is parted; all of them must call this.
    """
    chosen = np.unique(np.linspace(0, len(train.lengths) - 1, MOST_COUNTED).astype(np.int64))
    counts = np.zeros(vocabulary.vocab_size, np.int64)
    for start in range(ranks.rank * COUNTED_AT_ONCE, len(chosen), ranks.world_size * COUNTED_AT_ONCE):
        some = chosen[start : start + COUNTED_AT_ONCE]
        batch, _ = train.sequences(some, some, SEED)
        counts += np.bincount(batch.token_ids.numpy(), minlength=len(counts))
    of_speech = ranks.sum(torch.from_numpy(counts).to(ranks.device)).cpu().numpy()[vocabulary.speech_ids] + 1
    nll = np.zeros(vocabulary.vocab_size)
    nll[vocabulary.speech_ids] = -np.log(of_speech / of_speech.sum())
    nats, num_targets = 0.0, 0
    for start in range(0, len(validation.lengths), COUNTED_AT_ONCE):
        some = np.arange(start, min(start + COUNTED_AT_ONCE, len(validation.lengths)))
        batch, _ = validation.sequences(some, some, SEED)
        for document in torch.split(batch.token_ids, list(batch.lengths)):
            targets = document.numpy()[2:]
            nats += float(nll[targets].sum())
            num_targets += len(targets)
    return Perplexity(nats / num_targets, float(np.exp(nats / num_targets)), num_targets)


def _scored(batch: MicroBatch, vocabulary: Vocabulary) -> Tensor:
    """Which targets count [num_sequences, longest - 1]."""
    masks = []
    for document in torch.split(batch.token_ids, list(batch.lengths)):
        is_switch = torch.isin(document, torch.tensor([vocabulary.text_id, vocabulary.speech_id]))
        is_switch[:2] = True
        masks.append(~is_switch[1:])
    return pad_sequence(masks, batch_first=True)


def _perplexity(
    model: nn.Module,
    source: Source,
    score: Score,
    batch_size: int,
    ranks: Ranks,
) -> Perplexity:
    by_length = np.argsort(-source.lengths, kind="stable")
    batches = [by_length[start : start + batch_size] for start in range(0, len(by_length), batch_size)]
    sums = torch.zeros(2, dtype=torch.float64)
    was_training = model.training
    model.eval()
    with torch.no_grad(), attention_within_documents(bare_model(model)):
        for drawn, counts in ranks.rounds(batches):
            samples = np.sort(drawn)
            batch, num_damaged = source.sequences(samples, samples, SEED)
            assert not num_damaged, "validation refuses damaged samples"
            nll, is_scored = score(batch)
            if counts:
                is_scored = is_scored.to(nll.device)
                sums[0] += nll.double()[is_scored].sum().cpu()
                sums[1] += is_scored.sum().cpu()
    model.train(was_training)
    nats, num_targets = ranks.sum(sums.to(ranks.device)).cpu().tolist()
    with np.errstate(over="ignore"):
        return Perplexity(nats / num_targets, float(np.exp(nats / num_targets)), int(num_targets))
