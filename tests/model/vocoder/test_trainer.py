"""Training a vocoder: batches, resumed = uninterrupted, two processes = one, it learns, and what is refused."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import soundfile
import torch
from safetensors.torch import load_file

from model.training import checkpoint, checkpoint_steps
from model.training.metrics import read_metrics
from model.vocoder import mel_picture
from model.vocoder.batches import VocoderBatches, validation_clips
from model.vocoder.checkpoint import load_vocoder
from model.vocoder.config import VocoderConfig
from model.vocoder.mel_config import MelConfig
from model.vocoder.synthesizer import Synthesizer, Utterance
from model.vocoder.train_config import VocoderTrainConfig
from model.vocoder.trainer import train_vocoder
from pipeline.errors import TwistError
from pipeline.files import storage
from tests.model.labelled_tones import HOP_SAMPLES, LabelledTones

if TYPE_CHECKING:
    from model.training.training import OnEvent
    from model.vocoder.trainer import VocoderResult

CLIPS, VALIDATION = LabelledTones(), LabelledTones((44, 50, 60), fingerprint="more tones")
NETWORK = VocoderConfig(
    num_embeddings=4,
    embedding_dim=8,
    model_in_dim=8,
    upsample_rates=(8, 8, 5),
    upsample_kernel_sizes=(16, 16, 11),
    upsample_initial_channel=32,
    resblock_kernel_sizes=(3,),
    resblock_dilation_sizes=((1, 3),),
    dur_predictor_params={"encoder_embed_dim": 8, "var_pred_hidden_dim": 8, "var_pred_dropout": 0.3},
)
SCRIPT = """
import json, sys
import torch
from model.vocoder.trainer import train_vocoder
from tests.model.labelled_tones import LabelledTones
from tests.model.vocoder.test_trainer import small_config

