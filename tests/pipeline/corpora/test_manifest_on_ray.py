"""The manifest with every batch sent through Ray: everything must survive the trip unchanged."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pipeline.corpora import manifest
from pipeline.corpora.manifest import make_manifest
from pipeline.corpora.source import CorpusConfig
from pipeline.language.config import LanguageConfig
from pipeline.language.filter import filter_languages
from pipeline.work import map_tasks
from pipeline.work.cluster import ClusterConfig
from tests.progress import silently

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

# Ray is started once for all tests of one process.
pytestmark = pytest.mark.xdist_group("ray")
KINDS = ("libri_light", "peoples_speech", "webdataset", "hf_parquet", "voxpopuli")


def test_the_same_bytes_through_ray(
    corpus_tree: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpora = [CorpusConfig(str(corpus_tree(kind)), kind) for kind in KINDS]  # type: ignore[arg-type]
    make_manifest(str(tmp_path / "here"), corpora, silently)
    filter_languages(str(tmp_path / "here"), LanguageConfig(), ClusterConfig(), silently)
    monkeypatch.setattr(map_tasks, "SECONDS_HERE", 0.0)
    monkeypatch.setattr(manifest, "FILES_PER_TASK", 3)
    make_manifest(str(tmp_path / "there"), corpora, silently)
    filter_languages(str(tmp_path / "there"), LanguageConfig(), ClusterConfig(), silently)
    names = ["manifest/dropped.parquet", "manifest/DONE", "language/decisions.parquet", "language/dropped.parquet"]
    for name in [*names, *(f"manifest/{kind}.parquet" for kind in KINDS)]:
        assert (tmp_path / "there" / name).read_bytes() == (tmp_path / "here" / name).read_bytes(), f"{name} differs"
