"""From texts to a tuned model: pairs are made once, held-out pairs are told better, a killed run ends the same."""

from __future__ import annotations

import itertools
import json
import shutil
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import soundfile
from safetensors.torch import load_file

from model.lm.speech_lm import cold_start
from model.lm.vocab import Vocabulary
from model.preferences.pair_shards import open_pairs
from model.training import checkpoint_steps
from pipeline.evaluation.item_units import units_of_items
from pipeline.files import storage
from pipeline.preferences import candidates
from pipeline.stage import Stage
from pipeline.synthetic.espeak import synthesize
from tests.asr_models import write_ctc, write_text_lm

if TYPE_CHECKING:
    from tests.jobs.conftest import Twist

PEOPLE = ("The baker", "A sailor", "My teacher", "The old miller", "Our doctor")
ACTIONS = ("opened the window", "sat by the river", "left the market", "looked at the letter", "went up the hill")
OPT: dict[str, Any] = {
    "model_type": "opt",
    "hidden_size": 16,
    "word_embed_proj_dim": 16,
    "ffn_dim": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "max_position_embeddings": 300,
}
TELLS_TIMES = {"stage.json", "progress.json", ".lock"}
TUNING = ("--tune.num_steps=24", "--tune.batch_size=8", "--tune.peak_lr=0.01", "--tune.warmup_steps=2")
OFTEN = ("--tune.validate_every=6", "--tune.checkpoint_every=6", "--tune.log_every=1", "--tune.device=cpu")


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Prompts with an ending in plain words, and one that hisses; one repeats itself, one row has no audio."""
    rows: list[dict[str, Any]] = [
        {
            "prompt_text": f"{person} {action}.",
            "chosen_text": f"Then we all {action.split()[0]} a warm and yellow moon.",
            "rejected_text": "Six sixths, she sells, six sixths, she sells.",
        }
        for person, action in itertools.product(PEOPLE, ACTIONS)
    ]
    rows.append({**rows[0], "chosen_text": "Go on, go on, go on, go on, go on."})
    rows.append({"prompt_path": "missing.wav", "chosen_path": "missing.wav", "rejected_path": "missing.wav"})
    path = tmp_path_factory.mktemp("texts") / "pairs.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def prepare(twist: Twist, run: Path, texts: Path) -> str:
    options = (
        f"--preferences.source={texts}",
        "--preferences.validation_share=0.3",
        "--preferences.pairs_per_shard=10",
    )
    return twist("prepare-preferences", "--run", run, *options).stdout


def test_from_texts_to_a_tuned_model(twist: Twist, finished_copy: Path, texts: Path) -> None:
    run = finished_copy
    told = prepare(twist, run, texts)
    assert "kept" in told and "25 pairs" in told and "1 auto_bleu" in told and "1 missing" in told
    facts = json.loads((run / "preferences" / "stage.json").read_text())
    assert facts["counts"]["input"]["items"] == 27
    assert not (run / "preferences" / "audio").exists() or not list((run / "preferences" / "audio").iterdir())
    assert "already finished" in prepare(twist, run, texts)

    told = twist("tune", "--run", run, *TUNING, *OFTEN).stdout
    best = run / "tuned" / "00000024"
    assert "held-out pairs the better ending is the likelier in" in told
    progress = json.loads((best / "trainer_state.json").read_text())["progress"]
    assert progress["best"]["gain_accuracy"] > 0.9
    assert progress["best"]["accuracy"] >= progress["initial"]["accuracy"]
    assert progress["best"]["loss"] < 0.6

    # Killed after step 12: the later checkpoint never came to be.
    killed = run / "killed"
    shutil.copytree(run / "tuned", killed, ignore=shutil.ignore_patterns("00000018", "00000024"))
    twist("tune", "--run", run, "--checkpoints", killed, *TUNING, *OFTEN)
    ours, theirs = (load_file(folder / "model.safetensors") for folder in (killed / "00000024", best))
    assert all((ours[name] == theirs[name]).all() for name in theirs), "the resumed run ends with other weights"
    shutil.rmtree(killed)

    shown = twist("inspect", run).stdout
    assert "preference pairs" in shown and "tuned speech LM" in shown
    assert "verified: every checksum and invariant holds" in twist("inspect", run, "--verify").stdout
    (kept, _) = sorted((run / "tuned").glob("reference-*.parquet"))
    content = bytearray(kept.read_bytes())
    content[len(content) // 3] ^= 1
    kept.write_bytes(content)
    assert kept.name in twist("inspect", run / "tuned", "--verify", status=2).stdout
    tar = run / "preferences" / "train" / "train-000000.tar"
    content = bytearray(tar.read_bytes())
    content[600] ^= 1
    tar.write_bytes(content)
    done = twist("inspect", run, "--verify", status=2)
    assert "train-000000.tar" in done.stdout


class Killed(BaseException):
    """Stands in for a SIGKILL: nothing must handle it."""


def test_killed_anywhere_the_pairs_have_the_same_bytes(
    twist: Twist, texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed as texts are spoken, behind the units, before the second tar, before the index, before the end."""
    few = tmp_path / "few.jsonl"
    few.write_text("\n".join(texts.read_text().splitlines()[-8:]))
    options = (f"--preferences.source={few}", "--codebook=hubert-tiny-25hz", "--preferences.pairs_per_shard=2")
    options += ("--preferences.validation_share=0.4",)

    def bytes_of(run: Path) -> dict[str, bytes]:
        folder = run / "preferences"
        told = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
        return {name: path.read_bytes() for name, path in told.items() if name not in TELLS_TIMES}

    twist("prepare-preferences", "--run", tmp_path / "whole", *options)
    whole = bytes_of(tmp_path / "whole")
    assert {"pairs.parquet", "preferences.json", "train/train-000001.tar"} <= set(whole)

    run = tmp_path / "killed"
    written = storage.write_bytes

    def killed_before(ending: str, count: int = 1) -> None:
        names: list[str] = []
        one_at_a_time = threading.Lock()

        def write(uri: str, content: bytes, *others: Any, **named: Any) -> Any:
            with one_at_a_time:
                names.extend([uri] if uri.endswith(ending) and "preferences" in uri else [])
                is_dead = len(names) >= count
            if is_dead:
                raise Killed
            return written(uri, content, *others, **named)

        with monkeypatch.context() as patch, pytest.raises(Killed):
            patch.setattr(storage, "write_bytes", write)
            twist("prepare-preferences", "--run", run, *options)

    killed_before(".wav", 5)
    audio = run / "preferences" / "audio"
    spoken = {path.name: path.stat().st_mtime_ns for path in audio.iterdir()}
    assert len(spoken) == 4

    def killed_behind_the_units(*arguments: Any) -> None:
        units_of_items(*arguments)
        raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(candidates, "units_of_items", killed_behind_the_units)
        twist("prepare-preferences", "--run", run, *options)
    parts = {path: path.stat().st_mtime_ns for path in (run / "preferences" / "units").rglob("part-*.parquet")}
    assert parts
    assert {name: (audio / name).stat().st_mtime_ns for name in spoken} == spoken, "what was spoken is said again"
    for ending, count in ((".tar", 2), ("preferences.json", 1)):
        killed_before(ending, count)
        assert not (run / "preferences" / "preferences.json").exists()
        assert all(path.stat().st_mtime_ns == made for path, made in parts.items()), "units are made again"
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(Stage, "finish", raise_killed)
        twist("prepare-preferences", "--run", run, *options)
    told = twist("prepare-preferences", "--run", run, *options).stdout
    assert "already finished" not in told
    assert bytes_of(run) == whole


