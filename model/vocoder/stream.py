"""Streaming synthesis: audio chunk by chunk as units arrive, with the same samples as in one piece.

Each convolution keeps the last steps of its input that later outputs still need, and returns an output as soon as all
its inputs have arrived. Nothing is computed twice, and nothing is cut off. Audio lags behind the units by the network's
look-ahead: two units for durations, and `look_ahead_frames` frames.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.vocoder.vocoder import LAST_SLOPE, SLOPE, rounded_durations
from pipeline.errors import TwistError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from model.vocoder.config import VocoderConfig
    from model.vocoder.vocoder import ResBlock, VariancePredictor, Vocoder


class VocoderStream:
    """One utterance: `push` units as they arrive, then `finish`; its audio is all they return, joined.

    Args:
        vocoder: Ready for inference.
        speaker: [] int64 or [embedder_dim], if the vocoder takes a speaker.
        style: [] int64, if the vocoder takes a style.

    Raises:
        TwistError: a speaker or style is missing or not wanted, or the vocoder takes f0, which cannot be streamed.
    """

    def __init__(self, vocoder: Vocoder, *, speaker: Tensor | None = None, style: Tensor | None = None) -> None:
        if vocoder.config.takes_f0:
            raise TwistError("a vocoder that takes f0 cannot be streamed; give it whole utterances")
        self._vocoder = vocoder
        self._speaker = None if speaker is None else speaker[None]
        self._style = None if style is None else style[None]
        self._generator = _Generator(vocoder)
        self._durations = None if vocoder.dur_predictor is None else _Durations(vocoder.dur_predictor)
        self._waiting = np.zeros(0, np.int64)
        self._has_begun = False
        self._cycles: Tensor | None = None
        nothing = {f"{name}_codes": torch.zeros(1, dtype=torch.int64) for name in vocoder.config.num_codes}
        if vocoder.source is not None:
            nothing["f0_hz"] = torch.zeros(1, 1)
        self._inputs(self._frames(np.zeros(1, np.int64)), nothing)

    def push(
        self,
        units: NDArray[np.uint16],
        durations: NDArray[np.uint16] | None = None,
        codes: Mapping[str, Tensor] | None = None,
    ) -> NDArray[np.float32]:
        """Adds units and returns the samples [S] now known.

        Args:
            units: [n].
            durations: In frames, [n]; None: predicted.
            codes: For a vocoder that takes them, even if it could predict pitch, with durations: pitch_codes and
                style_codes of each frame [F], and f0_hz [F, K].

        Raises:
            TwistError: durations are given for some units and not for others, or cannot be predicted; or codes are
                missing or not wanted, or come without durations.
        """
        if durations is None and (codes or self._vocoder.config.num_codes):
            raise TwistError("codes are streamed beside units with durations, which say how many frames they are of")
        return self._advance(units.astype(np.int64), durations, codes or {}, is_last=False)

    def finish(self) -> NDArray[np.float32]:
        """Ends the utterance and returns its remaining samples [S]."""
        return self._advance(np.zeros(0, np.int64), None, {}, is_last=True)

    @torch.inference_mode()
    def _advance(
        self,
        units: NDArray[np.int64],
        durations: NDArray[np.uint16] | None,
        codes: Mapping[str, Tensor],
        *,
        is_last: bool,
    ) -> NDArray[np.float32]:
        if durations is not None:
            if len(self._waiting):
                raise TwistError("durations must be given for all units of an utterance, or for none")
            assert len(durations) == len(units), f"{len(durations)} durations of {len(units)} units"
            frames = np.repeat(units, durations)
        else:
            frames = self._predict(units, is_last=is_last)
        if not len(frames) and not (is_last and self._has_begun):
            return np.zeros(0, np.float32)
        self._has_begun = True
        given = self._frames(frames)
        sines = None
        if len(frames):
            x = self._inputs(given, codes)
            if self._vocoder.source is not None:
                sines, self._cycles = self._vocoder.source.sines(codes["f0_hz"][None], self._cycles)
        else:
            x = torch.zeros(1, self._vocoder.config.model_in_dim, 0, device=given.device)
        wav = self._generator(x.to(self._vocoder.conv_pre.weight.dtype), is_last, sines)
        return wav[0, 0].float().cpu().numpy()

    def _inputs(self, frames: Tensor, codes: Mapping[str, Tensor]) -> Tensor:
        of_frames = {name: values[None].to(frames.device) for name, values in codes.items()}
        for name, values in of_frames.items():
            assert values.shape[1] == frames.shape[1], f"{name} of {values.shape[1]} frames for {frames.shape[1]}"
        return self._vocoder.inputs(frames, speaker=self._speaker, style=self._style, f0=None, **of_frames)[0]

    def _predict(self, units: NDArray[np.int64], *, is_last: bool) -> NDArray[np.int64]:
        """The frames of the units whose durations can be predicted by now."""
        self._waiting = np.concatenate([self._waiting, units])
        if not len(self._waiting):
            return units
        if self._durations is None:
            raise TwistError("this vocoder predicts no durations; give units with theirs, or one per frame")
        embedded = self._vocoder.dict(self._frames(units)).transpose(1, 2)
        durations = self._durations(embedded.float(), is_last)
        ready, self._waiting = self._waiting[: len(durations)], self._waiting[len(durations) :]
        return np.repeat(ready, durations)

    def _frames(self, units: NDArray[np.int64]) -> Tensor:
        return torch.from_numpy(units)[None].to(self._vocoder.dict.weight.device)


def look_ahead_frames(config: VocoderConfig) -> int:
    """Frames after a given one that its audio depends on."""
    samples, rate = 3.0, 1  # of conv_pre, in frames
    for stage, (up, kernel) in enumerate(zip(config.upsample_rates, config.upsample_kernel_sizes, strict=True)):
        samples += ((up - 1 + (kernel - up) // 2) // up) / rate
        rate *= up
        widest = max(
            (size - 1) // 2 * (sum(dilations) + len(dilations))
            for size, dilations in zip(config.resblock_kernel_sizes, config.resblock_dilation_sizes, strict=True)
        )
        samples += widest / rate
        if stage == len(config.upsample_rates) - 1:
            samples += 3 / rate
    return math.ceil(samples)


class _Step(Protocol):
    def __call__(self, x: Tensor, is_last: bool) -> Tensor: ...


class _Conv:
    """A convolution padded with zeros at both ends so that it returns as many steps as it takes."""

    def __init__(self, conv: nn.Conv1d) -> None:
        self._conv = conv
        self._padding = int(conv.padding[0])
        self._kept: Tensor | None = None

    def __call__(self, x: Tensor, is_last: bool) -> Tensor:
        """x [1, C, n] -> [1, C', m], the steps now known."""
        conv, padding = self._conv, self._padding
        x = F.pad(x, (padding, 0)) if self._kept is None else torch.cat([self._kept, x], dim=2)
        if is_last:
            x = F.pad(x, (0, padding))
        if x.shape[2] <= 2 * padding:
            self._kept = x
            return x.new_zeros(1, conv.out_channels, 0)
        self._kept = x[:, :, x.shape[2] - 2 * padding :]
        return F.conv1d(x, conv.weight, conv.bias, dilation=conv.dilation)


class _Upsampling:
    """A transposed convolution that returns `rate` steps for each one it takes."""

    def __init__(self, up: nn.ConvTranspose1d) -> None:
        self._up = up
        self._rate, self._cut = int(up.stride[0]), int(up.padding[0])
        kernel = int(up.kernel_size[0])
        # Inputs before and after each one that its outputs depend on too.
        self._before = -(-(kernel - 1 - self._cut) // self._rate)
        self._behind = (self._rate - 1 + self._cut) // self._rate
        self._kept: Tensor | None = None

    def __call__(self, x: Tensor, is_last: bool) -> Tensor:
        """x [1, C, n] -> [1, C', m], the steps now known."""
        x = F.pad(x, (self._before, 0)) if self._kept is None else torch.cat([self._kept, x], dim=2)
        if is_last:
            x = F.pad(x, (0, self._behind))
        around = self._before + self._behind
        count = x.shape[2] - around
        if count <= 0:
            self._kept = x
            return x.new_zeros(1, self._up.out_channels, 0)
        self._kept = x[:, :, count:]
        whole = F.conv_transpose1d(x, self._up.weight, self._up.bias, stride=self._rate)
        start = self._before * self._rate + self._cut
        return whole[:, :, start : start + count * self._rate]


class _Queue:
    """Steps that wait until other branches have computed the same steps."""

    def __init__(self) -> None:
        self._waiting: Tensor | None = None

    def put(self, x: Tensor) -> int:
        """Adds steps x [1, C, n] and returns how many are waiting."""
        self._waiting = x if self._waiting is None else torch.cat([self._waiting, x], dim=2)
        return self._waiting.shape[2]

    def take(self, count: int) -> Tensor:
        """Removes and returns the first `count` steps."""
        assert self._waiting is not None
        taken, self._waiting = self._waiting[:, :, :count], self._waiting[:, :, count:]
        return taken


class _Sines:
    """What a stage adds of the source's sines, which are known before the stage's own steps are."""

    def __init__(self, conv: nn.Conv1d) -> None:
        self._conv = conv
        self._reach = int(conv.stride[0]) - 1
        self._kept: Tensor | None = None
        self._ready = _Queue()

    def put(self, sines: Tensor) -> None:
        """Adds sines [1, source_harmonics, n], n > 0 a multiple of the stride."""
        conv = self._conv
        sines = sines.to(conv.weight.dtype)
        x = F.pad(sines, (self._reach, 0)) if self._kept is None else torch.cat([self._kept, sines], dim=2)
        self._kept = x[:, :, x.shape[2] - self._reach :]
        self._ready.put(F.conv1d(x, conv.weight, conv.bias, stride=conv.stride))

    def added(self, x: Tensor) -> Tensor:
        """x [1, C, n], the stage's next steps, with what belongs to them."""
        return x + self._ready.take(x.shape[2])


class _Residual:
    """One pair of convolutions of a residual block, with the skip connection around it."""

    def __init__(self, dilated: nn.Conv1d, undilated: nn.Conv1d) -> None:
        self._dilated, self._undilated = _Conv(dilated), _Conv(undilated)
        self._past = _Queue()

    def __call__(self, x: Tensor, is_last: bool) -> Tensor:
        self._past.put(x)
        inner = self._dilated(F.leaky_relu(x, SLOPE), is_last)
        inner = self._undilated(F.leaky_relu(inner, SLOPE), is_last)
        return self._past.take(inner.shape[2]) + inner


class _Mean:
    """The mean of residual blocks, each of which lags behind by a different number of steps."""

    def __init__(self, blocks: list[ResBlock]) -> None:
        self._blocks = [
            [_Residual(*pair) for pair in zip(block.convs1, block.convs2, strict=True)]  # type: ignore[arg-type]
            for block in blocks
        ]
        self._queues = [_Queue() for _ in blocks]

    def __call__(self, x: Tensor, is_last: bool) -> Tensor:
        counts = []
        for steps, queue in zip(self._blocks, self._queues, strict=True):
            out = x
            for step in steps:
                out = step(out, is_last)
            counts.append(queue.put(out))
        taken = [queue.take(min(counts)) for queue in self._queues]
        summed = taken[0]
        for other in taken[1:]:
            summed = summed + other
        return summed / len(taken)


class _Generator:
    """Vocoder.generate, chunk by chunk."""

    def __init__(self, vocoder: Vocoder) -> None:
        num_blocks = len(vocoder.config.resblock_kernel_sizes)
        self._pre = _Conv(vocoder.conv_pre)
        self._stages: list[tuple[_Step, _Step]] = []
        for stage, up in enumerate(vocoder.ups):
            assert isinstance(up, nn.ConvTranspose1d)
            blocks = list(vocoder.resblocks[stage * num_blocks : (stage + 1) * num_blocks])
            self._stages.append((_Upsampling(up), _Mean(blocks)))  # type: ignore[arg-type]
        self._post = _Conv(vocoder.conv_post)
        self._sines: list[_Sines] = []
        if vocoder.source is not None:
            self._sines = [_Sines(conv) for conv in vocoder.source.convs]  # type: ignore[arg-type]

    def __call__(self, x: Tensor, is_last: bool, sines: Tensor | None = None) -> Tensor:
        """x [1, model_in_dim, n], and the source's sines of the same frames -> wav [1, 1, m]."""
        if sines is not None:
            for of_stage in self._sines:
                of_stage.put(sines)
        x = self._pre(x, is_last)
        for stage, (upsampling, mean) in enumerate(self._stages):
            x = upsampling(F.leaky_relu(x, SLOPE), is_last)
            if self._sines:
                x = self._sines[stage].added(x)
            x = mean(x, is_last)
        return torch.tanh(self._post(F.leaky_relu(x, LAST_SLOPE), is_last))


class _Durations:
    """Vocoder.durations, unit by unit."""

    def __init__(self, predictor: VariancePredictor) -> None:
        self._predictor = predictor
        first, second = predictor.conv1[0], predictor.conv2[0]
        assert isinstance(first, nn.Conv1d) and isinstance(second, nn.Conv1d)
        self._first, self._second = _Conv(first), _Conv(second)

    def __call__(self, x: Tensor, is_last: bool) -> NDArray[np.int64]:
        """x [1, C, n] -> durations [m] of the units for which they are now known."""
        predictor = self._predictor
        x = predictor.ln1(F.relu(self._first(x, is_last)).transpose(1, 2)).transpose(1, 2)
        x = predictor.ln2(F.relu(self._second(x, is_last)).transpose(1, 2))
        durations: NDArray[np.int64] = rounded_durations(predictor.proj(x)[0, :, 0]).cpu().numpy()
        return durations
