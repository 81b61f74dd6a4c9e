"""The unit HiFi-GAN: units in, audio out. Modules are named as in published checkpoints.

    units [B, N] --dur_predictor--> durations --repeat--> frames [B, F]
    units [B, N] --f0_predictor--> codes of pitch, where none are given and it can --repeat--> [B, F]
    dict(frames), f0_dict, style_dict, f0, spkr, style side by side
        -> conv_pre -> (ups, source's sines added if there is one, mean of resblocks) per stage -> conv_post -> wav

Rows of different lengths can share a batch: values past a row's own length are set to 0 before each convolution, just
as the convolution would pad the row alone. So a row's audio does not depend on its neighbours.

Sources: Polyak et al. 2021, "Speech Resynthesis from Discrete Disentangled Self-Supervised Representations"; Kong et
al. 2020, "HiFi-GAN"; textlesslib's vocoders/hifigan, whose TWIST checkpoints load into this; SpiRit-LM's vocoder, whose
codes of pitch and style stand behind the units. The source (source.py) and f0_predictor are in none of these.
"""

from __future__ import annotations

import dataclasses

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.nn.utils.parametrizations import weight_norm

from model.vocoder.config import DurationPredictorConfig, VocoderConfig
from model.vocoder.source import HarmonicSource
from pipeline.errors import TwistError

SLOPE = 0.1
# The published generator's last activation has torch's default slope, not the others'.
LAST_SLOPE = 0.01
INITIAL_STD = 0.01


class Lengths:
    """Masks the padding of a batch: rows of `num_frames` [B] out of `total` frames (None: no padding)."""

    def __init__(self, num_frames: Tensor | None, total: int) -> None:
        # Rows of equal length need no mask. Checked once, since on a GPU the check waits for the result.
        is_even = num_frames is None or bool((num_frames == total).all())
        self._num_frames = None if is_even else num_frames

    def mask(self, x: Tensor, rate: int = 1) -> Tensor:
        """x [B, C, T] with zeros in padding; it has `rate` steps per frame."""
        if self._num_frames is None:
            return x
        is_own = torch.arange(x.shape[-1], device=x.device) < self._num_frames[:, None] * rate
        return x * is_own[:, None].to(x.dtype)


class ResBlock(nn.Module):
    """Pairs of a dilated and an undilated convolution, with a skip connection around each pair."""

    def __init__(self, channels: int, kernel_size: int, dilations: tuple[int, ...]) -> None:
        super().__init__()
        self.convs1 = nn.ModuleList(_conv(channels, channels, kernel_size, dilation) for dilation in dilations)
        self.convs2 = nn.ModuleList(_conv(channels, channels, kernel_size, 1) for _ in dilations)

    def forward(self, x: Tensor, lengths: Lengths, rate: int) -> Tensor:
        """x [B, C, T] -> [B, C, T]."""
        for dilated, undilated in zip(self.convs1, self.convs2, strict=True):
            inner = lengths.mask(dilated(F.leaky_relu(x, SLOPE)), rate)
            x = x + lengths.mask(undilated(F.leaky_relu(inner, SLOPE)), rate)
        return x


