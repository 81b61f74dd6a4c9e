"""DPO's loss and gradients: the published vectors, and those of a plain implementation of four padded passes."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from model.lm.speech_lm import load_speech_lm
from model.preferences.dpo import PairLogProbs, dpo_loss, dpo_margins, ending_log_probs, without_dropout
from model.preferences.pair_batches import TokenizedPairs

if TYPE_CHECKING:
    from model.preferences.pair_shards import PairDataset, PreferencePair


@pytest.mark.parametrize(("delta", "loss"), [(0.0, 0.693147), (1.0, 0.644397), (2.5, 0.575939)])
def test_losses_are_the_published_ones(delta: float, loss: float) -> None:
    policy = PairLogProbs(torch.tensor([-3.0 + delta]), torch.tensor([-5.0]))
    reference = PairLogProbs(torch.tensor([-3.0]), torch.tensor([-5.0]))
    assert dpo_loss(policy, reference, 0.1).item() == pytest.approx(loss, abs=1e-6)
    assert dpo_margins(policy, reference, 0.1).item() == pytest.approx(0.1 * delta)


def test_the_gradient_is_the_one_of_the_formula() -> None:
    chosen, rejected = torch.tensor([-3.0, 2.0], requires_grad=True), torch.tensor([-5.0, 1.0], requires_grad=True)
    reference = PairLogProbs(torch.tensor([-4.0, 0.5]), torch.tensor([-4.5, 3.0]))
    dpo_loss(PairLogProbs(chosen, rejected), reference, 0.3).sum().backward()
    for index, delta in enumerate((1.5, 3.5)):
        expected = -0.3 / (1 + math.exp(0.3 * delta))
        assert chosen.grad[index].item() == pytest.approx(expected)
        assert rejected.grad[index].item() == pytest.approx(-expected)


def plain_log_prob(model: Any, pairs: list[PreferencePair], name: str) -> torch.Tensor:
    """The sum over the ending of one padded forward pass, as a plain trainer computes it."""
    offset, bos_id = model.config.offset, model.config.unit_bos_id
    mark = [] if bos_id is None else [bos_id]
    prompts = [mark + [int(unit) + offset for unit in pair.prompt] for pair in pairs]
    endings = [[int(unit) + offset for unit in getattr(pair, name)] + mark for pair in pairs]
    longest = max(len(prompt) + len(ending) for prompt, ending in zip(prompts, endings, strict=True))
    rows = [prompt + ending for prompt, ending in zip(prompts, endings, strict=True)]
    ids = torch.tensor([row + [0] * (longest - len(row)) for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows])
    is_ending = torch.zeros_like(mask)
    for number, (prompt, row) in enumerate(zip(prompts, rows, strict=True)):
        is_ending[number, len(prompt) : len(row)] = 1
    shares = model(input_ids=ids, attention_mask=mask).logits[:, :-1].log_softmax(dim=-1)
    of_next = shares.gather(2, ids[:, 1:, None])[..., 0]
    return (of_next * is_ending[:, 1:]).sum(dim=1)


def test_loss_and_gradients_equal_a_plain_implementation(reference: str, pairs: PairDataset) -> None:
    model, vocabulary = load_speech_lm(reference)
    ours = TokenizedPairs(pairs, "train", vocabulary, 60)
    batch = ours.micro_batch(range(9))
    with torch.no_grad():
        of_reference = ending_log_probs(model.eval(), batch)
    policy = load_speech_lm(reference)[0].eval()
    torch.manual_seed(1)
    noise = {name: 0.05 * torch.randn_like(weight) for name, weight in policy.named_parameters()}
    for name, weight in policy.named_parameters():
        weight.data += noise[name]
    loss = dpo_loss(ending_log_probs(policy, batch), of_reference, 0.1)
    loss.mean().backward()

    plain, plain_reference = (AutoModelForCausalLM.from_pretrained(reference).eval() for _ in range(2))
    for name, weight in plain.named_parameters():
        weight.data += noise[name]
    some = [pair for pair in pairs.pairs("train") if pair.pair_id in ours.ids[:9]]
    with torch.no_grad():
        kept = [plain_log_prob(plain_reference, some, name) for name in ("chosen", "rejected")]
    found = [plain_log_prob(plain, some, name) for name in ("chosen", "rejected")]
    expected = -torch.nn.functional.logsigmoid(0.1 * ((found[0] - kept[0]) - (found[1] - kept[1])))
    expected.mean().backward()
    torch.testing.assert_close(loss, expected, atol=1e-5, rtol=1e-5)
    for (name, weight), other in zip(policy.named_parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(weight.grad, other.grad, atol=1e-6, rtol=1e-4, msg=f"the gradient of {name}")


def test_prompts_do_not_count(reference: str, pairs: PairDataset) -> None:
    model, vocabulary = load_speech_lm(reference)
    tokenized = TokenizedPairs(pairs, "train", vocabulary, 60)
    batch = tokenized.micro_batch([3])
    (pair,) = [pair for pair in pairs.pairs("train") if pair.pair_id == tokenized.ids[3]]
    num_specials = 0 if vocabulary.bos_id is None else 1
    assert batch.starts == (len(pair.prompt) + num_specials,) * 2
    assert batch.lengths == tuple(len(pair.prompt) + len(end) + 2 * num_specials for end in pair.parts[1:])
    alone = ending_log_probs(model.eval(), batch)
    together = ending_log_probs(model, tokenized.micro_batch([1, 3, 5]))
    torch.testing.assert_close(alone.chosen[0], together.chosen[1])
    torch.testing.assert_close(alone.rejected[0], together.rejected[1])


def test_without_dropout_training_mode_changes_nothing(reference: str, pairs: PairDataset) -> None:
    model, vocabulary = load_speech_lm(reference)
    batch = TokenizedPairs(pairs, "train", vocabulary, 60).micro_batch([0, 1])
    expected = ending_log_probs(model.eval(), batch)
    assert not torch.equal(ending_log_probs(model.train(), batch).chosen, expected.chosen), "this model has dropout"
    without_dropout(model)
    assert torch.equal(ending_log_probs(model.train(), batch).chosen, expected.chosen)