torch.set_num_threads(1)
train_vocoder(
    small_config(**json.loads(sys.argv[1])), LabelledTones(), LabelledTones((44, 50, 60), fingerprint="more tones"),
    "codebook", sys.argv[2],
)
"""


class Killed(BaseException):
    """Stands in for a SIGKILL: the trainer must not handle it."""


def small_config(**changes: Any) -> VocoderTrainConfig:
    """Ten steps, the last six against discriminators; nothing happens on schedule before the last."""
    settings: dict[str, Any] = {
        "model": NETWORK,
        "batch_size": 4,
        "crop_frames": 10,
        "num_steps": 10,
        "discriminator_start": 4,
        "discriminator_width": 128,
        "mels": (MelConfig(512, 128, 20), MelConfig(256, 64, 20)),
        "peak_lr": 1e-3,
        "warmup_steps": 2,
        "clip_norm": 100.0,
        "validate_every": 1000,
        "checkpoint_every": 1000,
        "sample_every": 0,
        "log_every": 1,
        "device": "cpu",
        **changes,
    }
    return VocoderTrainConfig(**settings)


def train(config: VocoderTrainConfig, folder: Path, on_event: OnEvent = lambda _: None) -> VocoderResult:
    return train_vocoder(config, CLIPS, VALIDATION, "codebook", str(folder), on_event)


def at_step(step: int, do: Any) -> OnEvent:
    def on_event(event: dict[str, Any]) -> None:
        if event["event"] == "step" and event["step"] == step:
            do()

    return on_event


def kill() -> None:
    raise Killed


def curve(folder: Path) -> list[dict[str, Any]]:
    """The metrics of each step, without those that depend on time."""
    return [
        {name: value for name, value in line.items() if name not in ("time", "audio_s_per_s")}
        for line in read_metrics(str(folder))
    ]


def weights(folder: Path, step: int) -> dict[str, torch.Tensor]:
    path = Path(checkpoint_steps.step_folder(str(folder), step))
    return {**load_file(path / "model.safetensors"), **load_file(path / "discriminators.safetensors")}


def assert_same_run(folder: Path, reference: Path, step: int) -> None:
    assert curve(folder) == curve(reference), "the metrics differ from those of a run never stopped"
    ours, theirs = weights(folder, step), weights(reference, step)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs), "the weights differ"


@pytest.mark.parametrize("num_workers", [0, 1])
def test_resumed_equals_uninterrupted(tmp_path: Path, num_workers: int) -> None:
    config = small_config(checkpoint_every=3, validate_every=4, num_workers=num_workers)
    whole = train(config, tmp_path / "whole")
    with pytest.raises(Killed):  # after the discriminators came in
        train(config, tmp_path / "killed", at_step(8, kill))
    resumed = train(config, tmp_path / "killed")
    assert_same_run(tmp_path / "killed", tmp_path / "whole", 10)
    assert resumed == dataclasses.replace(whole, checkpoint=resumed.checkpoint)
    assert whole.hours_seen > 0


def test_two_processes_equal_one(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"validate_every": 5, "clip_norm": None}
    script = tmp_path / "train.py"
    # Without dropout, which is drawn for each process.
    script.write_text(
        SCRIPT.replace("small_config(**", "small_config(model=no_dropout(), **").replace(
            "import small_config", "import no_dropout, small_config"
        )
    )
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--standalone",
            "--nproc-per-node=2",
            str(script),
            json.dumps(settings),
            str(tmp_path / "two"),
        ],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3]), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    train(small_config(model=no_dropout(), **settings), tmp_path / "one")
    one, two = curve(tmp_path / "one"), curve(tmp_path / "two")
    assert [line["step"] for line in one] == [line["step"] for line in two], "only one process may write metrics"
    for line, other in zip(one, two, strict=True):
        for name in line.keys() - {"step", "validation", "grad_norm"}:
            assert other[name] == pytest.approx(line[name], rel=2e-3), f"{name} at step {line['step']}"
        if "validation" in line:
            assert other["validation"] == pytest.approx(line["validation"], rel=2e-3)


def no_dropout() -> VocoderConfig:
    """NETWORK without dropout."""
    durations = {**(NETWORK.dur_predictor_params or {}), "var_pred_dropout": 0.0}
    return dataclasses.replace(NETWORK, dur_predictor_params=durations)


def test_it_learns_what_units_sound_like_and_how_long_they_last(tmp_path: Path) -> None:
    never = 300
    config = small_config(
        num_steps=never, discriminator_start=never, peak_lr=5e-3, batch_size=8, validate_every=50, log_every=50
    )
    result = train(config, tmp_path)
    losses = [line["validation"] for line in curve(tmp_path) if "validation" in line]
    assert losses[-1]["mel_distance"] < 0.8 * losses[0]["mel_distance"]
    assert losses[-1]["duration_error"] < 0.15, "units of tones last four frames, or twice as long"
    assert result.best is not None, "without discriminators the best counts from the start"
    vocoder, fingerprint = load_vocoder(Path(result.checkpoint))
    assert fingerprint == "codebook"
    synthesizer = Synthesizer(vocoder.for_inference(torch.float32, torch.device("cpu")))
    wav = synthesizer([Utterance(np.array([2], np.uint16), np.array([40], np.uint16))])[0]
    hertz = np.fft.rfftfreq(len(wav), 1 / 16_000)
    loudest_hz = hertz[np.abs(np.fft.rfft(wav))[hertz > 100].argmax() + (hertz <= 100).sum()]
    assert abs(loudest_hz - 1200) < 100, f"unit 2 is a tone of 1200 Hz, but sounds at {loudest_hz} Hz"


def test_checkpoints_and_samples_may_lie_on_s3(faulty_bucket: str, tmp_path: Path) -> None:
    config = small_config(num_steps=4, checkpoint_every=2, sample_every=4, num_samples=1)
    with pytest.raises(Killed):
        train_vocoder(config, CLIPS, VALIDATION, "codebook", f"{faulty_bucket}/vocoder", at_step(3, kill))
    resumed = train_vocoder(config, CLIPS, VALIDATION, "codebook", f"{faulty_bucket}/vocoder")
    train(config, tmp_path / "whole")
    ours, theirs = (
        load_file(checkpoint.fetch(where) / "model.safetensors")
        for where in (resumed.checkpoint, str(tmp_path / "whole" / "00000004"))
    )
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    samples = storage.list_files(f"{faulty_bucket}/vocoder/samples", ".wav")
    assert sorted(samples) == ["0-00000004.wav", "0-recorded.wav"]


def test_samples_and_pictures_come_on_schedule(tmp_path: Path) -> None:
    train(small_config(num_steps=4, discriminator_start=0, sample_every=2, num_samples=2), tmp_path)
    folder = tmp_path / "samples"
    expected = {f"{n}-{kind}.wav" for n in (0, 1) for kind in ("recorded", "00000002", "00000004")}
    assert {path.name for path in folder.glob("*.wav")} == expected
    recorded, rate_hz = soundfile.read(folder / "0-recorded.wav")
    made, _ = soundfile.read(folder / "0-00000004.wav")
    assert (len(recorded), rate_hz) == (len(made), 16_000)
    assert np.isfinite(made).all()
    pictures = {path.name for path in folder.glob("*.png")}
    if mel_picture.is_available():
        assert pictures == {f"{n}-{step}.png" for n in (0, 1) for step in ("00000002", "00000004")}
        assert all(path.read_bytes().startswith(b"\x89PNG") for path in folder.glob("*.png"))
    else:
        assert not pictures


def test_training_may_start_from_a_vocoder(tmp_path: Path) -> None:
    first = train(small_config(), tmp_path / "first")
    config = small_config(init=first.checkpoint, num_steps=3, peak_lr=1e-9, final_lr=0.0)
    second = train(config, tmp_path / "second")
    ours, theirs = (load_vocoder(Path(each.checkpoint))[0].state_dict() for each in (second, first))
    for name, tensor in theirs.items():
        torch.testing.assert_close(ours[name], tensor, rtol=0, atol=1e-5, msg=name)
    with pytest.raises(TwistError, match="another codebook"):
        train_vocoder(config, CLIPS, VALIDATION, "other units", str(tmp_path / "third"))
    wider = dataclasses.replace(NETWORK, upsample_initial_channel=64)
    with pytest.raises(TwistError, match="another shape"):
        train(dataclasses.replace(config, model=wider), tmp_path / "third")


def test_a_resumed_run_must_be_the_same(tmp_path: Path) -> None:
    train(small_config(num_steps=3, discriminator_start=0), tmp_path)
    with pytest.raises(TwistError, match=r"mel_weight was 45.0, is 1.0"):
        train(small_config(num_steps=3, discriminator_start=0, mel_weight=1.0), tmp_path)
    with pytest.raises(TwistError, match="other clips or units"):
        train_vocoder(small_config(num_steps=3, discriminator_start=0), CLIPS, VALIDATION, "other", str(tmp_path))


@pytest.mark.parametrize("world_size", [1, 2])
def test_ranks_part_a_batch(world_size: int) -> None:
    whole = VocoderBatches(CLIPS, small_config())[7]
    parts = [VocoderBatches(CLIPS, small_config(), rank, world_size)[7] for rank in range(world_size)]
    assert torch.equal(torch.cat([part.wav for part in parts]), whole.wav)
    assert torch.equal(torch.cat([part.frames for part in parts]), whole.frames)
    assert sum(int((part.durations > 0).sum()) for part in parts) == int((whole.durations > 0).sum())


def test_a_crop_has_the_units_of_its_samples() -> None:
    batches = VocoderBatches(CLIPS, small_config())
    firsts = set()
    for index in range(6):
        batch = batches[index]
        assert batch.wav.shape == (4, 10 * HOP_SAMPLES) and batch.frames.shape == (4, 10)
        for wav, frames in zip(batch.wav, batch.frames, strict=True):
            for place, unit in enumerate(frames.tolist()):
                piece = wav[place * HOP_SAMPLES : (place + 1) * HOP_SAMPLES]
                found_hz = torch.fft.rfft(piece, 3200).abs().argmax().item() * 5
                assert abs(found_hz - 300 * 2**unit) < 30, f"unit {unit} sounds at {found_hz} Hz"
            firsts.add(tuple(frames.tolist()))
        rows = zip(batch.units, batch.durations, strict=True)
        for units, durations in rows:
            count = int((durations > 0).sum())
            assert (units[1:count] != units[: count - 1]).all() and not durations[count:].any()
    assert len(firsts) > 12, "crops lie elsewhere each time"


def test_validation_clips_are_the_same_each_time() -> None:
    first, again = (validation_clips(VALIDATION, small_config(validation_clips=2)) for _ in range(2))
    assert len(first) == 2
    for one, other in zip(first, again, strict=True):
        assert all(map(torch.equal, one[:4], other[:4]))
        assert len(one.wav) == HOP_SAMPLES * len(one.frames) == HOP_SAMPLES * int(one.durations.sum())


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model": dataclasses.replace(NETWORK, num_embeddings=5)}, "num_embeddings is 5, but the run has 4 units"),
        (
            {"model": dataclasses.replace(NETWORK, upsample_rates=(8, 4, 5), upsample_kernel_sizes=(16, 8, 11))},
            "make 160 samples of a frame",
        ),
        ({"crop_frames": 500}, "no clip is as long as crop_frames"),
    ],
)
def test_clips_that_do_not_fit_are_refused(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(TwistError, match=words):
        train(small_config(**changes), tmp_path)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"batch_size": 0}, "batch_size is 0"),
        ({"peak_lr": 0.0}, "peak_lr is 0.0"),
        ({"final_lr": 1.0}, "final_lr is 1.0"),
        ({"discriminator_width": 100}, "multiple of 128"),
        ({"mels": ()}, "mels is"),
        ({"mels": (MelConfig(sample_rate_hz=22_050),)}, "sample_rate_hz 16000"),
        ({"mels": (MelConfig(8192, 256),)}, "crop_frames is 10"),
        ({"warmup_steps": 10}, "below num_steps"),
        ({"model": dataclasses.replace(NETWORK, dur_predictor_params=None)}, "duration predictor"),
        (
            {"model": dataclasses.replace(NETWORK, multistyle="_", model_in_dim=16)},
            "without embedder_params",
        ),
    ],
)
def test_settings_that_make_no_sense_are_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(TwistError, match=words):
        small_config(**changes)


def test_a_batch_that_cannot_be_parted_is_refused() -> None:
    with pytest.raises(TwistError, match="cannot be parted evenly among 3"):
        VocoderBatches(CLIPS, small_config(), 0, 3)
