"""The recipes: each can be read, and those of the paper's models have its settings and give models of its sizes."""

from __future__ import annotations

import functools
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

import model.lm.speech_lm
from jobs.recipe import Recipe, read_recipe
from model.lm.mixture.config import MixtureConfig
from model.lm.train_config import TrainConfig
from model.lm.vocab import Vocabulary
from pipeline.errors import TwistError

RECIPES = Path(__file__).parents[2] / "recipes"
# Parameters of the speech LM with 500 units, in millions.
MILLIONS = {
    "opt_125m": 87,
    "opt_350m": 306,
    "opt_1.3b": 1214,
    "bloom": 303,
    "pythia": 303,
    "imagegpt": 455,
    "llama_7b": 6480,
}


@functools.cache
def read(name: str) -> Recipe:
    recipe, _ = read_recipe("run", "", (), ["--config", str(RECIPES / f"{name}.yaml")])
    return recipe


def settings_of(name: str) -> TrainConfig:
    settings = read(name).train
    assert settings is not None
    return settings


@pytest.mark.parametrize("name", sorted(path.stem for path in RECIPES.glob("*.yaml")))
def test_every_recipe_can_be_read(name: str) -> None:
    recipe = read(name)
    assert recipe.run
    assert (recipe.train is None) == name.startswith(("hubert_", "hifigan_", "language_", "pitch_", "style_"))


@pytest.mark.parametrize("name", MILLIONS)
def test_warm_and_cold_are_twins_with_the_papers_rates(name: str) -> None:
    warm, cold = settings_of(f"twist_{name}"), settings_of(f"twist_{name}_cold")
    assert warm.init is not None and cold.architecture is not None
    differ = {field for field in vars(warm) if vars(warm)[field] != vars(cold)[field]}
    if name == "llama_7b":
        assert differ == {"init", "architecture"}
        assert (warm.batch_size, warm.num_steps, warm.warmup_steps, warm.schedule) == (1024, 75_000, 500, "cosine")
        assert (warm.peak_lr, warm.final_lr) == (1e-4, 1e-5)
    else:
        assert differ == {"init", "architecture", "peak_lr", "final_lr"}
        assert (warm.batch_size, warm.num_steps, warm.warmup_steps) == (64, 400_000, 100)
        assert (warm.peak_lr, warm.final_lr, cold.peak_lr, cold.final_lr) == (4e-4, 8e-5, 8e-5, 2.5e-5)
        assert warm.schedule == "inverse_sqrt"
    assert warm.max_units == 704


def test_slam_takes_text_and_interleaved_data() -> None:
    slam = settings_of("slam")
    assert slam.bos_eos and slam.max_units + 2 == 1024, "Slam's context"
    mixture = MixtureConfig(speech=1, text=1, interleaved=1)
    mixed = replace(slam, mixture=mixture, max_units=1024, bos_eos=False)
    assert (mixed.init, mixed.mixture) == (slam.init, mixture)
    with pytest.raises(TwistError, match=r"train\.bos_eos is for units alone"):
        replace(slam, mixture=mixture)


@pytest.mark.parametrize("num_units", [100, 200, 500])
def test_the_tokenizers_of_table_2(num_units: int) -> None:
    recipe = read(f"twist_opt_350m_50hz_km{num_units}")
    codebook = f"hubert-base-ls960-km{num_units}"
    assert (recipe.encoder.path, recipe.encoder.layer) == ("hubert-base-ls960", 6)
    assert (recipe.codebook.path, recipe.codebook.num_units) == (codebook, num_units)
    at_25_hz = settings_of("twist_opt_350m")
    assert recipe.train == replace(at_25_hz, max_units=2 * at_25_hz.max_units)


@pytest.mark.parametrize("name", MILLIONS)
def test_cold_shape_is_that_of_the_text_lm(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    architecture = settings_of(f"twist_{name}_cold").architecture
    assert architecture is not None
    made = AutoModelForCausalLM.from_config

    def without_memory(config: object) -> object:
        with torch.device("meta"):
            return made(config)

    monkeypatch.setattr(model.lm.speech_lm.AutoModelForCausalLM, "from_config", without_memory)
    speech_lm = model.lm.speech_lm.cold_start(architecture, Vocabulary(500), seed=0)
    assert round(speech_lm.num_parameters() / 1e6) == MILLIONS[name]
    model.lm.speech_lm.require_positions(speech_lm.config, 704)
