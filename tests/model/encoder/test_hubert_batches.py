"""Clips of many lengths in a batch against each alone: features and units."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import soundfile
import torch
from torch import Tensor

from model.artefacts import resolve
from model.encoder.hubert import HubertModel
from model.encoder.hubert_batches import HubertBatches
from model.encoder.hubert_checkpoint import load_hubert
from model.encoder.hubert_config import HubertConfig
from pipeline.units import codebook
from pipeline.units.codebook import Assigner

CPU = torch.device("cpu")
SMALL = HubertConfig(
    conv_dim=(16,) * 8,
    conv_kernel=(10, 3, 3, 3, 3, 2, 2, 2),
    conv_stride=(5, 2, 2, 2, 2, 2, 2, 2),
    conv_pos_batch_norm=True,
    hidden_size=24,
    num_hidden_layers=3,
    num_attention_heads=4,
    intermediate_size=40,
    num_conv_pos_embeddings=16,
    num_conv_pos_embedding_groups=4,
)
CONFIGS = {
    "25 Hz, batch norm": SMALL,
    "weight norm": replace(SMALL, conv_pos_batch_norm=False),
    "Large's norms": replace(SMALL, feat_extract_norm="layer", do_stable_layer_norm=True, conv_bias=True),
    "50 Hz": replace(SMALL, conv_dim=(16,) * 7, conv_kernel=SMALL.conv_kernel[:7], conv_stride=SMALL.conv_stride[:7]),
    "12.5 Hz": replace(SMALL, conv_kernel=(*SMALL.conv_kernel[:7], 4), conv_stride=(*SMALL.conv_stride[:7], 4)),
}
# The shortest possible, one sample more or less than whole hops, two equal, and one longer than the rest together.
LENGTHS = (1_400, 9_999, 2_500, 1_359 + 640, 1_360 + 640, 9_999, 720 + 640 * 9, 45_000)


def random_model(config: HubertConfig) -> HubertModel:
    """A model whose norms have no weight or running statistic at its default."""
    torch.manual_seed(3)
    model = HubertModel(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name or name.endswith("bias"):
                parameter.uniform_(0.5, 1.5) if name.endswith("weight") else parameter.uniform_(-0.3, 0.3)
        for name, buffer in model.named_buffers():
            if name.endswith("running_mean"):
                buffer.uniform_(-0.5, 0.5)
            elif name.endswith("running_var"):
                buffer.uniform_(0.5, 2.0)
    return model


def clips(lengths: tuple[int, ...]) -> list[Tensor]:
    """Noise of various loudness and offset, so that using another clip's statistics would show."""
    generator = torch.Generator().manual_seed(0)
    return [
        0.02 * (1 + index) * (torch.randn(length, generator=generator) + 0.3 * (index % 3))
        for index, length in enumerate(lengths)
    ]


@torch.inference_mode()
@pytest.mark.parametrize("frames_per_batch", [1, 64, 200, 10_000])
@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_batched_clips_equal_clips_alone(config: HubertConfig, frames_per_batch: int) -> None:
    model = random_model(config).for_inference(torch.float32, CPU)
    wavs = clips(LENGTHS)
    alone = HubertBatches(model, 3, CPU, frames_per_batch=None)(wavs)
    batched = HubertBatches(model, 3, CPU, frames_per_batch)(wavs)
    for wav, one, other in zip(wavs, alone, batched, strict=True):
        assert one.shape == (config.num_frames(len(wav)), config.hidden_size)
        torch.testing.assert_close(other, one, atol=1e-4, rtol=1e-4)


@torch.inference_mode()
def test_units_of_batched_clips_equal_units_alone() -> None:
    model = random_model(SMALL).for_inference(torch.float32, CPU)
    wavs = clips(tuple(2_000 + 1_777 * index % 40_000 for index in range(150)))
    alone = torch.cat(HubertBatches(model, 3, CPU, frames_per_batch=None)(wavs))
    batched = torch.cat(HubertBatches(model, 3, CPU, frames_per_batch=512)(wavs))
    centroids = alone[torch.linspace(0, len(alone) - 1, 100).long()]
    assign = Assigner(centroids.numpy(), CPU)
    differ = assign(alone) != assign(batched)
    nearest = torch.cdist(alone.double(), centroids.double()).topk(2, largest=False).values
    margins = (nearest[:, 1] - nearest[:, 0])[differ]
    assert (margins < 1e-3).all(), f"units differ in a batch where no two centroids are equally near: {margins}"
    assert differ.double().mean() < 0.001, f"{differ.sum()} of {len(alone)} units differ in a batch"


