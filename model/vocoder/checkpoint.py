"""Reads and writes vocoders: a folder of ours, or a published .pt with its JSON; nothing in a file is executed.

    FOLDER/config.json          VocoderConfig, and codebook_fingerprint: the codebook whose units it speaks;
                                pitch_fingerprint and style_fingerprint: the models whose codes it takes;
                                f0_means_hz: how high its speakers speak, where it has a source
    FOLDER/speakers.txt         the names of its speakers, in the order of their numbers, where it has several
    FOLDER/model.safetensors    the weights
    FOLDER/pitch.json, pitch.safetensors    the pitch tokenizer whose codes tell the source's F0, where it has one

    <name>.pt                   state under ["generator"]; the config is <name>_config.json or config.json beside it

Weight norm is folded from either layout: weight_g and weight_v (torch before 2.1), or parametrizations.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import safetensors.torch
import torch
from safetensors import SafetensorError

from model import weights_file
from model.artefacts import local_path
from model.pitch.checkpoint import read_pitch_model
from model.torch_file import TorchFile, mapping
from model.vocoder.config import VocoderConfig
from model.vocoder.melody import Melody
from model.vocoder.vocoder import Vocoder
from model.weights_file import refuse_not_finite
from pipeline.errors import TwistError
from pipeline.files import foreign_json

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from torch import Tensor

WEIGHTS = "model.safetensors"
SPEAKERS = "speakers.txt"
CONFIG = "config.json"
PITCH_CONFIG, PITCH_WEIGHTS = "pitch.json", "pitch.safetensors"
# torch's old and present names of a normed weight's length and direction.
NORMED = ((".weight_g", ".weight_v"), (".parametrizations.weight.original0", ".parametrizations.weight.original1"))


def local_vocoder(path_or_name: str) -> Path:
    """Where a vocoder's folder, or its file with the config beside it, lies on this machine; see `local_path`.

    Raises:
        TwistError: there is none of this name on S3.
        RunError: it cannot be fetched.
    """
    stem = path_or_name.rpartition("/")[2].rpartition(".")[0]
    return local_path(path_or_name, beside=(f"{stem}_config.json", CONFIG))


def load_vocoder(path: Path, config: Path | None = None) -> tuple[Vocoder, str | None]:
    """Loads a vocoder in float32, and the fingerprint of the codebook whose units it speaks (None if not recorded).

    Args:
        path: A folder of ours, or a file that torch.save wrote.
        config: JSON config of a published checkpoint; by default the one beside it.

    Raises:
        TwistError: a file is missing or damaged, or is not a unit HiFi-GAN's.
    """
    config_path = config or _config_beside(path)
    shape = VocoderConfig.read(config_path)
    fingerprint = foreign_json.parse(config_path.read_text()).get("codebook_fingerprint")
    state = _read_folder(path / WEIGHTS) if path.is_dir() else _read_published(path)
    refuse_not_finite(state, path)
    vocoder = Vocoder(shape)
    _load_state(vocoder, folded(state), path)
    return vocoder, fingerprint


def code_fingerprints(path: Path, config: Path | None = None) -> dict[str, str]:
    """The fingerprints of the models of `pitch` and `style` whose codes a vocoder takes, of those that it records.

    Raises:
        TwistError: its config cannot be read.
    """
    config_path = config or _config_beside(path)
    VocoderConfig.read(config_path)
    content = foreign_json.parse(config_path.read_text())
    return {name: str(told) for name in ("pitch", "style") if (told := content.get(f"{name}_fingerprint")) is not None}


def load_melody(path: Path) -> Melody | None:
    """What a vocoder's codes of pitch say, for its source; None where it has none.

    Raises:
        TwistError: a file is missing or damaged, or does not fit the vocoder.
    """
    config_path = _config_beside(path)
    shape = VocoderConfig.read(config_path)
    if not shape.source_harmonics:
        return None
    means_hz = foreign_json.parse(config_path.read_text()).get("f0_means_hz")
    if not isinstance(means_hz, list) or not all(isinstance(mean, int | float) for mean in means_hz):
        raise TwistError(f"{config_path} says no f0_means_hz, the mean F0 of each speaker, which source_harmonics need")
    folder = config_path.parent
    try:
        melody = Melody(read_pitch_model(folder / PITCH_CONFIG, folder / PITCH_WEIGHTS), tuple(map(float, means_hz)))
        melody.require_fit(shape)
    except TwistError as error:
        raise TwistError(f"{path}: {error}") from error
    return melody


def save_vocoder(
    vocoder: Vocoder,
    folder: Path,
    codebook_fingerprint: str | None,
    dtype: torch.dtype = torch.float32,
    *,
    code_fingerprints: Mapping[str, str] | None = None,
    melody: Melody | None = None,
) -> None:
    """Writes a vocoder into an existing folder, its weights in `dtype`; weight norm is left as it is."""
    weights = {name: weight.cpu().contiguous().to(dtype) for name, weight in vocoder.state_dict().items()}
    write_vocoder(vocoder.config, weights, folder, codebook_fingerprint, code_fingerprints, melody=melody, dtype=dtype)


def write_vocoder(
    config: VocoderConfig,
    weights: Mapping[str, Tensor],
    folder: Path,
    codebook_fingerprint: str | None,
    code_fingerprints: Mapping[str, str] | None = None,
    speakers: Sequence[str] = (),
    melody: Melody | None = None,
    dtype: torch.dtype = torch.float32,
) -> None:
    """Writes a vocoder into an existing folder, from its state dict on the CPU.

    Args:
        config: Its shape.
        weights: Its state dict.
        folder: Where.
        codebook_fingerprint: Of the codebook whose units it speaks.
        code_fingerprints: Of the models of `pitch` and `style` whose codes it takes.
        speakers: The names of its speakers, by number; a blank in one becomes _.
        melody: What codes of pitch say, where it has a source.
        dtype: Of the melody's weights.
    """
    weights_file.save(weights, folder / WEIGHTS)
    write_config(config, folder, codebook_fingerprint, code_fingerprints, melody.means_hz if melody else ())
    if melody is not None:
        pitch = {name: weight.contiguous().to(dtype) for name, weight in melody.pitch.state_dict().items()}
        weights_file.save(pitch, folder / PITCH_WEIGHTS)
        (folder / PITCH_CONFIG).write_text(json.dumps(melody.pitch.config.to_json(), indent=2) + "\n")
    if speakers:
        (folder / SPEAKERS).write_text("".join("_".join(name.split()) + "\n" for name in speakers), encoding="utf-8")


def write_config(
    config: VocoderConfig,
    folder: Path,
    codebook_fingerprint: str | None,
    code_fingerprints: Mapping[str, str] | None = None,
    f0_means_hz: Sequence[float] = (),
) -> None:
    """Writes FOLDER/config.json."""
    content: dict[str, Any] = {**config.to_json(), "codebook_fingerprint": codebook_fingerprint}
    content |= {f"{name}_fingerprint": told for name, told in (code_fingerprints or {}).items()}
    if f0_means_hz:
        content["f0_means_hz"] = list(f0_means_hz)
    (folder / CONFIG).write_text(json.dumps(content, indent=2) + "\n")


def folded(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The state dict with weight norm folded in: g * v / |v|, the norm taken over all dimensions but the first.

    Raises:
        TwistError: a weight has a length but no direction.
    """
    whole = dict(state)
    for length, direction in NORMED:
        for name in [name for name in state if name.endswith(length)]:
            prefix = name.removesuffix(length)
            g = whole.pop(name)
            v = whole.pop(f"{prefix}{direction}", None)
            if v is None:
                raise TwistError(f"the vocoder's state has {name} without {prefix}{direction}")
            whole[f"{prefix}.weight"] = torch._weight_norm(v.float(), g.float(), 0)
    return whole


