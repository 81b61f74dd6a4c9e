"""Spoken-language classifiers: 16 kHz clips in, the probability of each language out.

Four kinds are recognized by their files, in a folder (local or s3://) or a repository of the Hugging Face hub:

- Whisper (multilingual): its own language detection, one decoder step over 30 s;
- MMS-LID, or any other wav2vec 2.0 for sequence classification, whose labels are language codes;
- ECAPA-TDNN as SpeechBrain trained it on VoxLingua107: embedding_model.ckpt, classifier.ckpt, label_encoder.txt;
- small ones of `twist train-language`, as the embedded language-tiny is: classifier.json. These tell one language from
  all others, and are weak evidence: what they are unsure of is kept.

Only clips of equal length share a batch, so there is no padding, and a clip's result depends on that clip alone.
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

import torch
from torch import Tensor

from model.artefacts import EMBEDDED, local_path
from model.device import Device, pick_device
from model.foreign_config import architectures_of, read_content, refuse_hostile
from model.language_id.ecapa import EcapaClassifier
from model.language_id.pooled_config import CLASSIFIER
from model.language_id.pooled_folder import load_pooled, probabilities_of
from model.torch_file import TorchFile, mapping
from model.weights_file import refuse_not_finite
from pipeline.errors import TwistError
from pipeline.files import storage
from pipeline.files.checksums import sha256_of_files

if TYPE_CHECKING:
    from collections.abc import Sequence

Kind = Literal["whisper", "wav2vec2", "ecapa", "pooled"]

ECAPA_FILES = ("embedding_model.ckpt", "classifier.ckpt", "label_encoder.txt")
# transformers' models are read from safetensors only, which cannot hide code.
HUB_PATTERNS = (*ECAPA_FILES, "*.json", "*.safetensors")
SAMPLES_PER_BATCH = {"cpu": 16_000 * 40, "cuda": 16_000 * 480}
MIN_SAMPLES = 1600


class LanguageClassifier(Protocol):
    """Recognizes the language of clips; made by `load_language_classifier`."""

    labels: tuple[str, ...]
    """The languages [L], as the model names them."""

    def __call__(self, wavs: Sequence[Tensor]) -> Tensor:
        """Clips [S] float32 at 16 kHz of at least a tenth of a second -> probabilities [N, L], on the CPU."""
        ...


def is_folder(path_or_name: str) -> bool:
    """Whether a classifier is named by its folder, or is embedded, and is not named by its repository on the hub."""
    return path_or_name in EMBEDDED or storage.is_s3(path_or_name) or Path(path_or_name).is_dir()


def find_language_classifier(path_or_name: str) -> tuple[Path, Kind]:
    """The local folder of a classifier, fetched from S3 or the hub if need be, and the classifier's kind.

    Raises:
        TwistError: there is none, or it is of no known kind.
        RunError: it cannot be fetched from S3.
    """
    folder = local_path(path_or_name) if is_folder(path_or_name) else _fetch(path_or_name)
    if all((folder / name).is_file() for name in ECAPA_FILES):
        return folder, "ecapa"
    if (folder / CLASSIFIER).is_file():
        return folder, "pooled"
    try:
        architectures = architectures_of(read_content(folder))
    except (OSError, ValueError) as error:
        raise TwistError(
            f"{folder} holds no classifier of languages: neither a config.json of transformers nor "
            f"{', '.join(ECAPA_FILES)} ({error})"
        ) from None
    name = architectures[0] if architectures else ""
    if name.startswith("WhisperFor"):
        return folder, "whisper"
    if name == "Wav2Vec2ForSequenceClassification":
        return folder, "wav2vec2"
    raise TwistError(f"{folder} holds a {name or 'model of no stated kind'}, which tells no languages")


def fingerprint_of_classifier(folder: Path) -> str:
    """sha256 (hex) of all files that the classifier's answers depend on."""
    return sha256_of_files(
        path
        for path in folder.iterdir()
        if path.is_file() and (path.name in ECAPA_FILES or path.suffix in (".json", ".safetensors"))
    )


