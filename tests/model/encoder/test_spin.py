"""Spin: codes are balanced, batches depend on the step alone, and the loss pulls two views together."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np
import pytest
import torch

from model.encoder.hubert import HubertModel
from model.encoder.spin import Spin, assign_codes
from model.encoder.spin_batches import SpinBatches, validation_views
from model.encoder.spin_config import SpinConfig
from pipeline.errors import TwistError
from pipeline.records import NO_PHONE
from tests.model.labelled_tones import NETWORK, LabelledTones


@dataclass(frozen=True)
class Tones:
    """Two corpora of clips of tones; the first has its tones as phones."""

    num_clips: int = 12
    fingerprint: str = "tones"

    def __post_init__(self) -> None:
        object.__setattr__(self, "tones", LabelledTones((60,) * (self.num_clips - 1) + (20,)))

    @property
    def num_samples(self) -> np.ndarray:
        return self.tones.num_samples  # type: ignore[attr-defined]

    @property
    def corpora(self) -> np.ndarray:
        return np.arange(self.num_clips) % 2

    @property
    def phone_sets(self) -> np.ndarray:
        return np.array([[True] * 4, [False] * 4])

    def __len__(self) -> int:
        return self.num_clips

    def __getitem__(self, index: int) -> np.ndarray:
        return self.tones[index][0]  # type: ignore[attr-defined]

    def phones_at(self, index: int, times_s: np.ndarray) -> np.ndarray:
        if index % 2:
            return np.full(len(times_s), NO_PHONE)
        units = self.tones[index][1]  # type: ignore[attr-defined]
        return units[np.minimum((times_s * 50).astype(int), len(units) - 1)].astype(np.int64)


TONES = torch.from_numpy(Tones().phone_sets)


def small_spin(**changes: object) -> SpinConfig:
    settings: dict[str, object] = {
        "init": "tests",
        "layer": 1,
        "num_codes": 6,
        "code_dim": 16,
        "batch_size": 4,
        "crop_s": 0.8,
        "num_steps": 6,
        "peak_lr": 2e-3,
        "warmup_steps": 1,
        "validation_clips": 5,
        "validate_every": 1000,
        "checkpoint_every": 1000,
        "log_every": 1,
        "device": "cpu",
        **changes,
    }
    return SpinConfig(**settings)  # type: ignore[arg-type]


def small_model() -> HubertModel:
    torch.manual_seed(0)
    return HubertModel(NETWORK)


def test_codes_are_balanced_and_frames_have_one() -> None:
    scores = torch.randn(500, 7, generator=torch.Generator().manual_seed(0)) + torch.arange(7) * 0.5
    shares = assign_codes(scores, epsilon=0.5, num_steps=200)
    assert torch.allclose(shares.sum(dim=1), torch.ones(500))
    assert torch.allclose(shares.sum(dim=0), torch.full((7,), 500 / 7), rtol=1e-2)
    few = assign_codes(scores, epsilon=0.5, num_steps=3)
    assert few.sum(dim=0).max() < 2 * few.sum(dim=0).min(), "three steps balance nearly"
    plain = torch.softmax(scores / 0.5, dim=1).sum(dim=0)
    assert plain.max() > 5 * plain.min(), "scores that need no balancing test nothing"


def test_no_frames_have_no_codes() -> None:
    assert assign_codes(torch.zeros(0, 7), 0.05, 3).shape == (0, 7)


def test_a_batch_depends_on_its_step_alone() -> None:
    batches, again = (SpinBatches(Tones(), small_spin(), NETWORK) for _ in range(2))
    later = again[3]
    for part, other in zip(batches[3].views, later.views, strict=True):
        assert torch.equal(part, other)
    assert not torch.equal(batches[2].views.clean, later.views.clean)


def test_each_corpus_has_its_share_and_short_clips_are_left_out() -> None:
    batches = SpinBatches(Tones(), small_spin(), NETWORK)
    assert batches.num_clips == 11, "the clip of 0.4 s holds no crop"
    for step in range(5):
        views = batches[step].views
        assert sorted(views.corpora.tolist()) == [0, 0, 1, 1]
        assert (views.phones[views.corpora == 1] == NO_PHONE).all()
        assert (views.phones[views.corpora == 0] != NO_PHONE).all()


def test_ranks_part_a_batch() -> None:
    whole = SpinBatches(Tones(), small_spin(), NETWORK)[1].views
    parts = [SpinBatches(Tones(), small_spin(), NETWORK, rank, 2)[1].views for rank in range(2)]
    rows = [{view.numpy().tobytes() for view in each.perturbed} for each in (whole, *parts)]
    assert rows[0] == rows[1] | rows[2] and not rows[1] & rows[2]
    of_all = validation_views(Tones(), small_spin(batch_size=2), NETWORK)
    of_ranks = [validation_views(Tones(), small_spin(batch_size=2), NETWORK, rank, 2) for rank in range(2)]
    assert [len(of_all), *map(len, of_ranks)] == [3, 2, 1]
    assert torch.equal(of_all[1].clean, of_ranks[1][0].clean)


def test_views_are_level_and_aligned_with_phones() -> None:
    views = SpinBatches(Tones(), small_spin(level_dbfs=-30.0), NETWORK)[0].views
    for wavs in (views.clean, views.perturbed):
        level = 10 * torch.log10(wavs.var(dim=1, correction=0))
        assert torch.allclose(level, torch.full((4,), -30.0), atol=0.01)
    # Each unit is a tone an octave above the one before: the spectrum of a frame says which.
    clean, phones = views.clean[0].numpy(), views.phones[0].numpy()
    hits = 0
    for frame, phone in enumerate(phones):
        part = clean[frame * 320 : frame * 320 + 400]
        hits += int(np.abs(np.fft.rfft(part * np.hanning(400), 4000)).argmax() * 4 // 1) in range(
            int(300 * 2.0**phone * 0.8), int(300 * 2.0**phone * 1.25)
        )
    assert hits > 0.85 * len(phones)


def test_phones_compete_with_those_of_their_corpus_alone() -> None:
    """Two corpora call the same sounds by other names: neither's names may be taken for the other's."""
    views = validation_views(Tones(), small_spin(validation_clips=8), small_model().config)[0]
    of_first, of_second = views.corpora == 0, views.corpora == 1
    views.phones[of_second] = 4 + views.phones[of_second].clamp_min(0)
    sets = torch.tensor([[True] * 4 + [False] * 4, [False] * 4 + [True] * 4])
    spin = Spin(small_spin(), small_model(), sets)
    assert spin.phones is not None
    with torch.no_grad():
        together = spin(*views).phone_nll
        spin.phones.bias[4:] += 100  # shifts all of the second's names alike, which nothing may notice
        assert torch.allclose(spin(*views).phone_nll, together, rtol=1e-4)
    assert of_first.any() and together > 0


def test_only_frames_that_count_and_phones_that_are_known_count() -> None:
    spin = Spin(small_spin(), small_model(), TONES)
    views = SpinBatches(Tones(), small_spin(), NETWORK)[0].views
    loss = spin(*views)
    assert loss.num_frames == views.counts.sum() and loss.num_phones == (views.phones != NO_PHONE).sum()
    none = spin(*views._replace(counts=torch.zeros_like(views.counts), phones=torch.full_like(views.phones, NO_PHONE)))
    assert [float(value.detach()) for value in none] == [0.0] * 6


def test_codes_are_assigned_within_each_corpus() -> None:
    spin = Spin(small_spin(), small_model(), torch.empty((2, 0), dtype=torch.bool))
    views = SpinBatches(Tones(), small_spin(), NETWORK)[0].views
    together = spin(*views).code_nll
    apart = [spin(*(part[views.corpora == corpus] for part in views)).code_nll for corpus in (0, 1)]
    assert torch.allclose(together, apart[0] + apart[1], rtol=1e-5)


def test_what_is_not_tuned_has_no_gradient() -> None:
    spin = Spin(small_spin(), small_model(), TONES)
    views = SpinBatches(Tones(), small_spin(), NETWORK)[0].views
    loss = spin(*views)
    (loss.code_nll + loss.phone_nll).backward()
    has_gradient = {name for name, weight in spin.named_parameters() if weight.grad is not None}
    assert not any("feature_extractor" in name or "layers.1." in name for name in has_gradient)
    assert {"codes", "phones.weight"} < has_gradient
    assert any("layers.0." in name for name in has_gradient)
    free = Spin(small_spin(train_convolutions=True), small_model(), torch.empty((2, 0), dtype=torch.bool))
    free(*views).code_nll.backward()
    assert all(weight.grad is not None for weight in free.body.feature_extractor.parameters())


def test_training_makes_the_views_alike() -> None:
    config = small_spin(num_codes=4, temperature=0.1)
    spin = Spin(config, small_model(), TONES).train()
    assert not spin.body.training, "batch norm would see other statistics than when it encodes"
    batches = SpinBatches(Tones(), config, NETWORK)
    optimizer = torch.optim.Adam([p for p in spin.parameters() if p.requires_grad], lr=3e-3)
    held = validation_views(Tones(fingerprint="held"), dataclasses.replace(config, seed=1), NETWORK)

    def measured() -> tuple[float, float]:
        with torch.no_grad():
            losses = [spin(*views) for views in held]
        code = sum(float(loss.code_nll) for loss in losses) / sum(int(loss.num_frames) for loss in losses)
        right = sum(int(loss.phone_correct) for loss in losses) / sum(int(loss.num_phones) for loss in losses)
        return code, right

    before = measured()
    for step in range(60):
        loss = spin(*batches[step].views)
        optimizer.zero_grad()
        (loss.code_nll / loss.num_frames + loss.phone_nll / loss.num_phones).backward()
        optimizer.step()
    after = measured()
    assert after[0] < 0.7 * before[0] and after[1] > before[1] + 0.1, (before, after)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"batch_size": 5}, "2 corpora"),
        ({"crop_s": 30.0}, "no clip of 30 s"),
        ({"crop_s": 0.01}, "shorter than a frame"),
    ],
)
def test_batches_that_cannot_be_made_are_refused(changes: dict[str, object], said: str) -> None:
    with pytest.raises(TwistError, match=said):
        SpinBatches(Tones(), small_spin(**changes), NETWORK)


@pytest.mark.parametrize(
    "changes", [{"num_codes": 1}, {"silence_share": 1.1}, {"code_weight": 0.0}, {"level_dbfs": 3.0}, {"temperature": 0}]
)
def test_settings_that_make_no_sense_are_refused(changes: dict[str, object]) -> None:
    with pytest.raises(TwistError, match=rf"spin\.{next(iter(changes))}"):
        small_spin(**changes)
