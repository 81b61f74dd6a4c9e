"""Trains voices on units, on units and pitch, and on these with a source, and compares them on held-out recordings.

    python docs/base_and_expressive.py TRAIN HELD_OUT WORK [--init FOLDER] [--steps 400] [--clips 30] ...

TRAIN and HELD_OUT are folders of one reader's FLAC or WAV files, WORK is for checkpoints: where it has a voice already,
that one is taken. All voices begin as the voice of units alone in --init (with new weights of hifigan-tiny-25hz's size
without it) and train alike, without discriminators: on the same crops, in the same order. The table of the codes of
pitch begins as the pitch tokenizer's codebook, in which codes of like pitch lie near one another: what a voice learns
of one then holds for its neighbours. Prints tables for docs/expressive.md and draws WORK/base_and_expressive.png. Needs
the extra `plots`.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import matplotlib as mpl
import numpy as np
import pyarrow as pa
import soundfile
import torch

mpl.use("Agg")
from matplotlib import pyplot as plt

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from model.artefacts import local_path
from model.pitch.contour import extract
from model.pitch.tokenizer import load_pitch_tokenizer
from model.vocoder.batches import CodeFacts, Conditions
from model.vocoder.checkpoint import load_vocoder, save_vocoder
from model.vocoder.config import VocoderConfig
from model.vocoder.mel import LogMel
from model.vocoder.mel_config import MelConfig
from model.vocoder.melody import Melody
from model.vocoder.train_config import VocoderTrainConfig
from model.vocoder.trainer import train_vocoder
from model.vocoder.vocoder import Vocoder
from model.vocoder.widening import widened
from pipeline.evaluation.measures import Measure, figure
from pipeline.evaluation.speech.prosody import likeness
from pipeline.records import LabelClock
from pipeline.speaking.expression import Expression
from pipeline.speaking.tokenizer import load_tokenizer
from pipeline.speaking.voice import load_voice

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pipeline.speaking.units import Units

SIZE, UNITS, PITCH = "hifigan-tiny-25hz", "hubert-tiny-25hz", "pitch-tiny"
SAMPLE_RATE_HZ = 16_000
MELS = (MelConfig(1024, 256, 80), MelConfig(2048, 512, 120), MelConfig(512, 128, 60))
FIGURES = ("f0_correlation", "f0_error_cents", "f0_frame_error", "energy_correlation")
# Each voice's name, and its source_harmonics; None: it takes no codes of pitch.
VOICES = {"BASE": None, "EXPRESSIVE": 0, "with a source": 8}
COLOURS = {"recorded": "#444444", "BASE": "#b5651d", "EXPRESSIVE": "#2f6f9f", "with a source": "#3b7d3b"}
SHOWN_S = 5.0


@dataclasses.dataclass(frozen=True)
class ReadClips:
    """Recordings with their units and codes of pitch, as clips to train a vocoder on."""

    wavs: list[NDArray[np.float32]]
    units: list[Units]
    pitch: list[NDArray[np.uint16]]
    facts: CodeFacts
    codebook_size: int
    clock: LabelClock
    fingerprint: str
    means_hz: list[float | None]
    melody: Melody
    speakers: tuple[str, ...] = ()

    @property
    def codes(self) -> dict[str, CodeFacts]:
        return {"pitch": self.facts}

    @property
    def num_samples(self) -> NDArray[np.int64]:
        return np.array([len(wav) for wav in self.wavs])

    def __len__(self) -> int:
        return len(self.wavs)

    def __getitem__(self, index: int) -> tuple[NDArray[np.float32], NDArray[np.uint16]]:
        units = self.units[index]
        return self.wavs[index], np.repeat(units.values, units.known_durations)

    def conditions(self, index: int) -> Conditions:
        return Conditions({"pitch": self.pitch[index]}, None, self.means_hz[index])

    def part(self, start: int, stop: int | None) -> ReadClips:
        lists = ("wavs", "units", "pitch", "means_hz")
        return dataclasses.replace(self, **{name: getattr(self, name)[start:stop] for name in lists})


def read(folder: str, count: int) -> ReadClips:
    paths = sorted(path for path in Path(folder).rglob("*") if path.suffix in (".flac", ".wav"))[:count]
    wavs = [soundfile.read(path, dtype="float32")[0] for path in paths]
    tokenizer, pitch = load_tokenizer(UNITS), load_pitch_tokenizer(PITCH)
    encoder = tokenizer.codebook.facts["encoder"]
    contours = [extract(wav, "nccf") for wav in wavs]
    means_hz = [contour.mean_hz for contour in contours]
    clock = LabelClock(encoder["hop_samples"], encoder["min_samples"], round(encoder["max_chunk_s"] * SAMPLE_RATE_HZ))
    return ReadClips(
        wavs,
        tokenizer.of_wavs(wavs),
        [dict(codes)["pitch"] for codes in Expression({"pitch": pitch}).of_wavs(wavs, ["pitch"])],
        CodeFacts(pitch.rate_hz, pitch.num_codes, pitch.fingerprint),
        tokenizer.codebook_size,
        clock,
        tokenizer.codebook.fingerprint,
        means_hz,
        Melody(pitch.model, (float(np.mean([mean for mean in means_hz if mean])),)),
    )


def begin_with_units(clips: ReadClips, init: Path | None, folder: Path) -> Vocoder:
    """Writes the voice of units that all begin as."""
    if init is not None:
        voice, _ = load_vocoder(init)
    else:
        size = VocoderConfig.read(local_path(SIZE) / "config.json")
        torch.manual_seed(0)
        voice = Vocoder(
            dataclasses.replace(
                size, num_f0_tokens=None, predicts_pitch=None, source_harmonics=None, model_in_dim=size.embedding_dim
            )
        )
    folder.mkdir(parents=True, exist_ok=True)
    save_vocoder(voice, folder, clips.fingerprint)
    return voice


def begin_with_pitch(clips: ReadClips, given: Vocoder, folder: Path, source_harmonics: int | None) -> VocoderConfig:
    """Writes the voice of units as one that takes pitch, too, whose table of pitch is the tokenizer's codebook."""
    width = given.config.embedding_dim
    shape = dataclasses.replace(
        given.config, num_f0_tokens=clips.facts.num_codes, model_in_dim=2 * width, source_harmonics=source_harmonics
    )
    voice = widened(given, shape)
    vectors = load_pitch_tokenizer(PITCH).model.codebook
    vectors = (vectors - vectors.mean(0)) / vectors.std()
    assert voice.f0_dict is not None and vectors.shape == voice.f0_dict.weight.shape
    voice.f0_dict.weight.data.copy_(vectors)
    folder.mkdir(parents=True, exist_ok=True)
    save_vocoder(voice, folder, clips.fingerprint, melody=clips.melody if source_harmonics else None)
    return shape