class VariancePredictor(nn.Module):
    """Predicts something of each unit from it and two neighbours on either side (Ren et al. 2021, "FastSpeech 2")."""

    def __init__(self, config: DurationPredictorConfig, num_values: int = 1) -> None:
        super().__init__()
        hidden, kernel = config.var_pred_hidden_dim, config.var_pred_kernel_size
        first = nn.Conv1d(config.encoder_embed_dim, hidden, kernel, padding=(kernel - 1) // 2)
        self.conv1 = nn.Sequential(first, nn.ReLU())
        self.ln1 = nn.LayerNorm(hidden)
        self.conv2 = nn.Sequential(nn.Conv1d(hidden, hidden, kernel, padding=1), nn.ReLU())
        self.ln2 = nn.LayerNorm(hidden)
        self.proj = nn.Linear(hidden, num_values)
        self.dropout = config.var_pred_dropout

    def forward(self, x: Tensor, lengths: Lengths) -> Tensor:
        """x [B, C, N], zeros in padding -> [B, N, num_values]."""
        x = self.conv1(x).transpose(1, 2)
        x = F.dropout(self.ln1(x), self.dropout, self.training).transpose(1, 2)
        x = self.conv2(lengths.mask(x)).transpose(1, 2)
        x = F.dropout(self.ln2(x), self.dropout, self.training)
        return self.proj(x)  # type: ignore[no-any-return]


class Vocoder(nn.Module):
    """A unit HiFi-GAN with random weights; model/vocoder/checkpoint.py loads trained ones."""

    def __init__(self, config: VocoderConfig) -> None:
        super().__init__()
        self.config = config
        channels, width = config.upsample_initial_channel, config.embedding_dim
        self.dict = nn.Embedding(config.num_embeddings, width)
        self.f0_dict = nn.Embedding(config.num_f0_tokens, width) if config.num_f0_tokens else None
        self.style_dict = nn.Embedding(config.num_style_tokens, width) if config.num_style_tokens else None
        self.conv_pre = _conv(config.model_in_dim, channels, 7, 1)
        self.ups = nn.ModuleList()
        self.resblocks = nn.ModuleList()
        for rate, kernel in zip(config.upsample_rates, config.upsample_kernel_sizes, strict=True):
            padding = (kernel - rate) // 2
            self.ups.append(nn.ConvTranspose1d(channels, channels // 2, kernel, rate, padding=padding))
            channels //= 2
            for block in zip(config.resblock_kernel_sizes, config.resblock_dilation_sizes, strict=True):
                self.resblocks.append(ResBlock(channels, *block))
        self.conv_post = _conv(channels, 1, 7, 1)
        for module in (*self.ups, self.conv_post):
            nn.init.normal_(module.weight, 0.0, INITIAL_STD)
        shape = config.duration_predictor
        self.dur_predictor = VariancePredictor(shape) if shape else None
        self.spkr: nn.Embedding | nn.Linear | None = None
        if config.embedder_params:
            self.spkr = nn.Linear(config.embedder_dim, width)
        elif config.multispkr:
            self.spkr = nn.Embedding(config.num_speakers, width)
        self.style = nn.Embedding(config.num_styles, width) if config.multistyle else None
        self.f0_quant_embed = nn.Embedding(config.f0_quant_num_bin, width) if config.f0_quant_num_bin > 0 else None
        self.source = HarmonicSource(config) if config.source_harmonics else None
        self.f0_predictor: VariancePredictor | None = None
        if config.predicts_pitch:
            assert shape is not None and config.num_f0_tokens is not None, "VocoderConfig requires both"
            # Units tell little of pitch: a quarter of the width knows it, too.
            narrow = dataclasses.replace(shape, var_pred_hidden_dim=max(1, shape.var_pred_hidden_dim // 4))
            self.f0_predictor = VariancePredictor(narrow, config.num_f0_tokens)

    def forward(
        self,
        frames: Tensor,
        num_frames: Tensor | None = None,
        *,
        speaker: Tensor | None = None,
        style: Tensor | None = None,
        f0: Tensor | None = None,
        pitch_codes: Tensor | None = None,
        style_codes: Tensor | None = None,
        f0_hz: Tensor | None = None,
    ) -> Tensor:
        """Generates audio from the unit of each frame.

        Args:
            frames: [B, F] int64; any unit in padding.
            num_frames: [B] length of each row without padding; None: all F.
            speaker: [B] int64, or [B, embedder_dim] if the config has embedder_params.
            style: [B] int64.
            f0: [B, F0], int64 if pitch is quantized, else float. F0 is a multiple of F (then units are repeated, and
                the audio is that much longer) or a divisor of F (then pitch is repeated).
            pitch_codes, style_codes: The code of each frame, [B, F] int64; any in padding.
            f0_hz: F0 for the source's sines, [B, F, K]: K values in each frame, which divide hop_samples; 0: unvoiced.

        Returns:
            wav [B, F * hop_samples] in [-1, 1]; zeros in padding.

        Raises:
            TwistError: a speaker, style or pitch is missing or not wanted, or F0 is neither multiple nor divisor of F.
        """
        x, repeats = self.inputs(
            frames, speaker=speaker, style=style, f0=f0, pitch_codes=pitch_codes, style_codes=style_codes, f0_hz=f0_hz
        )
        lengths = Lengths(None if num_frames is None else num_frames * repeats, x.shape[-1])
        sines = None
        if self.source is not None and f0_hz is not None:
            sines = lengths.mask(self.source.sines(f0_hz)[0], self.config.hop_samples)
        return self.generate(x, lengths, sines)[:, 0]

    def generate(self, x: Tensor, lengths: Lengths, sines: Tensor | None = None) -> Tensor:
        """x [B, model_in_dim, F], and the source's sines [B, H, S] -> wav [B, 1, S], S = F * hop_samples."""
        num_blocks = len(self.config.resblock_kernel_sizes)
        x = lengths.mask(self.conv_pre(lengths.mask(x.to(self.conv_pre.weight.dtype))))
        rate = 1
        for stage, up in enumerate(self.ups):
            rate *= self.config.upsample_rates[stage]
            x = up(F.leaky_relu(x, SLOPE))
            if self.source is not None and sines is not None:
                x = x + self.source(sines, stage)
            x = lengths.mask(x, rate)
            blocks = self.resblocks[stage * num_blocks : (stage + 1) * num_blocks]
            summed = blocks[0](x, lengths, rate)
            for block in blocks[1:]:
                summed = summed + block(x, lengths, rate)
            x = summed / num_blocks
        return lengths.mask(torch.tanh(self.conv_post(F.leaky_relu(x, LAST_SLOPE))), rate)

    def inputs(
        self,
        frames: Tensor,
        *,
        speaker: Tensor | None,
        style: Tensor | None,
        f0: Tensor | None,
        pitch_codes: Tensor | None = None,
        style_codes: Tensor | None = None,
        f0_hz: Tensor | None = None,
    ) -> tuple[Tensor, int]:
        """The first convolution's input [B, model_in_dim, F * R], and R, how often frames are repeated to match f0."""
        config = self.config
        for name, value, is_taken in (
            ("speaker", speaker, bool(config.multispkr)),
            ("style", style, bool(config.multistyle)),
            ("f0", f0, config.takes_f0),
            ("pitch_codes", pitch_codes, bool(config.num_f0_tokens)),
            ("style_codes", style_codes, bool(config.num_style_tokens)),
            ("f0_hz", f0_hz, bool(config.source_harmonics)),
        ):
            if is_taken != (value is not None):
                raise TwistError(f"this vocoder {'needs a' if is_taken else 'takes no'} {name}")
        x, repeats = self.dict(frames).transpose(1, 2), 1
        for codes, codes_table in ((pitch_codes, self.f0_dict), (style_codes, self.style_dict)):
            if codes is not None:
                assert codes_table is not None
                x = torch.cat([x, codes_table(codes).transpose(1, 2)], dim=1)
        if f0 is not None:
            pitch = f0[:, None].to(x.dtype) if self.f0_quant_embed is None else self.f0_quant_embed(f0).transpose(1, 2)
            longer, shorter = max(pitch.shape[-1], x.shape[-1]), min(pitch.shape[-1], x.shape[-1])
            if longer % shorter:
                raise TwistError(f"{pitch.shape[-1]} pitches do not go evenly with {x.shape[-1]} frames")
            repeats = max(pitch.shape[-1] // x.shape[-1], 1)
            x = torch.cat([each.repeat_interleave(longer // each.shape[-1], dim=2) for each in (x, pitch)], dim=1)
        for value, table in ((speaker, self.spkr), (style, self.style)):
            if value is not None:
                assert table is not None
                x = torch.cat([x, table(value)[:, :, None].expand(-1, -1, x.shape[-1])], dim=1)
        return x, repeats

    def log_durations(self, units: Tensor, num_units: Tensor | None = None) -> Tensor:
        """Predicts log(duration in frames + 1): units [B, N], `num_units` [B] per row without padding -> [B, N].

        Raises:
            TwistError: it has no duration predictor.
        """
        if self.dur_predictor is None:
            raise TwistError("this vocoder predicts no durations; give units with theirs, or one per frame")
        return self._predicted(self.dur_predictor, units, num_units)[..., 0]

    def pitch_scores(self, units: Tensor, num_units: Tensor | None = None) -> Tensor:
        """Unnormalized log-probabilities of each unit's code of pitch: units [B, N] -> [B, N, num_f0_tokens].

        Raises:
            TwistError: it predicts none.
        """
        if self.f0_predictor is None:
            raise TwistError("this vocoder predicts no codes of pitch; give those of the recording, or of a speech LM")
        return self._predicted(self.f0_predictor, units, num_units)

    def _predicted(self, predictor: VariancePredictor, units: Tensor, num_units: Tensor | None) -> Tensor:
        lengths = Lengths(num_units, units.shape[1])
        predicted: Tensor = predictor(lengths.mask(self.dict(units).transpose(1, 2)), lengths)
        return predicted

    def durations(self, units: Tensor, num_units: Tensor | None = None) -> Tensor:
        """Predicted durations in frames, at least 1: units [B, N] -> [B, N] int64, 0 in padding."""
        durations = rounded_durations(self.log_durations(units, num_units))
        if num_units is None:
            return durations
        return durations * (torch.arange(units.shape[1], device=units.device) < num_units[:, None])

    def add_weight_norm(self) -> None:
        """Splits the convolutions' weights into direction and length, for training."""
        for module in self._normed():
            weight_norm(module)

    def fold_weight_norm(self) -> None:
        """Merges direction and length into plain weights again."""
        for module in self._normed():
            if parametrize.is_parametrized(module, "weight"):
                parametrize.remove_parametrizations(module, "weight")

    def _normed(self) -> list[nn.Module]:
        convs = [module for block in self.resblocks for module in block.modules() if isinstance(module, nn.Conv1d)]
        return [self.conv_pre, *self.ups, *convs, self.conv_post]

    def for_inference(self, dtype: torch.dtype, device: torch.device) -> Vocoder:
        """Prepares it for synthesis on `device` and returns it: weight norm folded, the audio's layers in `dtype`.

        Embeddings and predictors stay in float32: rounding them would change how long units last.
        """
        self.fold_weight_norm()
        for part in (self.conv_pre, self.ups, self.resblocks, self.conv_post, self.source):
            if part is not None:
                part.to(dtype)
        return self.requires_grad_(False).to(device).eval()


def rounded_durations(log_durations: Tensor) -> Tensor:
    """Durations in whole frames, at least 1, from log(duration + 1)."""
    return torch.clamp(torch.round(torch.exp(log_durations.float()) - 1), min=1).long()


def _conv(in_channels: int, out_channels: int, kernel_size: int, dilation: int) -> nn.Conv1d:
    """A convolution that returns as many steps as it takes."""
    padding = dilation * (kernel_size - 1) // 2
    return nn.Conv1d(in_channels, out_channels, kernel_size, dilation=dilation, padding=padding)
