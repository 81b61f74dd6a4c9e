"""Writes what tests/parity compares with, by the reference implementations: checkpoints, codebooks, features.

Run by `make parity` in an environment of its own, which has fairseq and scikit-learn; imports nothing of this project.

    DIR/<model>.pt            HuBERT with random weights, as fairseq's trainer saves it (for <model> see MODELS)
    DIR/<model>.<kind>.pt     the same in the other ways that fairseq has saved checkpoints
    DIR/<model>.npz           wav_<i> [S] and, by fairseq, features_<i> [L, F, D] of every layer
    DIR/chunks.npz            the same for a layer of long clips, read in chunks as textlesslib does
    DIR/pretraining.npz       a batch, and by fairseq its losses and their gradients, for the model PRETRAINED
    DIR/kmeans.<kind>.bin     k-means as fairseq's learn_kmeans.py saves it; DIR/kmeans.npy: its centroids
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import warnings
from pathlib import Path
from typing import Any

# fairseq's torch.load unpickles anything, but these files are this program's own.
os.environ["TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"] = "1"

import joblib
import numpy as np
import torch
from fairseq import checkpoint_utils
from fairseq.criterions.hubert_criterion import HubertCriterion
from fairseq.dataclass.utils import convert_namespace_to_omegaconf
from fairseq.models.hubert import HubertConfig, HubertModel
from fairseq.tasks.hubert_pretraining import HubertPretrainingConfig, HubertPretrainingTask
from omegaconf import OmegaConf
from sklearn.cluster import MiniBatchKMeans

AT_50_HZ = "[(16,10,5)] + [(16,3,2)] * 4 + [(16,2,2)] * 2"
AT_25_HZ = "[(16,10,5)] + [(16,3,2)] * 4 + [(16,2,2)] * 3"
SMALL = {
    "conv_feature_layers": AT_50_HZ,
    "encoder_layers": 3,
    "encoder_embed_dim": 24,
    "encoder_ffn_embed_dim": 40,
    "encoder_attention_heads": 4,
    "conv_pos": 16,
    "conv_pos_groups": 4,
    "label_rate": 50.0,
}
# Settings of the model, and whether the task normalizes waveforms.
MODELS: dict[str, tuple[dict[str, Any], bool]] = {
    "base-50hz": ({}, False),
    "twist-25hz": ({"conv_feature_layers": AT_25_HZ, "conv_pos_batch_norm": True}, False),
    "25hz-weight-norm": ({"conv_feature_layers": AT_25_HZ}, False),
    "50hz-batch-norm": ({"conv_pos_batch_norm": True}, False),
    "large": ({"extractor_mode": "layer_norm", "layer_norm_first": True, "conv_bias": True}, True),
    "large-25hz": (
        {"extractor_mode": "layer_norm", "layer_norm_first": True, "conv_pos_batch_norm": True}
        | {"conv_feature_layers": AT_25_HZ},
        True,
    ),
    "layer-norm-extractor": ({"extractor_mode": "layer_norm", "conv_feature_layers": AT_25_HZ}, False),
    "norm-first": ({"layer_norm_first": True, "conv_bias": True}, False),
    "normalized": ({"conv_feature_layers": AT_25_HZ}, True),
    "no-projection": ({"encoder_embed_dim": 16}, False),
    "odd-positions": ({"conv_pos": 15}, False),
    "16hz": ({"conv_feature_layers": f"{AT_50_HZ} + [(16,3,3)]", "conv_pos_batch_norm": True}, False),
    "12hz": ({"conv_feature_layers": f"{AT_50_HZ} + [(16,4,4)]", "conv_pos_batch_norm": True}, False),
    # The true widths, so that rounding is that of the true model; two of its twelve layers.
    "twist-25hz-wide": (
        {"conv_feature_layers": AT_25_HZ.replace("16,", "512,"), "conv_pos_batch_norm": True, "encoder_layers": 2}
        | {"encoder_embed_dim": 768, "encoder_ffn_embed_dim": 3072, "encoder_attention_heads": 12}
        | {"conv_pos": 128, "conv_pos_groups": 16},
        False,
    ),
}
MAX_CHUNK_SAMPLES = 1_600_000
# One and two whole chunks; with a tail that textlesslib leaves out; that gives many frames; that just gives one.
LONG_WAV_SAMPLES = (1_600_000, 3_200_000, 1_600_009, 1_640_000, 1_600_720)
PRETRAINED = "base-50hz"
UNMASKED_WEIGHT, FEATURE_PENALTY, FEATURE_GRADIENT_SCALE = 0.5, 10.0, 0.1
GRADIENTS = (
    "feature_extractor.conv_layers.0.0.weight", "feature_extractor.conv_layers.6.0.weight", "post_extract_proj.weight",
    "encoder.layers.0.fc1.weight", "encoder.layers.2.self_attn.q_proj.weight", "encoder.layer_norm.weight",
    "mask_emb", "final_proj.weight", "final_proj.bias", "label_embs_concat",
)  # fmt: skip
# textlesslib leaves out tails of under 10 samples, and hands the model longer ones that it has no frame for.
TOO_SHORT_TAIL_SAMPLES = 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "dict.km.txt").write_text("".join(f"{unit} 1\n" for unit in range(20)))
    for seed, (name, (settings, normalize)) in enumerate(MODELS.items()):
        torch.manual_seed(seed)
        write_checkpoints(folder, name, SMALL | settings, normalize)
        write_features(folder, name)
    write_chunks(folder)
    write_pretraining(folder)
    write_kmeans(folder)


def write_checkpoints(folder: Path, name: str, settings: dict[str, Any], normalize: bool) -> None:
    model_config = OmegaConf.merge(OmegaConf.structured(HubertConfig), {"_name": "hubert", **settings})
    task_config = OmegaConf.merge(
        OmegaConf.structured(HubertPretrainingConfig),
        {"_name": "hubert_pretraining", "data": str(folder), "labels": ["km"], "label_rate": settings["label_rate"]}
        | {"normalize": normalize},
    )
    task = HubertPretrainingTask.setup_task(task_config)
    model = HubertModel.build_model(model_config, task)
    randomize(model)
    config = convert_namespace_to_omegaconf(argparse.Namespace())
    OmegaConf.set_struct(config, False)
    config.model, config.task = model_config, task_config
    plain_config = OmegaConf.to_container(config, resolve=True, enum_to_str=True)
    # As fairseq's Trainer.state_dict has it.
    state = {
        "args": None,
        "cfg": plain_config,
        "model": model.state_dict(),
        "criterion": None,
        "optimizer_history": [
            {"optimizer_name": "FairseqAdam", "lr_scheduler_state": {"best": None}, "num_updates": 7}
        ],
        "task_state": task.state_dict(),
        "extra_state": {"metrics": {}, "previous_training_time": np.float64(1.5), "val_loss": torch.tensor(3.0)},
        "last_optimizer_state": {"state": {0: {"step": 7, "exp_avg": torch.zeros(3)}}, "param_groups": [{"lr": 5e-4}]},
    }
    checkpoint_utils.torch_persistent_save(state, str(folder / f"{name}.pt"))
    torch.save(state, folder / f"{name}.legacy.pt", _use_new_zipfile_serialization=False)
    # fairseq 0.10 and 0.11 left omegaconf's containers, and before 0.10 there was a flat namespace.
    torch.save({**state, "cfg": OmegaConf.create(plain_config)}, folder / f"{name}.omegaconf.pt")
    flat = argparse.Namespace(**{**plain_config["task"], **plain_config["model"], "arch": "hubert"})
    del flat._name
    torch.save({**state, "cfg": None, "args": flat}, folder / f"{name}.args.pt", _use_new_zipfile_serialization=False)


def randomize(model: torch.nn.Module) -> None:
    """Moves every weight and statistic off its initial value, where ones or zeros would hide a mistake."""
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm1d):
            module.running_mean.normal_(0, 0.5)
            module.running_var.uniform_(0.5, 2)
            module.num_batches_tracked.fill_(7)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.2 * torch.randn_like(parameter))


def read_features(model: HubertModel, normalize: bool, wav: torch.Tensor, layer: int) -> torch.Tensor:
    """Features [F, D] in the steps of textlesslib's HubertFeatureReader: normalize the clip, then chunk by chunk."""
    with torch.inference_mode():
        if normalize:
            wav = torch.nn.functional.layer_norm(wav, wav.shape)
        chunks = [chunk for chunk in wav.split(MAX_CHUNK_SAMPLES) if len(chunk) >= TOO_SHORT_TAIL_SAMPLES]
        features = [model.extract_features(source=chunk[None], output_layer=layer)[0] for chunk in chunks]
    return torch.cat(features, dim=1)[0]