@torch.inference_mode()
def test_units_of_recorded_speech(speech: Path) -> None:
    paths = sorted((speech / "LibriSpeech").rglob("*.flac"))[::3]
    wavs = [torch.from_numpy(soundfile.read(path, dtype="float32")[0]) for path in paths]
    assign = Assigner(codebook.load(resolve("hubert-tiny-25hz-km100")).centroids, CPU)

    def units(dtype: torch.dtype, frames_per_batch: int | None) -> Tensor:
        model = load_hubert(Path(resolve("hubert-tiny-25hz")))[0].for_inference(dtype, CPU)
        return assign(torch.cat(HubertBatches(model, 3, CPU, frames_per_batch)(wavs)))

    alone = units(torch.float32, None)
    assert len(alone) > 1_000
    assert (units(torch.float32, 2_048) == alone).double().mean() >= 0.9999, "batches change units"
    assert (units(torch.bfloat16, None) == alone).double().mean() >= 0.98, "bfloat16 changes units"
    assert (units(torch.bfloat16, 2_048) == alone).double().mean() >= 0.98, "bfloat16 in batches changes units"


@torch.inference_mode()
def test_bfloat16_batches_stay_near_clips_alone() -> None:
    model = random_model(SMALL).for_inference(torch.bfloat16, CPU)
    wavs = clips(LENGTHS)
    alone = torch.cat(HubertBatches(model, 3, CPU, frames_per_batch=None)(wavs))
    batched = torch.cat(HubertBatches(model, 3, CPU, frames_per_batch=10_000)(wavs))
    error = (batched - alone).norm() / alone.norm()
    assert error < 0.02, f"bfloat16 features differ by {error:.3f} between batches and alone"


@torch.inference_mode()
def test_what_lies_behind_a_clip_is_not_seen() -> None:
    model = random_model(SMALL)
    wav = torch.randn(1, 6_000, generator=torch.Generator().manual_seed(0))
    changed = torch.cat([wav[:, :4_000], 100 * wav[:, 4_000:]], dim=1)
    num_samples = torch.tensor([4_000])
    num_frames = SMALL.num_frames(4_000)
    features, others = (model(one, 3, num_samples)[:, :num_frames] for one in (wav, changed))
    assert torch.equal(features, others), "samples behind the clip's end reach its features"
    torch.testing.assert_close(features, model(wav[:, :4_000], 3), atol=1e-4, rtol=1e-4)


def test_batches_are_of_like_length_and_within_the_budget() -> None:
    seen: list[tuple[int, ...]] = []

    class Spy(HubertModel):
        def forward(self, wav: Tensor, layer: int, num_samples: Tensor | None = None) -> Tensor:
            assert layer == 3
            seen.append(tuple(wav.shape))
            assert num_samples is not None
            assert num_samples.max() <= wav.shape[1]
            return torch.zeros(len(wav), self.config.num_frames(wav.shape[1]), 1)

    lengths = [20_000 + 997 * index % 50_000 for index in range(60)]
    HubertBatches(Spy(SMALL), 3, CPU, frames_per_batch=256)([torch.zeros(length) for length in lengths])
    assert sum(batch for batch, _ in seen) == len(lengths)
    for batch, num_samples in seen:
        assert batch == 1 or batch * SMALL.num_frames(num_samples) <= 256, "a batch is over its budget"
    assert len({num_samples for _, num_samples in seen}) <= 4, "batches come in many shapes"
    stacked = sum(batch * num_samples for batch, num_samples in seen)
    assert stacked < 1.6 * sum(lengths), "batches are mostly padding"
    assert HubertBatches(Spy(SMALL), 3, CPU, frames_per_batch=256)([]) == []


@pytest.mark.parametrize("frames_per_batch", [None, 256])
def test_convolutions_of_float32_are_not_rounded_to_tf32(frames_per_batch: int | None) -> None:
    class Spy(HubertModel):
        def forward(self, wav: Tensor, layer: int, num_samples: Tensor | None = None) -> Tensor:
            assert not torch.backends.cudnn.allow_tf32
            return super().forward(wav, layer, num_samples)

    allowed_before = torch.backends.cudnn.allow_tf32
    HubertBatches(Spy(SMALL).eval(), 1, CPU, frames_per_batch)(clips((1_400,)))
    assert torch.backends.cudnn.allow_tf32 == allowed_before, "what others may do has changed"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@torch.inference_mode()
def test_batches_on_a_gpu_equal_clips_on_the_cpu() -> None:
    cuda = torch.device("cuda")
    wavs = clips(20 * LENGTHS)
    expected = HubertBatches(random_model(SMALL).for_inference(torch.float32, CPU), 3, CPU, None)(wavs)
    # Several batches, so that copies run ahead of what is computed.
    batched = HubertBatches(random_model(SMALL).for_inference(torch.float32, cuda), 3, cuda, 512)(wavs)
    for one, other in zip(batched, expected, strict=True):
        torch.testing.assert_close(one.cpu(), other, atol=1e-4, rtol=1e-4)
