"""The paper's corpora together, with the recipe for them, on tiny trees in their layouts."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from jobs import filter, manifest
from jobs.recipe import read_recipe
from pipeline.corpora.manifest import read_recordings
from pipeline.language.config import LanguageConfig
from tests.language_classifiers import write_ecapa

pytestmark = pytest.mark.xdist_group("five_corpora")
ROOT = Path(__file__).resolve().parents[2]
FOLDERS = {
    "librispeech": "LibriSpeech",
    "libri_light": "libri-light",
    "spotify": "spotify-podcasts-2020",
    "peoples_speech": "peoples_speech",
    "voxpopuli": "voxpopuli",
}
# Settings for tiny trees: nothing is fetched, and recordings may be short.
SMALL = [
    *("--encoder.name", "mfcc", "--encoder.path", "null", "--codebook.path", "null", "--codebook.num_units", "20"),
    *("--codebook.num_iterations", "5", "--segments.min_s", "1"),
    # The classifier has random weights, so whatever it hears is kept.
    *("--language.audio_keep", "0", "--language.audio_drop", "0", "--language.corpora", "{}"),
]


@pytest.fixture(scope="module")
def finished(corpus_tree, tmp_path_factory) -> tuple[Path, str]:
    """The folder that the commands ran in, and what they printed."""
    folder = tmp_path_factory.mktemp("five")
    (folder / "data").mkdir()
    for kind, name in FOLDERS.items():
        tree = corpus_tree(kind)
        (folder / "data" / name).symlink_to(tree / "LibriSpeech" if kind == "librispeech" else tree)
    write_ecapa(folder / "models" / "lang-id-voxlingua107-ecapa")
    recipe = ROOT / "recipes" / "twist_five_corpora.yaml"
    command = [sys.executable, "-m", "jobs", "run", "--config", str(recipe), "--until", "pack", *SMALL]
    done = subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return folder, done.stdout


def test_it_ends_with_a_table_like_the_paper_s(finished):
    folder, output = finished
    lines = [line.split() for line in output.strip().splitlines()[-7:]]
    assert lines[0] == ["corpus", "hours", "units", "units", "an", "hour"]
    rows = {line[0]: line[1:] for line in lines[1:]}
    assert set(rows) == {"librispeech", "libri-light", "spotify", "peoples-speech", "voxpopuli", "total"}
    hours = {name: float(row[0]) for name, row in rows.items()}
    units = {name: int(row[1].replace(",", "")) for name, row in rows.items()}
    assert sum(units.values()) == 2 * units["total"]
    assert sum(hours.values()) == pytest.approx(2 * hours["total"], abs=1e-3)
    assert all(count > 0 for count in units.values())
    dataset = json.loads((folder / "runs/twist_five_corpora/shards/dataset.json").read_text())
    assert sum(total["num_units"] for total in dataset["totals"]) == units["total"]
    assert set(dataset["languages"]) == {"en"}


def test_every_invariant_holds_and_every_hour_is_accounted_for(finished, twist):
    run = finished[0] / "runs/twist_five_corpora"
    description = json.loads(twist("inspect", run, "--json", "--verify").stdout)
    assert description["violations"] == []
    language = description["stages"]["language"]
    assert language["counts"]["dropped"].keys() == {"evaluation", "other_language", "same_speech"}
    assert language["audio_evidence"] == {"available": True, "unheard": {"items": 0, "hours": 0.0}}
    heard = {
        (row["corpus"], row["decision"]): row["items"] for row in language["by_evidence"] if row["evidence"] == "audio"
    }
    assert heard == {("spotify", "keep"): 3, ("voxpopuli", "keep"): 3}
    text = twist("inspect", run / "language").stdout
    assert "drop: same_speech" in text and "least certain" in text


def test_splits_are_those_of_the_corpora_and_no_speaker_is_in_two(finished):
    import pyarrow.parquet as pq

    rows = pq.read_table(finished[0] / "runs/twist_five_corpora/shards/manifest.parquet").to_pylist()
    splits_of: dict[str, set[str]] = {}
    for row in rows:
        splits_of.setdefault(row["speaker"] or row["segment_id"].partition("#")[0], set()).add(row["split"])
    assert all(len(splits) == 1 for splits in splits_of.values())
    assert splits_of["librivox/102"] == {"validation"} and splits_of["librivox/103"] == {"test"}
    tests = {row["segment_id"].split("/")[0] for row in rows if row["split"] == "test"}
    assert {"librispeech", "peoples-speech"} <= tests


@pytest.mark.parametrize("argument", ["--language de", "--language en,de", "--language=de", "--language en de"])
def test_language_is_short_for_its_option(argument):
    recipe, _ = read_recipe(
        "filter", "", ("language",), ["--run", "r", *argument.split(), "--language.text_keep", "0.8"]
    )
    codes = argument.replace("--language", "").strip(" =").replace(",", " ").split()
    assert recipe.language == LanguageConfig(languages=tuple(codes), text_keep=0.8)


@pytest.mark.parametrize(
    ("command", "arguments", "message"),
    [
        (manifest, "mls", "name the folder of the corpus too: twist manifest mls ROOT"),
        (manifest, "mls ROOT --audio ROOT", "name the corpus twice"),
        (manifest, "--name x", "--name goes with a corpus"),
        (manifest, "speech ROOT", "invalid choice: 'speech'"),
        (filter, "--language", "--language takes codes of languages"),
        (filter, "--language xx", "are no ISO 639-1 codes"),
    ],
)
def test_mistakes(tmp_path, capsys, command, arguments, message):
    given = [str(tmp_path) if argument == "ROOT" else argument for argument in arguments.split()]
    assert command.main([*given, "--run", str(tmp_path / "run")]) == 2
    assert message in capsys.readouterr().err


def test_a_corpus_by_its_kind_and_root(corpus_tree, tmp_path, capsys):
    assert manifest.main(["mls", str(corpus_tree("mls")), "--name", "readings", "--run", str(tmp_path)]) == 0
    assert "7 recordings" in capsys.readouterr().out
    assert {recording.corpus for recording in read_recordings(str(tmp_path))} == {"readings"}
