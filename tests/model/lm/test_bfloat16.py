from __future__ import annotations

import torch

from model.lm.bfloat16 import BFloat16
from model.lm.speech_lm import cold_start
from model.lm.vocab import Vocabulary

ARCHITECTURE = {"model_type": "opt", "hidden_size": 32, "word_embed_proj_dim": 32, "ffn_dim": 64, "dropout": 0.0}
SHAPE = {"num_hidden_layers": 2, "num_attention_heads": 4, "max_position_embeddings": 64}


def test_gradients_arrive_in_float32_at_the_models_own_weights() -> None:
    model = cold_start({**ARCHITECTURE, **SHAPE}, Vocabulary(50), seed=0)
    rounded = BFloat16(model)
    assert {id(p) for p in rounded.parameters()} == {id(p) for p in model.parameters()}
    token_ids = torch.randint(1, 51, (2, 20), generator=torch.Generator().manual_seed(0))

    logits = rounded(input_ids=token_ids).logits
    assert logits.dtype == torch.bfloat16
    logits.float().square().mean().backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    model.zero_grad()
    model(input_ids=token_ids).logits.square().mean().backward()
    for name, parameter in model.named_parameters():
        gradient = gradients[name]
        assert gradient is not None and gradient.dtype == torch.float32
        difference = (gradient - parameter.grad).norm() / (parameter.grad.norm() + 1e-6)
        assert difference < 0.05, f"{name}'s gradient is another than that of the model in float32"


def test_gradients_of_several_passes_add_up() -> None:
    model = cold_start({**ARCHITECTURE, **SHAPE}, Vocabulary(50), seed=0)
    rounded = BFloat16(model)
    token_ids = torch.tensor([[3, 1, 4, 1, 5]])
    for _ in range(2):  # weights are rounded once for both passes
        rounded(input_ids=token_ids).logits.float().square().mean().backward()
    twice = model.model.decoder.layers[0].fc1.weight.grad.clone()
    model.zero_grad()
    rounded(input_ids=token_ids).logits.float().square().mean().backward()
    torch.testing.assert_close(twice, 2 * model.model.decoder.layers[0].fc1.weight.grad)


def test_updates_are_seen_once_weights_are_rounded_anew() -> None:
    model = cold_start({**ARCHITECTURE, **SHAPE}, Vocabulary(50), seed=0).eval()
    rounded = BFloat16(model).eval()
    token_ids = torch.tensor([[3, 1, 4]])
    with torch.no_grad():
        before = rounded(input_ids=token_ids).logits
        for parameter in model.parameters():
            parameter.mul_(1.5)
        assert torch.equal(rounded(input_ids=token_ids).logits, before)
        rounded.round_weights()
        assert not torch.equal(rounded(input_ids=token_ids).logits, before)
        expected = BFloat16(model).eval()(input_ids=token_ids).logits
        assert torch.equal(rounded(input_ids=token_ids).logits, expected)
