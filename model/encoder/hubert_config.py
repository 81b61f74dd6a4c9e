"""The shape of a HuBERT, under the names that Hugging Face's config files use."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from pipeline.errors import TwistError, brief

# Far above any HuBERT; keeps a damaged or hostile config from asking for sizes that overflow.
LARGEST_SIZE = 2**16
# A layer is built, if without memory for its weights, before weights are compared with the config.
MOST_LAYERS = 2**8


@dataclass(frozen=True)
class HubertConfig:
    """The shape of a HuBERT; the names and defaults (HuBERT Base at 50 Hz) are those of Hugging Face's HubertConfig.

    Args:
        conv_dim: output channels of each convolution over the waveform.
        conv_kernel: kernel size of each convolution, in its input's samples.
        conv_stride: stride of each convolution; their product is the hop in samples.
        conv_bias: whether those convolutions have a bias.
        feat_extract_norm: "group": group norm over time after the first convolution only (Base);
            "layer": layer norm over channels after each (Large).
        feat_extract_activation: activation of the convolutions; only "gelu".
        feat_proj_layer_norm: whether the convolutions' output is layer-normed before its projection.
        hidden_size: width D of the Transformer and of its features.
        num_hidden_layers: Transformer layers.
        num_attention_heads: attention heads per layer.
        intermediate_size: width of the feed-forward's inner layer.
        hidden_act: activation of the feed-forward; only "gelu".
        layer_norm_eps: epsilon of the layer norms in the projection and the Transformer.
        do_stable_layer_norm: True: layer norm before attention and feed-forward (Large); False: after (Base).
        num_conv_pos_embeddings: kernel size of the positional convolution, in frames.
        num_conv_pos_embedding_groups: groups of the positional convolution.
        conv_pos_batch_norm: True: batch norm before the positional convolution (TWIST's 25 Hz model);
            False: weight norm on its weight (the original).

    Raises:
        TwistError: a value that is not supported or does not fit the others.
    """

    conv_dim: tuple[int, ...] = (512, 512, 512, 512, 512, 512, 512)
    conv_kernel: tuple[int, ...] = (10, 3, 3, 3, 3, 2, 2)
    conv_stride: tuple[int, ...] = (5, 2, 2, 2, 2, 2, 2)
    conv_bias: bool = False
    feat_extract_norm: str = "group"
    feat_extract_activation: str = "gelu"
    feat_proj_layer_norm: bool = True
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_act: str = "gelu"
    layer_norm_eps: float = 1e-5
    do_stable_layer_norm: bool = False
    num_conv_pos_embeddings: int = 128
    num_conv_pos_embedding_groups: int = 16
    conv_pos_batch_norm: bool = False

    def __post_init__(self) -> None:
        for name in ("conv_dim", "conv_kernel", "conv_stride"):
            sizes = getattr(self, name)
            if not isinstance(sizes, tuple) or not sizes or not all(_is_size(size) for size in sizes):
                raise TwistError(
                    f"HuBERT config: {name} must list integers from 1 to {LARGEST_SIZE}, not {brief(sizes)}"
                )
        if not len(self.conv_dim) == len(self.conv_kernel) == len(self.conv_stride):
            raise TwistError(
                "HuBERT config: conv_dim, conv_kernel and conv_stride must have one entry per convolution, but have "
                f"{len(self.conv_dim)}, {len(self.conv_kernel)} and {len(self.conv_stride)}"
            )
        for name in (
            "hidden_size",
            "num_hidden_layers",
            "num_attention_heads",
            "intermediate_size",
            "num_conv_pos_embeddings",
            "num_conv_pos_embedding_groups",
        ):
            if not _is_size(getattr(self, name)):
                raise TwistError(
                    f"HuBERT config: {name} must be an integer from 1 to {LARGEST_SIZE}, not "
                    f"{brief(getattr(self, name))}"
                )
        for name, layers in (("num_hidden_layers", self.num_hidden_layers), ("conv_dim", len(self.conv_dim))):
            if layers > MOST_LAYERS:
                raise TwistError(f"HuBERT config: {name} asks for {layers} layers; at most {MOST_LAYERS} can be")
        for name in ("conv_bias", "feat_proj_layer_norm", "do_stable_layer_norm", "conv_pos_batch_norm"):
            if not isinstance(getattr(self, name), bool):
                raise TwistError(f"HuBERT config: {name} must be true or false, not {brief(getattr(self, name))}")
        for name in ("num_attention_heads", "num_conv_pos_embedding_groups"):
            if self.hidden_size % getattr(self, name):
                raise TwistError(
                    f"HuBERT config: hidden_size {self.hidden_size} is not divisible by {name} {getattr(self, name)}"
                )
        for name, supported in (
            ("feat_extract_norm", ("group", "layer")),
            ("feat_extract_activation", ("gelu",)),
            ("hidden_act", ("gelu",)),
        ):
            if getattr(self, name) not in supported:
                raise TwistError(
                    f"HuBERT config: {name} is {brief(getattr(self, name))}; supported: "
                    f"{', '.join(map(repr, supported))}"
                )
        if not isinstance(self.layer_norm_eps, float | int) or not 0 < self.layer_norm_eps < 1:
            raise TwistError(
                f"HuBERT config: layer_norm_eps must lie between 0 and 1, not {brief(self.layer_norm_eps)}"
            )

    @property
    def hop_samples(self) -> int:
        """Samples from the start of one frame to the start of the next (25 Hz: 640)."""
        return prod(self.conv_stride)

    @property
    def receptive_field_samples(self) -> int:
        """Samples that the convolutions read for one frame, and so the shortest wav that gives one (25 Hz: 720)."""
        receptive_field = 1
        for kernel, stride in zip(reversed(self.conv_kernel), reversed(self.conv_stride), strict=True):
            receptive_field = (receptive_field - 1) * stride + kernel
        return receptive_field

    def num_frames(self, num_samples: int) -> int:
        """Frames in a wav of `num_samples`; 0 if it is shorter than the receptive field."""
        if num_samples < self.receptive_field_samples:
            return 0
        return (num_samples - self.receptive_field_samples) // self.hop_samples + 1


def _is_size(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= LARGEST_SIZE
