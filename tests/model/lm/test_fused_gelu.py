import copy

import pytest
import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

from model.lm.fused_gelu import fuse_gelu
from model.lm.speech_lm import cold_start, load_speech_lm
from model.lm.vocab import Vocabulary

ARCHITECTURES = {
    "bloom": {"model_type": "bloom", "n_layer": 2, "n_head": 4, "hidden_size": 32, "hidden_dropout": 0.0},
    "gpt2": {"model_type": "gpt2", "n_embd": 32, "n_layer": 2, "n_head": 4, "resid_pdrop": 0.0, "embd_pdrop": 0.0},
}


@pytest.mark.parametrize("family", ARCHITECTURES)
@pytest.mark.parametrize("training", [True, False])
def test_outputs_and_gradients_are_those_of_transformers(family: str, training: bool) -> None:
    torch.manual_seed(0)
    config = AutoConfig.for_model(**ARCHITECTURES[family], vocab_size=50)
    theirs = AutoModelForCausalLM.from_config(config).train(training)
    for parameter in theirs.parameters():  # so that GELU sees values far from 0 as well
        parameter.data *= 5
    for module in theirs.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    ours = copy.deepcopy(theirs)
    fuse_gelu(ours)
    ids = torch.randint(0, 50, (2, 9))
    losses = {}
    for name, model in (("theirs", theirs), ("ours", ours)):
        losses[name] = model(input_ids=ids, labels=ids).loss
        losses[name].backward()
    torch.testing.assert_close(losses["ours"], losses["theirs"], rtol=1e-5, atol=0)
    for (name, mine), (_, other) in zip(ours.named_parameters(), theirs.named_parameters(), strict=True):
        largest = float(other.grad.abs().max())
        torch.testing.assert_close(mine.grad, other.grad, rtol=0, atol=1e-4 * largest + 1e-7, msg=name)


@pytest.mark.parametrize("family", ARCHITECTURES)
def test_models_that_are_made_and_loaded_have_it(family: str, tmp_path) -> None:
    made = cold_start(ARCHITECTURES[family], Vocabulary(16, codebook_fingerprint="made-up"), seed=0)
    made.save_pretrained(tmp_path)
    loaded, _ = load_speech_lm(str(tmp_path))
    for model in (made, loaded):
        kinds = [type(module).__name__ for module in model.modules()]
        assert "GELU" in kinds
        assert not {"BloomGelu", "NewGELUActivation"} & set(kinds)
