"""A loaded style model: speech to a code a second.

Two layouts are read.

1. Ours: config.json, model.safetensors. An encoder's features are averaged over each second, and scaled; the code is
   that of the nearest centroid (k-means), or of the largest output of a linear layer.
2. Meta's of SpiRit-LM EXPRESSIVE: transformers' Wav2Vec2ForSequenceClassification. Each stretch of 100 s is scaled to
   zero mean and unit variance; hidden states are projected, averaged over each 50 frames (a second), and classified.

The last second may be short. A clip's codes do not depend on the other clips: only clips of one length share a batch.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from model import weights_file
from model.artefacts import identity, local_path
from model.device import Device, pick_device
from model.encoder.config import EncoderConfig
from model.encoder.encoder import Encoder, load_encoder
from model.training import checkpoint
from pipeline.errors import TwistError, brief
from pipeline.files import storage
from pipeline.files.checksums import sha256_of
from pipeline.records import SAMPLE_RATE_HZ

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from model.code_model import CodeModel

FORMAT = "twist-style"
CONFIG, WEIGHTS = "config.json", "model.safetensors"
# Of Meta's model: frames of a code, and the stretches that are scaled and coded by themselves.
META_FRAMES_PER_CODE = 50
META_CHUNK_SAMPLES = 100 * SAMPLE_RATE_HZ


def load_style(path: str, device: Device = "auto") -> CodeModel:
    """Loads a style model from its folder, local or s3://, or by its name.

    Raises:
        TwistError: there is none, or its encoder is gone or another.
        RunError: it cannot be fetched.
    """
    folder = checkpoint.checked(local_path(path))
    try:
        settings = json.loads((folder / CONFIG).read_text())
    except (OSError, ValueError) as error:
        raise TwistError(f"{path} holds no style model: {CONFIG} cannot be read ({brief(error)})") from error
    if not isinstance(settings, dict):
        raise TwistError(f"{path} holds no style model: {CONFIG} is no JSON object")
    try:
        if settings.get("format") == FORMAT:
            return PooledStyle.load(folder, settings, device)
        if "Wav2Vec2ForSequenceClassification" in (settings.get("architectures") or ()):
            return MetaStyle(folder, device)
    except TwistError:
        raise
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError) as error:
        raise TwistError(f"{path} cannot be loaded as a style model: {brief(error)}") from error
    raise TwistError(
        f"{path} holds no style model: neither one of `twist train-style` nor a Wav2Vec2ForSequenceClassification"
    )


def pooled(frames: Tensor, frames_per_code: int) -> Tensor:
    """Means over each `frames_per_code` frames: [F, D] -> [ceil(F / frames_per_code), D]; the last may be of fewer."""
    num_whole = len(frames) // frames_per_code * frames_per_code
    means = frames[:num_whole].reshape(-1, frames_per_code, frames.shape[1]).mean(dim=1)
    rest = frames[num_whole:]
    return torch.cat([means, rest.mean(dim=0, keepdim=True)]) if len(rest) else means


class PooledStyle:
    """A model of ours.

    Args:
        encoder: Gives features [F, D].
        encoder_config: What it was loaded by.
        method: kmeans or linear.
        weights: `mean` and `scale` [D] of features; `centroids` [K, D], or `weight` [K, D] and `bias` [K].
        labels: What codes stand for, of a linear layer; empty for clusters.
    """

    def __init__(
        self,
        encoder: Encoder,
        encoder_config: EncoderConfig,
        method: str,
        weights: dict[str, Tensor],
        labels: tuple[str, ...] = (),
    ) -> None:
        if encoder.sample_rate_hz % encoder.hop_samples:
            raise TwistError(f"an encoder with {encoder.hop_samples} samples a frame has no whole frames in a second")
        self._encoder = encoder
        self._encoder_config = encoder_config
        self._method = method
        self._weights = weights
        self.labels = labels
        self._on_device = {name: tensor.double().to(encoder.device) for name, tensor in weights.items()}
        self.frames_per_code = encoder.sample_rate_hz // encoder.hop_samples
        self.rate_hz = 1.0
        self.num_codes = len(weights["centroids" if method == "kmeans" else "weight"])
        self.min_samples = encoder.min_samples
        content = [encoder.fingerprint, method, *(f"{name}:{_sha256(weights[name])}" for name in sorted(weights))]
        self.fingerprint = hashlib.sha256("\n".join(content).encode()).hexdigest()

    @classmethod
    def load(cls, folder: Path, settings: dict[str, Any], device: Device) -> PooledStyle:
        """Reads what `save` wrote.

        Raises:
            TwistError: its encoder is gone, or gives other features.
        """
        config = EncoderConfig(**settings["encoder"], device=device)
        encoder = load_encoder(config)
        if encoder.fingerprint != settings["encoder_fingerprint"]:
            raise TwistError(
                f"{folder} was fitted on other features than those of {config.path or config.name}; put the encoder "
                f"there that it was fitted on, or fit it again"
            )
        # Models that were made before there was a sum have none.
        if settings.get("weights_sha256") not in (None, sha256_of(str(folder / WEIGHTS))):
            raise TwistError(f"{folder / WEIGHTS} is damaged, or was not finished; fit the model again")
        weights = load_file(folder / WEIGHTS)
        return cls(encoder, config, settings["method"], weights, tuple(settings.get("labels", ())))

    def save(self, folder: Path) -> None:
        """Writes model.safetensors, config.json, and checksums.json, to which both are held when they are loaded."""
        encoder = asdict(self._encoder_config)
        del encoder["device"]
        settings: dict[str, Any] = {
            "format": FORMAT,
            "method": self._method,
            "num_codes": self.num_codes,
            "rate_hz": self.rate_hz,
            "encoder": encoder,
            "encoder_fingerprint": self._encoder.fingerprint,
            **({"labels": list(self.labels)} if self.labels else {}),
        }
        folder.mkdir(parents=True, exist_ok=True)
        unfinished = folder / f".{WEIGHTS}.part"
        weights_file.save({name: tensor.contiguous() for name, tensor in self._weights.items()}, unfinished)
        settings["weights_sha256"] = sha256_of(str(unfinished))
        config_json = (json.dumps(settings, indent=2) + "\n").encode()
        sums = {WEIGHTS: settings["weights_sha256"], CONFIG: hashlib.sha256(config_json).hexdigest()}
        # First without a list: between these two, files and list of a model that is fitted again would not agree.
        (folder / checkpoint.CHECKSUMS).unlink(missing_ok=True)
        unfinished.replace(folder / WEIGHTS)
        storage.write_bytes(str(folder / CONFIG), config_json)
        storage.write_bytes(str(folder / checkpoint.CHECKSUMS), checkpoint.checksums_text(sums).encode())

    @torch.inference_mode()
    def codes(self, wavs: Sequence[Tensor]) -> list[Tensor]:
        """See CodeModel."""
        return [self.codes_of(pooled(frames, self.frames_per_code)) for frames in self._encoder.encode(list(wavs))]

    def codes_of(self, features: Tensor) -> Tensor:
        """The codes [n] of averaged features [n, D]."""
        weights = self._on_device
        scaled = (features.to(self._encoder.device).double() - weights["mean"]) / weights["scale"]
        if self._method == "linear":
            return (scaled @ weights["weight"].T + weights["bias"]).argmax(dim=1).cpu()
        # The nearest centroid, without squares of features, which all have in common.
        centroids = weights["centroids"]
        return (centroids.square().sum(dim=1) - 2 * scaled @ centroids.T).argmin(dim=1).cpu()


class MetaStyle:
    """Meta's layout; see the top of this file.

    Args:
        folder: transformers' folder.
        device: Where it runs.
    """

    def __init__(self, folder: Path, device: Device) -> None:
        from transformers import Wav2Vec2ForSequenceClassification

        self._device = pick_device(device)
        model, report = Wav2Vec2ForSequenceClassification.from_pretrained(
            folder, local_files_only=True, output_loading_info=True
        )
        if report["missing_keys"] or report["mismatched_keys"]:
            raise TwistError(f"{folder} lacks some of its model's tensors, e.g. {sorted(report['missing_keys'])[:1]}")
        self._model = model.float().eval().to(self._device)
        config = self._model.config
        if config.use_weighted_layer_sum or config.add_adapter:
            raise TwistError(f"{folder} sums layers or has an adapter, which SpiRit-LM's style model does not")
        self.num_codes = int(config.num_labels)
        self.min_samples, hop = 1, 1
        for kernel, stride in zip(reversed(config.conv_kernel), reversed(config.conv_stride), strict=True):
            self.min_samples, hop = (self.min_samples - 1) * stride + kernel, hop * stride
        self.rate_hz = SAMPLE_RATE_HZ / (hop * META_FRAMES_PER_CODE)
        self.fingerprint = identity(str(folder)).removeprefix("sha256:")

    @torch.inference_mode()
    def codes(self, wavs: Sequence[Tensor]) -> list[Tensor]:
        """See CodeModel.

        Raises:
            TwistError: a clip is too short for a code.
        """
        found = []
        for wav in wavs:
            if len(wav) < self.min_samples:
                raise TwistError(f"a clip of {len(wav)} samples is too short for a code of style")
            chunks = wav.split(META_CHUNK_SAMPLES)  # type: ignore[no-untyped-call]
            found.append(torch.cat([self._code(chunk) for chunk in chunks if len(chunk) >= self.min_samples]))
        return found

    def _code(self, wav: Tensor) -> Tensor:
        """The codes [P] of one stretch [S]."""
        wav = wav.to(self._device, torch.float32)
        variance, mean = torch.var_mean(wav, correction=0)
        states = self._model.wav2vec2(((wav - mean) / torch.sqrt(variance + 1e-7))[None]).last_hidden_state
        means = pooled(self._model.projector(states)[0], META_FRAMES_PER_CODE)
        codes: Tensor = self._model.classifier(means).argmax(dim=1).cpu()
        return codes


def _sha256(tensor: Tensor) -> str:
    return hashlib.sha256(tensor.detach().cpu().contiguous().numpy().tobytes()).hexdigest()