def load_language_classifier(path_or_name: str, device: Device = "auto") -> LanguageClassifier:
    """Loads a classifier from a folder or by its hub name, onto a device (auto: cuda if there is a GPU).

    Raises:
        TwistError: it cannot be fetched or loaded, or there is no such device.
    """
    folder, kind = find_language_classifier(path_or_name)
    place = pick_device(device)
    try:
        if kind == "pooled":
            return PooledLanguages(folder, device)
        if (folder / "config.json").is_file():
            refuse_hostile(read_content(folder))
        load = {"whisper": WhisperLanguages, "wav2vec2": Wav2Vec2Languages, "ecapa": EcapaLanguages}[kind]
        return load(folder, place)
    except TwistError:
        raise
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise TwistError(f"{folder} cannot be loaded as {kind}: {reason}") from error


def _fetch(name: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, allow_patterns=list(HUB_PATTERNS)))
    except (HFValidationError, HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise TwistError(
            f"there is no folder {name}, and nothing of this name can be fetched from the Hugging Face hub "
            f"({' '.join(str(error).split())[:200]}); fetch it on a machine with a network and name its folder"
        ) from error


class _Batched:
    """Runs clips of equal length together, as many as fit."""

    labels: tuple[str, ...]
    seconds_per_clip: float | None = None
    """Seconds of audio that any clip costs, whatever its length; None: its own length."""

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def probabilities(self, wav: Tensor) -> Tensor:
        """wav [B, S] on the device -> [B, L]."""
        raise NotImplementedError

    @torch.inference_mode()
    def __call__(self, wavs: Sequence[Tensor]) -> Tensor:
        by_length: dict[int, list[int]] = defaultdict(list)
        for index, wav in enumerate(wavs):
            assert wav.ndim == 1 and len(wav) >= MIN_SAMPLES, f"clip {index} is {list(wav.shape)}, shorter than 0.1 s"
            by_length[len(wav)].append(index)
        result = torch.zeros(len(wavs), len(self.labels))
        for length, indices in by_length.items():
            cost = length if self.seconds_per_clip is None else round(self.seconds_per_clip * 16_000)
            size = max(1, SAMPLES_PER_BATCH[self.device.type] // cost)
            for first in range(0, len(indices), size):
                batch = indices[first : first + size]
                stacked = torch.stack([wavs[index] for index in batch]).to(self.device)
                result[batch] = self.probabilities(stacked).float().cpu()
        return result


class WhisperLanguages(_Batched):
    """Whisper's own detection: the first token after the start of a transcript names the language."""

    seconds_per_clip = 30.0

    def __init__(self, folder: Path, device: torch.device) -> None:
        from transformers import WhisperFeatureExtractor, WhisperForConditionalGeneration

        super().__init__(device)
        self._extract = WhisperFeatureExtractor.from_pretrained(folder)
        model: Any = WhisperForConditionalGeneration.from_pretrained(folder, dtype=torch.float32, use_safetensors=True)
        refuse_not_finite(model.state_dict(), folder)
        self._model = model.eval().to(device)
        token_of = getattr(self._model.generation_config, "lang_to_id", None)
        if not token_of:
            raise ValueError("it knows English only; take a multilingual Whisper, with a generation_config.json")
        self.labels = tuple(name.strip("<|>") for name in token_of)
        self._tokens = torch.tensor(list(token_of.values()), device=device)
        self._start = int(self._model.generation_config.decoder_start_token_id)

    def probabilities(self, wav: Tensor) -> Tensor:
        clips = list(wav.cpu().numpy())
        features = self._extract(clips, sampling_rate=16_000, return_tensors="pt").input_features.to(self.device)
        start = torch.full((len(clips), 1), self._start, device=self.device)
        logits = self._model(input_features=features, decoder_input_ids=start, use_cache=False).logits[:, -1]
        return logits[:, self._tokens].softmax(dim=1)  # type: ignore[no-any-return]


class Wav2Vec2Languages(_Batched):
    """A wav2vec 2.0 with a class for each language."""

    def __init__(self, folder: Path, device: torch.device) -> None:
        from transformers import Wav2Vec2FeatureExtractor, Wav2Vec2ForSequenceClassification

        super().__init__(device)
        self._extract = Wav2Vec2FeatureExtractor.from_pretrained(folder)
        model: Any = Wav2Vec2ForSequenceClassification.from_pretrained(
            folder, dtype=torch.float32, use_safetensors=True
        )
        refuse_not_finite(model.state_dict(), folder)
        self._model = model.eval().to(device)
        names = self._model.config.id2label
        self.labels = tuple(str(names[number]) for number in range(len(names)))

    def probabilities(self, wav: Tensor) -> Tensor:
        clips = list(wav.cpu().numpy())
        values = self._extract(clips, sampling_rate=16_000, return_tensors="pt").input_values.to(self.device)
        return self._model(values).logits.softmax(dim=1)  # type: ignore[no-any-return]


class EcapaLanguages(_Batched):
    """SpeechBrain's VoxLingua107 model, from its own checkpoints, which are read as tensors and never unpickled."""

    def __init__(self, folder: Path, device: torch.device) -> None:
        super().__init__(device)
        self.labels = _read_label_encoder(folder / "label_encoder.txt")
        weights = {
            **_read_tensors(folder / "embedding_model.ckpt", "embedding_model"),
            **_read_tensors(folder / "classifier.ckpt", "classifier"),
        }
        shape = {name: list(tensor.shape) for name, tensor in weights.items()}
        first, pooled = (
            shape["embedding_model.blocks.0.conv.conv.weight"],
            shape["embedding_model.mfa.conv.conv.weight"],
        )
        model = EcapaClassifier(
            num_languages=len(self.labels),
            num_mels=first[1],
            channels=first[0],
            pooled_channels=pooled[0],
            attention_channels=shape["embedding_model.asp.tdnn.conv.conv.weight"][0],
            squeeze_channels=shape["embedding_model.blocks.1.se_block.conv1.conv.weight"][0],
            embedding_dim=shape["embedding_model.fc.conv.weight"][0],
            hidden_dim=shape["classifier.DNN.block_0.linear.w.weight"][0],
        )
        model.load_state_dict(weights)
        refuse_not_finite(model.state_dict(), folder)
        self._model = model.eval().to(device)

    def probabilities(self, wav: Tensor) -> Tensor:
        log_probabilities: Tensor = self._model(wav)
        return log_probabilities.exp()


class PooledLanguages:
    """A small classifier of ours: the probability of its wanted language is calibrated.

    Args:
        folder: Of `twist train-language`.
        device: Where it runs.
    """

    def __init__(self, folder: Path, device: Device) -> None:
        self._encoder, self._classifier, facts = load_pooled(folder, device)
        self._calibration = facts.calibration
        self.labels = facts.labels

    @torch.inference_mode()
    def __call__(self, wavs: Sequence[Tensor]) -> Tensor:
        """See LanguageClassifier."""
        result = torch.zeros(len(wavs), len(self.labels))
        # Each clip by itself: neither padding nor the size of a batch changes a bit.
        for row, wav in zip(result, wavs, strict=True):
            (frames,) = self._encoder.encode([wav])
            logits = self._classifier(frames[None], torch.tensor([len(frames)], device=frames.device))
            row[:] = probabilities_of(logits.cpu(), self._calibration)[0]
        return result


def _read_tensors(path: Path, prefix: str) -> dict[str, Tensor]:
    with TorchFile(path) as file:
        return {f"{prefix}.{name}": file.tensor(recorded) for name, recorded in mapping(file.content).items()}


def _read_label_encoder(path: Path) -> tuple[str, ...]:
    """The labels in the order of their classes: lines `'en: English' => 20` up to a line of equals signs."""
    by_number: dict[int, str] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        label, arrow, number = line.rpartition(" => ")
        if line.startswith("==="):
            break
        if arrow and number.strip().isdigit():
            by_number[int(number)] = label.strip("'\" ").partition(":")[0]
    if sorted(by_number) != list(range(len(by_number))) or not by_number:
        raise ValueError(f"{path.name} does not number its labels from 0")
    return tuple(by_number[number] for number in range(len(by_number)))
