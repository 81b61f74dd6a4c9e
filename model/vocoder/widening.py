"""A vocoder of units alone as the beginning of one that takes codes of pitch and style and speakers, too, or sines."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import torch
from torch import nn

from model.vocoder.vocoder import Vocoder

if TYPE_CHECKING:
    from model.vocoder.config import VocoderConfig

# What may be added to a vocoder of units; all else of its shape stays.
ADDED = (
    "num_f0_tokens",
    "f0_hop_size",
    "predicts_pitch",
    "source_harmonics",
    "num_style_tokens",
    "style_hop_size",
    "code_hop_size",
    "multispkr",
    "num_speakers",
    "model_in_dim",
)


def can_be_widened(given: VocoderConfig, shape: VocoderConfig) -> bool:
    """Whether `shape` is that of `given`, which takes units alone, with more inputs."""
    takes_units_alone = given.input_width == given.embedding_dim
    changes = {name: getattr(shape, name) for name in ADDED}
    return takes_units_alone and given != shape and dataclasses.replace(given, **changes) == shape


def widened(given: Vocoder, shape: VocoderConfig) -> Vocoder:
    """A vocoder of this shape that says the same as `given`, which takes units alone, whatever else it is told.

    The first convolution's weights of new inputs are 0, as are a source's. Tables are random, so that weights learn at
    once.
    """
    assert can_be_widened(given.config, shape)
    vocoder = Vocoder(shape)
    state = given.state_dict()
    weight = torch.zeros_like(vocoder.conv_pre.weight)
    weight[:, : given.config.model_in_dim] = state["conv_pre.weight"]  # units stand first
    vocoder.load_state_dict({**vocoder.state_dict(), **state, "conv_pre.weight": weight})
    if vocoder.source is not None:
        for parameter in vocoder.source.parameters():
            nn.init.zeros_(parameter)
    return vocoder
