"""The shape of a unit HiFi-GAN, under the names that published config files use."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Self

from pipeline.errors import TwistError, brief
from pipeline.files import foreign_json

# Quantizers inside the generator, which some configs of speech-resynthesis ask for.
UNSUPPORTED = ("f0_vq_params", "code_vq_params")

# What SpiRit-LM's encoders of pitch and style give a code for.
F0_HOP_SAMPLES, STYLE_HOP_SAMPLES = 1280, 16_000

# Far above any vocoder; a damaged or hostile config would have us allocate until memory ends.
LARGEST_SIZE = 2**18
MOST_LAYERS = 16
MOST_HARMONICS, LONGEST_HOP = 256, 2**14  # of a vocoder with a source, whose convolutions are as long as a frame


def _require(name: str, value: object, holds: bool, rule: str) -> None:
    if not holds:
        raise TwistError(f"vocoder {name} is {brief(value)}; it must be {rule}")


@dataclass(frozen=True)
class DurationPredictorConfig:
    """Shape of the network that predicts how long each unit lasts; one that predicts its code of pitch is narrower.

    Args:
        encoder_embed_dim: Width of its input, that of a unit's embedding.
        var_pred_hidden_dim: Channels of its two convolutions.
        var_pred_kernel_size: Their kernel: only 3, since the published layout always pads the second one by 1.
        var_pred_dropout: Share of values to zero in training.
    """

    encoder_embed_dim: int = 128
    var_pred_hidden_dim: int = 128
    var_pred_kernel_size: int = 3
    var_pred_dropout: float = 0.5

    def __post_init__(self) -> None:
        _require("var_pred_kernel_size", self.var_pred_kernel_size, self.var_pred_kernel_size == 3, "3")
        dim = self.var_pred_hidden_dim
        _require("var_pred_hidden_dim", dim, 1 <= dim <= LARGEST_SIZE, f"1 to {LARGEST_SIZE}")
        dropout = self.var_pred_dropout
        _require("var_pred_dropout", dropout, 0 <= dropout < 1, "from 0 to below 1")


@dataclass(frozen=True)
class VocoderConfig:
    """Shape of a unit HiFi-GAN (Polyak et al. 2021; Kong et al. 2020). The defaults are full size, for 25 Hz units.

    Args:
        num_embeddings: Number of different units.
        embedding_dim: Width of the embeddings of units, codes of pitch and style, speakers, styles and pitches.
        model_in_dim: Width of the first convolution's input: of all these embeddings together.
        upsample_rates: Factor by which each stage raises the rate; their product is the samples per frame.
        upsample_kernel_sizes: Kernel of each stage's transposed convolution; longer than its rate by an even number.
        upsample_initial_channel: Channels before the first stage; each stage halves them.
        resblock_kernel_sizes: Kernel of each residual block; a stage takes the mean of its blocks.
        resblock_dilation_sizes: Dilations of the convolutions in each block.
        dur_predictor_params: Settings of the duration predictor (encoder_embed_dim, var_pred_hidden_dim,
            var_pred_kernel_size, var_pred_dropout); null: there is none, and durations must be given.
        multispkr: Whether it takes a speaker: any non-empty text, as in published files.
        num_speakers: Number of speakers it knows.
        embedder_params: If set, the speaker is given as a vector of embedder_dim values instead of a number.
        embedder_dim: Width of that vector.
        multistyle: Whether it takes a style.
        num_styles: Number of styles it knows.
        f0: Whether it takes pitch.
        f0_quant_num_bin: Number of pitch bins; 0: pitch is one real number per frame.
        num_f0_tokens: Number of codes of pitch that it takes beside the units (SpiRit-LM); null: it takes none.
        f0_hop_size: Samples that a code of pitch lasts; null: 1280, SpiRit-LM's.
        predicts_pitch: Whether it predicts the code of pitch of each unit of an utterance that comes whole and without;
            a stream's come with theirs.
        source_harmonics: Sines that each stage is given, at F0 and its multiples, as the codes of pitch say F0; null:
            none, as published.
        num_style_tokens: Number of codes of style that it takes beside the units; null: it takes none.
        style_hop_size: Samples that a code of style lasts; null: 16,000, SpiRit-LM's.
        code_hop_size: Samples that a frame lasts; null: as upsample_rates say.
        sampling_rate: Sample rate of the audio, in Hz.
    """

    num_embeddings: int = 500
    embedding_dim: int = 128
    model_in_dim: int = 128
    upsample_rates: tuple[int, ...] = (5, 4, 4, 4, 2)
    upsample_kernel_sizes: tuple[int, ...] = (11, 8, 8, 8, 4)
    upsample_initial_channel: int = 512
    resblock_kernel_sizes: tuple[int, ...] = (3, 7, 11)
    resblock_dilation_sizes: tuple[tuple[int, ...], ...] = ((1, 3, 5), (1, 3, 5), (1, 3, 5))
    dur_predictor_params: dict[str, Any] | None = field(default_factory=lambda: asdict(DurationPredictorConfig()))
    multispkr: str | bool | None = None
    num_speakers: int = 200
    embedder_params: dict[str, Any] | bool | None = None
    embedder_dim: int = 256
    multistyle: str | bool | None = None
    num_styles: int = 100
    f0: bool | None = None
    f0_quant_num_bin: int = 0
    num_f0_tokens: int | None = None
    f0_hop_size: int | None = None
    predicts_pitch: bool | None = None
    source_harmonics: int | None = None
    num_style_tokens: int | None = None
    style_hop_size: int | None = None
    code_hop_size: int | None = None
    sampling_rate: int = 16_000

    def __post_init__(self) -> None:
        for name in ("num_embeddings", "embedding_dim", "upsample_initial_channel", "sampling_rate"):
            _require(name, getattr(self, name), 1 <= getattr(self, name) <= LARGEST_SIZE, f"1 to {LARGEST_SIZE}")
        for name in ("num_speakers", "embedder_dim", "num_styles", "f0_quant_num_bin"):
            _require(name, getattr(self, name), 0 <= getattr(self, name) <= LARGEST_SIZE, f"0 to {LARGEST_SIZE}")
        for name in ("num_f0_tokens", "f0_hop_size", "num_style_tokens", "style_hop_size", "code_hop_size"):
            value = getattr(self, name)
            _require(name, value, value is None or 1 <= value <= LARGEST_SIZE, f"1 to {LARGEST_SIZE}, or null")
        _require("f0", self.f0, not (self.f0 and self.num_f0_tokens), "null where pitch comes as codes (num_f0_tokens)")
        fits = not self.predicts_pitch or bool(self.num_f0_tokens and self.dur_predictor_params)
        rule = "null without num_f0_tokens and dur_predictor_params, which say what is predicted and how"
        _require("predicts_pitch", self.predicts_pitch, fits, rule)
        sines = self.source_harmonics
        _require("source_harmonics", sines, sines is None or 1 <= sines <= MOST_HARMONICS, f"1 to {MOST_HARMONICS}")
        has_codes = sines is None or bool(self.num_f0_tokens)
        _require("source_harmonics", sines, has_codes, "null without num_f0_tokens, codes of pitch, which say their F0")
        fits = sines is None or self.hop_samples <= LONGEST_HOP
        _require("source_harmonics", sines, fits, f"null where a frame lasts more than {LONGEST_HOP} samples")
        has_means = sines is None or not self.embedder_params
        _require("source_harmonics", sines, has_means, "null where speakers are vectors, which tell no mean F0")
        for name in ("upsample_rates", "upsample_kernel_sizes", "resblock_kernel_sizes", "resblock_dilation_sizes"):
            sizes = getattr(self, name)
            _require(name, sizes, len(sizes) <= MOST_LAYERS, f"at most {MOST_LAYERS} of them")
            flat = [size for each in sizes for size in (each if isinstance(each, tuple) else (each,))]
            _require(name, sizes, len(flat) <= MOST_LAYERS**2, f"at most {MOST_LAYERS} in each")
            _require(name, sizes, all(size <= LARGEST_SIZE for size in flat), f"at most {LARGEST_SIZE} each")
        for name, other in (
            ("upsample_rates", "upsample_kernel_sizes"),
            ("resblock_kernel_sizes", "resblock_dilation_sizes"),
        ):
            same = len(getattr(self, name)) == len(getattr(self, other)) > 0
            _require(name, getattr(self, name), same, f"as many as {other}, one at least")
        rates = zip(self.upsample_rates, self.upsample_kernel_sizes, strict=True)
        fitting = all(rate >= 1 and kernel >= rate and (kernel - rate) % 2 == 0 for rate, kernel in rates)
        _require("upsample_kernel_sizes", self.upsample_kernel_sizes, fitting, "each its rate plus an even number")
        odd = all(kernel >= 1 and kernel % 2 for kernel in self.resblock_kernel_sizes)
        _require("resblock_kernel_sizes", self.resblock_kernel_sizes, odd, "odd numbers")
        dilated = all(dilation >= 1 for dilations in self.resblock_dilation_sizes for dilation in dilations)
        _require("resblock_dilation_sizes", self.resblock_dilation_sizes, dilated, "at least 1 each")
        channels, stages = self.upsample_initial_channel, len(self.upsample_rates)
        _require("upsample_initial_channel", channels, channels >> stages >= 1, f"at least 2 to the power of {stages}")
        width = self.input_width
        _require("model_in_dim", self.model_in_dim, self.model_in_dim == width, f"{width}, the width of all inputs")
        if predictor := self.duration_predictor:
            dim = predictor.encoder_embed_dim
            _require("encoder_embed_dim", dim, dim == self.embedding_dim, f"embedding_dim, {self.embedding_dim}")

    @property
    def duration_predictor(self) -> DurationPredictorConfig | None:
        """Shape of the duration predictor, if there is one."""
        if not self.dur_predictor_params:
            return None
        try:
            return DurationPredictorConfig(**self.dur_predictor_params)
        except TypeError as error:
            raise TwistError(f"vocoder dur_predictor_params cannot be read: {error}") from error

    @property
    def hop_samples(self) -> int:
        """Samples per frame."""
        return math.prod(self.upsample_rates)

    @property
    def input_width(self) -> int:
        """Width of the embeddings of unit, codes, pitch, speaker and style together."""
        num_embeddings = (
            1 + bool(self.multispkr) + bool(self.multistyle) + (self.takes_f0 and self.f0_quant_num_bin > 0)
        )
        num_embeddings += bool(self.num_f0_tokens) + bool(self.num_style_tokens)
        return num_embeddings * self.embedding_dim + (self.takes_f0 and not self.f0_quant_num_bin)

    @property
    def takes_f0(self) -> bool:
        """Whether it takes pitch."""
        return bool(self.f0)

    @property
    def frames_per_code(self) -> dict[str, int]:
        """How many frames a code of `pitch` and `style` lasts, for those that it takes."""
        hop = self.code_hop_size or self.hop_samples
        return {name: max(1, round(samples / hop)) for name, samples in self.samples_per_code.items()}

    @property
    def needed_codes(self) -> tuple[str, ...]:
        """Those of `pitch` and `style` that it takes and does not predict."""
        return tuple(name for name in self.num_codes if not (name == "pitch" and self.predicts_pitch))

    @property
    def samples_per_code(self) -> dict[str, int]:
        """How many samples a code of `pitch` and `style` lasts, for those that it takes."""
        hops = {"pitch": self.f0_hop_size or F0_HOP_SAMPLES, "style": self.style_hop_size or STYLE_HOP_SAMPLES}
        return {name: hops[name] for name in self.num_codes}

    @property
    def num_codes(self) -> dict[str, int]:
        """How many codes of `pitch` and `style` there are, for those that it takes."""
        counts = {"pitch": self.num_f0_tokens, "style": self.num_style_tokens}
        return {name: count for name, count in counts.items() if count}

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> Self:
        """Makes a config of a file's content, ignoring settings of training.

        Raises:
            TwistError: a setting is missing, invalid or not supported.
        """
        for name in UNSUPPORTED:
            if content.get(name):
                raise TwistError(f"it has {name}, a quantizer inside the vocoder, which is not supported")
        known = {each.name for each in fields(cls)}
        needed = {
            "num_embeddings",
            "embedding_dim",
            "upsample_rates",
            "upsample_kernel_sizes",
            "upsample_initial_channel",
            "resblock_kernel_sizes",
            "resblock_dilation_sizes",
        }
        if missing := sorted(needed - content.keys()):
            raise TwistError(f"it has no {', '.join(missing)}: this is no unit HiFi-GAN's config")
        # A published file that lacks these has no such part; the defaults here are for new vocoders.
        settings: dict[str, Any] = {"dur_predictor_params": None, "model_in_dim": 80}
        settings |= {name: value for name, value in content.items() if name in known and value is not None}
        for name in ("upsample_rates", "upsample_kernel_sizes", "resblock_kernel_sizes"):
            settings[name] = tuple(settings[name])
        settings["resblock_dilation_sizes"] = tuple(map(tuple, settings["resblock_dilation_sizes"]))
        return cls(**settings)

    @classmethod
    def read(cls, path: Path) -> Self:
        """Reads a config file.

        Raises:
            TwistError: it is missing, not JSON, or not a unit HiFi-GAN's.
        """
        try:
            content = foreign_json.parse(path.read_text())
            assert isinstance(content, dict)
            return cls.from_json(content)
        except OSError as error:
            raise TwistError(f"cannot read the vocoder's config {path}: {error.strerror}") from error
        except TwistError as error:
            raise TwistError(f"{path}: {error}") from error
        except (ValueError, TypeError, AssertionError) as error:
            raise TwistError(f"{path} is no vocoder's config: {error or 'not a JSON object'}") from error

    def to_json(self) -> dict[str, Any]:
        """The settings as `from_json` reads them."""
        return asdict(self)
