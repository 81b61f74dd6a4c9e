"""Relative paths in a submitted job, whose folder Ray deletes."""

from __future__ import annotations

import pytest


@pytest.fixture
def package(tmp_path, monkeypatch):
    folder = tmp_path / "runtime_resources" / "working_dir_files" / "_ray_pkg_0123"
    folder.mkdir(parents=True)
    monkeypatch.chdir(folder)
    return folder


@pytest.mark.parametrize(
    ("words", "name"),
    [
        (["manifest", "--run", "runs/x"], "run is the relative path runs/x"),
        (["manifest", "folder", "data/x", "--run", "RUN"], "root is the relative path data/x"),
        (["manifest", "--audio", "data", "--run", "RUN"], "audio is the relative path data"),
        (["run", "--config", "own.yaml", "--run", "RUN", "--until", "pack"], "corpora.root is the relative path data"),
        (["tokenize", "--run", "RUN", "--encoder.name", "hubert", "--encoder.path", "models/x"], "encoder.path is"),
        (["filter", "--run", "RUN", "--language.audio.model", "models/x"], "language.audio.model is"),
        (["train", "--run", "RUN", "--train.init", "models/x"], "train.init is"),
        (["tune-tokenizer", "--run", "RUN", "--spin.phones", "phones"], "spin.phones is the relative path phones"),
        (["tune-tokenizer", "--run", "RUN", "--spin.phones", '{"a": "phones"}'], "spin.phones.a is the relative path"),
        (["train-vocoder", "--run", "RUN", "--vocoder.init", "models/x"], "vocoder.init is"),
        (["resynthesize", "--input-file", "/a.wav", "--output-file", "/b.wav", "--vocoder", "models/x"], "vocoder is"),
    ],
)
def test_a_relative_path_is_refused_in_a_sentence(words, name, package, tmp_path, twist):
    (package / "own.yaml").write_text("corpora: [{root: data}]\n")
    words = [str(tmp_path / "run") if word == "RUN" else word for word in words]
    told = twist(*words, status=2).stderr
    assert name in told and "every machine sees" in told and len(told.splitlines()) == 1
    assert not (package / "runs").exists()


@pytest.mark.usefixtures("package")
def test_absolute_paths_and_names_of_models_are_not(tmp_path, twist):
    options = ("--encoder.name", "hubert", "--encoder.path", "hubert-tiny-25hz", "--encoder.layer", 3)
    told = twist("tokenize", "--run", tmp_path / "run", *options, status=2).stderr
    assert "relative" not in told and "is not finished" in told