def _load_state(vocoder: Vocoder, state: dict[str, Tensor], path: Path) -> None:
    try:
        missing, unexpected = vocoder.load_state_dict(state, strict=False)
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()
        raise TwistError(f"the vocoder in {path} is not of the shape that its config says: {reason}") from error
    if missing or unexpected:
        what = f"lacks {missing[0]}" if missing else f"has {unexpected[0]}, which its config does not ask for"
        raise TwistError(f"the vocoder in {path} {what}; give the config that belongs to it")


def _config_beside(path: Path) -> Path:
    if path.is_dir():
        return path / CONFIG
    beside = path.with_name(f"{path.stem}_config.json")
    return beside if beside.is_file() else path.with_name(CONFIG)


def _read_folder(path: Path) -> dict[str, Tensor]:
    try:
        # Cloned: tensors in the mapped file are not aligned, and kernels may then round differently.
        return {name: weight.float().clone() for name, weight in safetensors.torch.load_file(path).items()}
    except FileNotFoundError:
        raise TwistError(f"{path.parent} holds no vocoder (there is no {WEIGHTS} in it)") from None
    except (OSError, SafetensorError) as error:
        raise TwistError(f"{path} is damaged: {error}") from error


def _read_published(path: Path) -> dict[str, Tensor]:
    with TorchFile(path) as file:
        try:
            state = mapping(mapping(file.content)["generator"])
        except (ValueError, KeyError) as error:
            raise TwistError(f"{path} is no published vocoder: it holds no state named generator") from error
        return {str(name): file.tensor(recorded).float() for name, recorded in state.items()}
