"""The pretraining task: its loss against a plain implementation, its gradients, and that it learns."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from model.encoder.hubert import HubertModel
from model.encoder.hubert_pretrain import HubertPretraining, PretrainLoss
from model.encoder.pretrain_batches import PretrainBatches
from model.encoder.pretrain_config import PretrainConfig
from model.training.step_batches import iterate
from pipeline.errors import TwistError
from tests.model.labelled_tones import NETWORK, NUM_UNITS, LabelledTones, small_config

if TYPE_CHECKING:
    from torch import Tensor


@pytest.fixture
def batch() -> tuple[Tensor, Tensor, Tensor]:
    """wav [B, S], units [B, F] and is_masked [B, F]."""
    wav, units, is_masked = PretrainBatches(LabelledTones(), small_config())[0].micro_batches[0]
    return wav, units, is_masked


def new_task(**changes: object) -> HubertPretraining:
    torch.manual_seed(0)
    return HubertPretraining(small_config(**changes), NUM_UNITS)


def total(task: HubertPretraining, loss: PretrainLoss) -> Tensor:
    return loss.masked_nll + loss.unmasked_nll + task.config.feature_penalty * loss.feature_penalty


def test_loss_is_the_cross_entropy_of_cosines(batch: tuple[Tensor, Tensor, Tensor]) -> None:
    wav, units, is_masked = batch
    task = new_task().eval()
    loss = task(wav, units, is_masked)

    body = task.body
    frames = body.feature_extractor(wav, None)
    hidden = body.feature_projection(frames).clone()
    hidden[is_masked] = task.mask_embedding
    hidden = body.encoder.embed(hidden, None)
    for layer in body.encoder.layers:
        hidden = layer(hidden, None)
    projected = task.final_projection(hidden)
    cosines = F.cosine_similarity(projected[:, :, None], task.unit_embeddings, dim=-1)  # [B, F, K]
    nll = F.cross_entropy((cosines / 0.1).transpose(1, 2), units, reduction="none")
    is_told = cosines.argmax(dim=-1) == units
    expected = (
        nll[is_masked].sum(),
        is_told[is_masked].sum(),
        nll[~is_masked].sum(),
        is_told[~is_masked].sum(),
        (frames**2).mean(),
    )
    for name, value, other in zip(PretrainLoss._fields, loss, expected, strict=True):
        torch.testing.assert_close(value.float(), other.float(), rtol=1e-4, atol=1e-4, msg=name)


def test_a_masked_frame_is_not_seen(batch: tuple[Tensor, Tensor, Tensor]) -> None:
    wav, units, _ = batch
    task = new_task().eval()
    is_masked = torch.ones_like(units, dtype=torch.bool)
    first = task(wav, units, is_masked)
    other = task(torch.randn_like(wav), units, is_masked)
    torch.testing.assert_close(first.masked_nll, other.masked_nll)
    assert first.unmasked_nll == 0
    assert first.feature_penalty != other.feature_penalty


def test_the_scale_of_the_gradient_changes_the_convolutions_alone(batch: tuple[Tensor, Tensor, Tensor]) -> None:
    gradients = []
    for scale in (1.0, 0.1):
        task = new_task(feature_gradient_scale=scale, dropout=0.0, layer_drop=0.0)
        total(task, task(*batch)).backward()
        gradients.append({name: weight.grad for name, weight in task.named_parameters()})
    for name, gradient in gradients[0].items():
        assert gradient is not None and gradients[1][name] is not None, f"{name} is not trained"
        scaled = 0.1 * gradient if "feature_extractor" in name else gradient
        torch.testing.assert_close(gradients[1][name], scaled, rtol=1e-3, atol=1e-5, msg=name)


def test_every_weight_is_trained(batch: tuple[Tensor, Tensor, Tensor]) -> None:
    for changes in ({"conv_pos_batch_norm": True}, {"feat_extract_norm": "layer"}, {"do_stable_layer_norm": True}):
        shape = type(NETWORK)(**{**vars(NETWORK), **changes})
        task = new_task(model=shape, layer_drop=0.0)
        total(task, task(*batch)).backward()
        still = [name for name, weight in task.named_parameters() if weight.grad is None or not weight.grad.any()]
        # A shift of all keys shifts all logits of a query alike.
        assert [name for name in still if "k_proj.bias" not in name] == [], f"{changes}: no gradient"


def test_without_weight_for_them_other_frames_give_no_gradient(batch: tuple[Tensor, Tensor, Tensor]) -> None:
    task = new_task(unmasked_weight=0.0)
    loss = task(*batch)
    assert loss.unmasked_nll > 0, "it is still told"
    assert not loss.unmasked_nll.requires_grad


def test_layers_are_dropped_in_training_alone(batch: tuple[Tensor, Tensor, Tensor]) -> None:
    task = new_task(dropout=0.0, layer_drop=0.9)
    torch.manual_seed(1)
    dropped = task(*batch).masked_nll
    task.eval()
    assert task(*batch).masked_nll == task(*batch).masked_nll
    assert dropped != task(*batch).masked_nll


def test_it_learns_units_that_can_be_heard() -> None:
    config = small_config(num_steps=60, peak_lr=5e-3, dropout=0.0, layer_drop=0.0)
    torch.manual_seed(0)
    task = HubertPretraining(config, NUM_UNITS)
    optimizer = torch.optim.AdamW(task.parameters(), lr=config.peak_lr)
    shares = []
    for batch in iterate(PretrainBatches(LabelledTones(), config), 0, config.num_steps, 0):
        loss = task(*batch.micro_batches[0])
        (total(task, loss) / batch.num_masked).backward()
        optimizer.step()
        optimizer.zero_grad()
        shares.append(float(loss.unmasked_correct) / batch.num_unmasked)
    assert np.mean(shares[-10:]) > 0.8, f"units are tones, but only {np.mean(shares[-10:]):.0%} are told"


def test_weights_are_taken_over_as_far_as_they_fit() -> None:
    deeper = HubertModel(type(NETWORK)(**{**vars(NETWORK), "num_hidden_layers": 3, "intermediate_size": 48}))
    task = new_task()
    before = {name: weight.clone() for name, weight in task.body.state_dict().items()}
    num_taken, num_all = task.take_over(deeper)
    theirs = deeper.state_dict()
    taken = [name for name, weight in task.body.state_dict().items() if torch.equal(weight, theirs[name])]
    for name, weight in task.body.state_dict().items():
        if theirs[name].shape == weight.shape:
            assert torch.equal(weight, theirs[name]), f"{name} was not taken"
        else:
            assert "intermediate_dense" in name or "output_dense" in name
            assert torch.equal(weight, before[name]), f"{name} was changed"
    assert num_taken == len(taken) < num_all == len(before)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 0}, "pretrain.batch_size is 0; it must be at least 1"),
        ({"mask_share": 1.0}, "pretrain.mask_share is 1.0; it must be between 0 and 1"),
        ({"layer_drop": 1.0}, "pretrain.layer_drop"),
        ({"masked_weight": 0.0, "unmasked_weight": 0.0}, "masked_weight is 0.0; it must be above 0, or unmasked"),
        ({"logit_temperature": 0.0}, "pretrain.logit_temperature"),
        ({"final_lr": 1.0}, "pretrain.final_lr is 1.0; it must be between 0 and peak_lr"),
        ({"schedule": "step"}, "pretrain.schedule is 'step'; it must be inverse_sqrt or cosine or linear"),
        ({"precision": "float16"}, "pretrain.precision"),
        ({"device": "tpu"}, "pretrain.device"),
        ({"warmup_steps": 10}, "pretrain.warmup_steps is 10; it must be below num_steps"),
        ({"crop_s": float("nan")}, "pretrain.crop_s"),
    ],
)
def test_impossible_settings_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(TwistError, match=message):
        small_config(**changes)


def test_defaults_are_those_of_hubert_base() -> None:
    config = PretrainConfig()
    assert config.learning_rate(32_000) == 5e-4
    assert config.learning_rate(400_000) == 0.0
    assert config.learning_rate(16_000) == pytest.approx(2.5e-4)