def load(path: Path) -> tuple[HubertModel, bool]:
    models, _, task = checkpoint_utils.load_model_ensemble_and_task([str(path)])
    return models[0].eval(), task.cfg.normalize


def write_features(folder: Path, name: str) -> None:
    model, normalize = load(folder / f"{name}.pt")
    arrays = {}
    for index, num_samples in enumerate(wav_lengths(model)):
        # From loud to quiet: the norms' epsilons matter for quiet clips.
        wav = 0.3 * 10.0**-index * torch.randn(num_samples)
        layers = [read_features(model, normalize, wav, layer + 1) for layer in range(len(model.encoder.layers))]
        arrays[f"wav_{index}"] = wav.numpy()
        arrays[f"features_{index}"] = torch.stack(layers).numpy()
    np.savez(folder / f"{name}.npz", **arrays)


def wav_lengths(model: HubertModel) -> list[int]:
    """One frame at its shortest and at its longest, two frames, and clips of any length."""
    receptive_field_samples, hop_samples = 1, 1
    for layer in model.feature_extractor.conv_layers:
        conv = layer[0]
        receptive_field_samples += (conv.kernel_size[0] - 1) * hop_samples
        hop_samples *= conv.stride[0]
    two_frames = receptive_field_samples + hop_samples
    return [33_333, 80_000, 16_000, two_frames, two_frames - 1, receptive_field_samples]