def train(
    clips: ReadClips, given: Path | None, work: Path, steps: int, batch_size: int, source_harmonics: int | None
) -> None:
    init = work.parent / f"begun as {work.name}"
    units = begin_with_units(clips, given, init)
    model = units.config
    if source_harmonics is not None:
        model = begin_with_pitch(clips, units, init, source_harmonics or None)
    config = VocoderTrainConfig(
        model=model, init=str(init), batch_size=batch_size, num_steps=steps, discriminator_start=steps,
        discriminator_width=128,
        mels=MELS, peak_lr=1e-3, final_lr=1e-4, warmup_steps=10, validation_clips=2, validate_every=50,
        checkpoint_every=50, keep_last=1, sample_every=0, device="cpu",
    )  # fmt: skip

    def on_event(event: dict[str, object]) -> None:
        if event["event"] in ("step", "validation"):
            sys.stderr.write(f"{work.name} {event}\n")

    train_vocoder(config, clips.part(2, None), clips.part(0, 2), clips.fingerprint, str(work), on_event)


def say(checkpoint: Path, clips: ReadClips) -> list[NDArray[np.float32]]:
    voice = load_voice(checkpoint)
    codes = [{"pitch": each} if voice.num_codes else None for each in clips.pitch]
    return voice.batch(clips.units, codes=codes)


def f0(wav: NDArray[np.float32]) -> NDArray[np.float32]:
    return extract(wav, "nccf").f0


