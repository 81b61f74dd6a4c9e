"""Each corpus with its recipe, from a tiny tree to shards."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from jobs import filter, manifest
from jobs.recipe import read_recipe
from model.encoder.config import EncoderConfig
from pipeline.corpora.readers import READERS
from pipeline.inspection.verify import verify_run
from pipeline.language.config import AudioLanguageConfig
from pipeline.packing.pack import pack
from pipeline.segments.segment import make_segments
from pipeline.units.codebook_fit import fit_codebook
from pipeline.units.config import CodebookConfig
from pipeline.units.tokenize import tokenize
from tests.progress import silently

ROOT = Path(__file__).resolve().parents[2]
RECIPES = sorted((ROOT / "recipes" / "corpora").glob("*.yaml"))


def test_every_corpus_has_a_recipe_and_a_page():
    assert {path.stem for path in RECIPES} == set(READERS)
    pages = (ROOT / "docs" / "corpora.md").read_text()
    assert [kind for kind in READERS if f"`{kind}`" not in pages] == []


@pytest.mark.usefixtures("without_ray")
@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_from_its_tree_to_shards(path, corpus_tree, tmp_path):
    recipe, _ = read_recipe("run", "", (), ["--config", str(path), "--run", str(tmp_path)])
    (corpus,) = recipe.corpora
    assert corpus.kind == path.stem
    # Nothing is fetched here.
    silent = dataclasses.replace(recipe.language, audio=AudioLanguageConfig())
    root = str(corpus_tree(corpus.kind))
    recipe = dataclasses.replace(recipe, corpora=(dataclasses.replace(corpus, root=root),), language=silent)
    manifest.work(recipe)
    filter.work(recipe)
    make_segments(recipe.run, recipe.segments, recipe.cluster, silently)
    codebook = CodebookConfig(num_units=10, num_iterations=3)
    fit_codebook(recipe.run, codebook, EncoderConfig(), recipe.cluster, silently)
    tokenize(recipe.run, EncoderConfig(), recipe.cluster, silently)
    pack(recipe.run, recipe.pack, silently)
    dataset = json.loads((tmp_path / "shards" / "dataset.json").read_text())
    assert {total["corpus"] for total in dataset["totals"]} == {corpus.label}
    assert sum(total["num_units"] for total in dataset["totals"]) > 0
    assert list(verify_run(recipe.run)) == []