def write_chunks(folder: Path) -> None:
    arrays: dict[str, Any] = {"num_samples": np.array(LONG_WAV_SAMPLES), "layer": 2}
    model, normalize = load(folder / "twist-25hz.pt")
    for index, num_samples in enumerate(LONG_WAV_SAMPLES):
        torch.manual_seed(index)
        arrays[f"wav_{index}"] = (3000 * torch.randn(num_samples)).to(torch.int16).numpy()
        wav = torch.from_numpy(arrays[f"wav_{index}"]).float() / 2**15
        arrays[f"features_{index}"] = read_features(model, normalize, wav, 2).numpy()
    for num_samples in (TOO_SHORT_TAIL_SAMPLES, 719):
        with contextlib.suppress(RuntimeError, ValueError):  # a kernel, a norm over time
            read_features(model, normalize, torch.zeros(MAX_CHUNK_SAMPLES + num_samples), 1)
            sys.exit(f"fairseq has features for a tail of {num_samples} samples; the test of tails is out of date")
    np.savez(folder / "chunks.npz", **arrays)


def write_pretraining(folder: Path) -> None:
    """Losses as sums over frames, as HubertCriterion takes them, and the gradients of their weighted sum."""
    torch.manual_seed(0)
    models, _, task = checkpoint_utils.load_model_ensemble_and_task([str(folder / f"{PRETRAINED}.pt")])
    model = models[0].eval()  # without dropout
    model.feature_grad_mult = FEATURE_GRADIENT_SCALE
    wav = 0.3 * torch.randn(3, 33_333)
    num_frames = model.extract_features(source=wav)[0].shape[1]
    units = torch.randint(20, (3, num_frames))
    is_masked = torch.rand(3, num_frames) < 0.5

    def apply_mask(hidden: torch.Tensor, *_: Any) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.where(is_masked[..., None], model.mask_emb, hidden), is_masked

    model.apply_mask = apply_mask
    criterion = HubertCriterion(task, 1.0, UNMASKED_WEIGHT, [FEATURE_PENALTY])
    nothing_padded = torch.zeros(wav.shape, dtype=torch.bool)
    net_input = {"source": wav, "padding_mask": nothing_padded[:, : num_frames * (wav.shape[1] // num_frames)]}
    sample = {"id": torch.arange(3), "target_list": [units], "net_input": net_input}
    loss, sample_size, told = criterion(model, sample)
    loss.backward()
    weights = dict(model.named_parameters())
    np.savez(
        folder / "pretraining.npz",
        wav=wav.numpy(),
        units=units.numpy(),
        is_masked=is_masked.numpy(),
        loss=loss.item(),
        sample_size=sample_size,
        masked_nll=told["loss_m_0"],
        masked_correct=told["correct_m_0"],
        unmasked_nll=told["loss_u_0"],
        unmasked_correct=told["correct_u_0"],
        feature_penalty=told["loss_features_pen"] / FEATURE_PENALTY / sample_size,
        **{name: weights[name].detach().numpy() for name in GRADIENTS},
        **{f"gradient of {name}": weights[name].grad.numpy() for name in GRADIENTS},
    )


def write_kmeans(folder: Path) -> None:
    frames = np.random.default_rng(0).standard_normal((3000, 24)).astype(np.float32)
    # The settings of fairseq's learn_kmeans.py, but for the number of starts.
    kmeans = MiniBatchKMeans(
        50, init="k-means++", max_iter=100, batch_size=1000, tol=0.0, max_no_improvement=100, n_init=2,
        reassignment_ratio=0.0, random_state=np.random.RandomState(0),
    )  # fmt: skip
    kmeans.fit(frames)
    joblib.dump(kmeans, folder / "kmeans.plain.bin")
    joblib.dump(kmeans, folder / "kmeans.zlib.bin", compress=3)
    joblib.dump(kmeans, folder / "kmeans.gzip.bin", compress=("gzip", 3))
    for protocol in (2, 3, 4, 5):
        joblib.dump(kmeans, folder / f"kmeans.protocol-{protocol}.bin", protocol=protocol)
    np.save(folder / "kmeans.npy", kmeans.cluster_centers_)
    np.savez(folder / "kmeans_units.npz", frames=frames, units=kmeans.predict(frames))


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main()