def raise_killed(*_: Any, **__: Any) -> None:
    raise Killed


def test_pairs_of_the_model_itself(twist: Twist, tmp_path: Path) -> None:
    """All weights are random: what is best means nothing, but each prompt gives a pair or a reason."""
    write_ctc(tmp_path / "asr")
    write_text_lm(tmp_path / "text_lm")
    cold_start(OPT, Vocabulary(100), seed=0).save_pretrained(tmp_path / "lm")
    rows = []
    for number, words in enumerate(ACTIONS[:3]):
        soundfile.write(tmp_path / f"{number}.wav", *synthesize(f"In the morning the man {words} again.", "en-us+f2"))
        rows.append({"audio": f"{number}.wav", "id": f"prompt{number}"})
    soundfile.write(tmp_path / "short.wav", *synthesize("No.", "en-us+f2"))
    rows.append({"audio": "short.wav", "id": "short"})
    (tmp_path / "prompts.jsonl").write_text("\n".join(map(json.dumps, rows)))
    settings = {"num_continuations": 3, "min_s": 1.5, "prompt_s": 1.0, "min_gap": 0.0}
    settings |= {name: tmp_path / name for name in ("asr", "text_lm")}
    options = [f"--preferences.continuations.{name}={value}" for name, value in settings.items()]
    options += [f"--preferences.source={tmp_path / 'prompts.jsonl'}", "--preferences.max_auto_bleu=null"]
    options += [f"--checkpoint={tmp_path / 'lm'}", "--codebook=hubert-tiny-25hz"]
    told = twist("prepare-preferences", "--run", tmp_path / "run", *options).stdout
    counts = json.loads((tmp_path / "run" / "preferences" / "stage.json").read_text())["counts"]
    assert counts["input"]["items"] == 4 and counts["dropped"]["too_short"]["items"] == 1, told
    assert counts["kept"]["items"] >= 1
    for split in ("train", "validation"):
        for pair in open_pairs(str(tmp_path / "run" / "preferences")).pairs(split):
            assert pair.facts["chosen_nats"] < pair.facts["rejected_nats"]
            assert len(pair.prompt) < 26, "a second of 25 frames"
    assert "already finished" in twist("prepare-preferences", "--run", tmp_path / "run", *options).stdout
    only_asr = twist("prepare-preferences", "--run", tmp_path / "new", *options[4:5], *options[6:], status=2)
    assert "give --preferences.continuations.text_lm" in only_asr.stderr


def test_tuning_needs_pairs_and_a_model(twist: Twist, finished_copy: Path, tmp_path: Path) -> None:
    nothing = twist("prepare-preferences", "--run", finished_copy, status=2)
    assert "nothing says which pairs to make" in nothing.stderr
    done = twist("tune", "--run", finished_copy, status=2)
    assert "holds no preference pairs" in done.stderr
    empty = tmp_path / "empty"
    done = twist("tune", "--run", empty, status=2)
    assert "holds no checkpoint" in done.stderr
    assert checkpoint_steps.steps(str(finished_copy / "tuned")) == []