def compare(recorded: list[NDArray[np.float32]], said: dict[str, list[NDArray[np.float32]]]) -> None:
    """Prints the mean of each figure, and of the difference on the same recordings, each with its 95% interval."""
    told = {
        name: [likeness(wav, again, f0) for wav, again in zip(recorded, wavs, strict=True)]
        for name, wavs in said.items()
    }
    last = list(said)[-1]
    sys.stdout.write(f"| | {' | '.join(said)} | {last} less BASE |\n| --- |{' --- |' * (len(said) + 1)}\n")
    for name in FIGURES:
        rows = zip(*[[getattr(each, name) for each in of_voice] for of_voice in told.values()], strict=True)
        columns = np.array([row for row in rows if None not in row], np.float64).T
        shown = []
        for values in (*columns, columns[-1] - columns[0]):
            items = pa.table({"group": [str(number) for number in range(len(values))], "value": values})
            found = figure(items, Measure(name, "value"), level=0.95, seed=0)
            shown.append(f"{found.value:.3g} ({found.low:.3g} to {found.high:.3g})")
        sys.stdout.write(f"| {name} ({columns.shape[1]}) | {' | '.join(shown)} |\n")


def tell_voices(said: dict[str, list[NDArray[np.float32]]]) -> None:
    """Prints how much of each is voiced at all, and where F0 lies: without a voice, no melody can be told."""
    sys.stdout.write("| | voiced frames | F0 of these, Hz: 5%, 50%, 95% |\n| --- | --- | --- |\n")
    for name, wavs in said.items():
        found = np.concatenate([f0(wav) for wav in wavs])
        low, middle, high = np.percentile(found[found > 0], (5, 50, 95))
        sys.stdout.write(f"| {name} | {(found > 0).mean():.1%} | {low:.0f}, {middle:.0f}, {high:.0f} |\n")


def draw(wavs: dict[str, NDArray[np.float32]], output: Path) -> None:
    """F0 of all above one another, and the mel spectrogram of each below."""
    mel = LogMel(MELS[0])
    figure_, axes = plt.subplots(2, len(wavs), figsize=(14, 4.6), sharex=True, sharey="row", layout="constrained")
    truth = f0(wavs["recorded"])
    for (above, below), (name, wav) in zip(axes.T, wavs.items(), strict=True):
        found = f0(wav)
        for hertz, colour in ((truth, COLOURS["recorded"]), (found, COLOURS[name])):
            seconds = (np.arange(len(hertz)) + 0.5) / 200
            above.plot(seconds, np.where(hertz > 0, hertz, np.nan), ".", markersize=2, color=colour)
        above.set_title(name, color=COLOURS[name])
        above.set(ylim=(80, 450))
        image = mel(torch.from_numpy(wav.copy())[None])[0].numpy()
        below.imshow(image, aspect="auto", origin="lower", extent=(0, len(wav) / SAMPLE_RATE_HZ, 0, 80), vmin=-8)
        below.set(yticks=[], xlabel="s")
    axes[0, 0].set_ylabel("F0, Hz (grey: recorded)")
    axes[1, 0].set_ylabel("log mel")
    figure_.savefig(output, dpi=80)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("train", "held_out", "work"):
        parser.add_argument(name)
    for name, default in (("--steps", 400), ("--batch-size", 4), ("--clips", 30), ("--held-out-clips", 20)):
        parser.add_argument(name, type=int, default=default)
    parser.add_argument("--init", type=Path, help="a voice of units alone to begin with; by default new weights")
    parser.add_argument("--shown", type=int, default=0, help="the held-out clip that is drawn")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    work = Path(arguments.work)
    checkpoints = {name: work / name / f"{arguments.steps:08d}" for name in VOICES}
    missing = [name for name, path in checkpoints.items() if not path.exists()]
    if missing:
        clips = read(arguments.train, arguments.clips)
        for name in missing:
            train(clips, arguments.init, work / name, arguments.steps, arguments.batch_size, VOICES[name])
    held_out = read(arguments.held_out, arguments.held_out_clips)
    said = {name: say(checkpoints[name], held_out) for name in VOICES}
    compare(held_out.wavs, said)
    tell_voices({"recorded": held_out.wavs, **said})
    stop = int(SHOWN_S * SAMPLE_RATE_HZ)
    shown = {"recorded": held_out.wavs[arguments.shown], **{name: wavs[arguments.shown] for name, wavs in said.items()}}
    draw({name: wav[:stop] for name, wav in shown.items()}, work / "base_and_expressive.png")


if __name__ == "__main__":
    main()
