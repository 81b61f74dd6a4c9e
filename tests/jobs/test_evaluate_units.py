"""`twist evaluate units`: from audio with known phones to figures of the units, with no speech LM at hand."""

from __future__ import annotations

import json
from collections import defaultdict

import numpy as np
import pytest
import soundfile

import twist as notebook
from pipeline.evaluation.units.abx import Token, abx, abx_error
from pipeline.evaluation.units.bitrate import bitrate
from pipeline.evaluation.units.purity import agreement
from pipeline.synthetic.espeak import speak

VOICES = {"ann": "en-us+f2", "bob": "en-us+m3"}
SENTENCES = ("A cat sat on a mat.", "The dog ate the cake today.", "Sit on the mat and eat a cake.")


@pytest.fixture(scope="module")
def spoken(tmp_path_factory):
    """A folder with audio/, phones.ctm, phones.item and speakers.csv; and the phones by file."""
    folder = tmp_path_factory.mktemp("spoken")
    ctm, items, phones = [], ["#file onset offset #phone prev-phone next-phone speaker"], {}
    for speaker, voice in VOICES.items():
        (folder / "audio" / speaker).mkdir(parents=True)
        for number, sentence in enumerate(SENTENCES):
            name = f"{speaker}/{speaker}-{number}"
            speech = speak(sentence, voice)
            soundfile.write(folder / "audio" / f"{name}.flac", speech.wav, speech.sample_rate_hz)
            heard = [(phone.name or "SIL", phone.start_s, phone.end_s) for phone in speech.phonemes]
            phones[name] = heard
            ctm += [f"{name} 1 {start_s:.3f} {end_s - start_s:.3f} {phone}" for phone, start_s, end_s in heard]
            items += [
                f"{speaker}-{number} {start_s:.3f} {end_s:.3f} {phone} {before} {after} {speaker}"
                for (before, _, _), (phone, start_s, end_s), (after, _, _) in zip(
                    heard, heard[1:], heard[2:], strict=False
                )
                if phone != "SIL"
            ]
    (folder / "phones.ctm").write_text("\n".join([*ctm, "nobody/9 1 0.0 0.5 a"]))
    (folder / "phones.item").write_text("\n".join(items))
    (folder / "speakers.csv").write_text("speaker,gender\nann,f\nbob,m\n")
    (folder / "audio" / "bob" / "bad.flac").write_bytes(b"no audio")
    return folder, phones


def results_of(twist, folder, output, *options):
    done = twist(
        "evaluate", "units", "--output", output, "--evaluation.units.audio", folder / "audio", *options, "--json"
    )
    return {told["benchmark"]: told for told in map(json.loads, done.stdout.splitlines())}


def test_units_from_audio_to_figures(twist, spoken, tmp_path):
    folder, phones = spoken
    options = ("--evaluation.units.alignments", folder / "phones.ctm")
    options += ("--evaluation.units.speakers", folder / "speakers.csv", "--evaluation.units.features", "true")
    told = results_of(twist, folder, tmp_path, *options)
    assert list(told) == ["units", "abx", "abx-features"]
    (filed,) = tmp_path.glob("units-*")
    assert sorted(path.name for path in filed.glob("*.json")) == ["abx-features.json", "abx.json", "units.json"]
    assert told["units"]["fingerprints"]["model"] is None
    assert filed.name == f"units-{told['units']['fingerprints']['codebook'][:8]}"
    assert told["units"]["left_out"] == {"no_audio": 1, "unreadable": 1}

    # Independent of the benchmark: the tokenizer, and each frame's phone looked up one by one.
    tokenizer = notebook.load_tokenizer("hubert-tiny-25hz")
    frames, tokens = {}, []
    labels = []
    for name, heard in phones.items():
        units = tokenizer(folder / "audio" / f"{name}.flac")
        frames[name] = np.repeat(units.values, units.durations)
        middles_s = (np.arange(len(frames[name])) + 0.5) * 0.04
        labels += [
            next((phone for phone, start_s, end_s in heard if start_s <= middle_s < end_s), None)
            for middle_s in middles_s
        ]
        for phone, start_s, end_s in heard:
            of_token = frames[name][(middles_s >= start_s - 1e-9) & (middles_s <= end_s + 1e-9)]
            if phone != "SIL" and len(of_token):
                tokens.append(Token(phone, "", "", name.partition("/")[0], of_token))
    seconds = sum(soundfile.info(folder / "audio" / f"{name}.flac").duration for name in phones)
    together = np.concatenate(list(frames.values()))
    has_phone = np.array([label is not None for label in labels])
    agrees = agreement(together[has_phone], np.array(labels)[has_phone].astype(str))
    figures = {name: figure["value"] for name, figure in told["units"]["figures"].items()}
    assert figures["PNMI"] == pytest.approx(agrees.normalized_information)
    assert figures["phone purity"] == pytest.approx(agrees.purity)
    assert figures["bitrate, a symbol each frame"] == pytest.approx(bitrate(list(frames.values()), seconds), rel=1e-3)
    assert figures["gender purity"] == pytest.approx(figures["speaker purity"]), "one speaker of each"
    for speakers in ("within", "across"):
        expected = abx_error(abx(tokens, speakers=speakers, contexts="any"))
        assert told["abx"]["figures"][f"phoneme-any, {speakers} speakers"]["value"] == pytest.approx(expected)
    assert told["abx-features"]["figures"].keys() == told["abx"]["figures"].keys()

    assert results_of(twist, folder, tmp_path, *options) == told
    assert "phoneme-any, across speakers" in twist("evaluate", "table", tmp_path, "--all-measures").stdout


def test_item_files_name_the_tokens(twist, spoken, tmp_path):
    folder, _ = spoken
    options = ("--evaluation.units.items", folder / "phones.item", "--evaluation.units.items_span", "phoneme")
    told = results_of(twist, folder, tmp_path, *options)
    assert list(told) == ["units", "abx"]
    assert "PNMI" not in told["units"]["figures"], "item files say no phone of every frame"
    of_conditions = defaultdict(list)
    for name in told["abx"]["figures"]:
        of_conditions[name.partition(",")[0]].append(name)
    assert list(of_conditions) == ["phoneme-within", "phoneme-any"]
    fewer = results_of(twist, folder, tmp_path, *options, "--evaluation.units.frame_rule", "libri-light")
    notes = [int(told["abx"]["notes"][0].split()[0]) for told in (told, fewer)]
    assert notes[0] < notes[1], "without their last frames more tokens have none"


def test_what_is_missing_is_told(twist, spoken, tmp_path):
    folder, _ = spoken
    command = ("evaluate", "units", "--output", tmp_path)
    assert "give --evaluation.units.audio" in twist(*command, status=2).stderr
    assert "no run is named" in twist("evaluate", "units", status=2).stderr
    command += ("--evaluation.units.audio", folder / "audio")
    (tmp_path / "other.ctm").write_text("ann/ann-0 1 0 99 a\n")
    stderr = twist(*command, "--evaluation.units.alignments", tmp_path / "other.ctm", status=2).stderr
    assert "none of 1 alignments fits one of 7 audio files; ann/ann-0: the alignment ends at 99.00 s" in stderr
    (tmp_path / "flat").mkdir()
    (tmp_path / "flat" / "0.flac").write_bytes((folder / "audio" / "ann" / "ann-0.flac").read_bytes())
    (tmp_path / "0.lab").write_text("0.1 0.2 a\n0.2 0.3 b\n")
    flat = ("--evaluation.units.audio", tmp_path / "flat", "--evaluation.units.alignments", tmp_path / "0.lab")
    done = twist("evaluate", "units", "--output", tmp_path, *flat, status=2)
    assert "ABX needs speakers" in done.stderr
    assert "PNMI" in done.stdout
    assert "name the phones of less than 90% of their audio" in done.stdout
    twist("evaluate", "units", "--output", tmp_path, *flat, "--evaluation.units.conditions", "[]")
    (tmp_path / "0.lab").write_text("0.101 0.102 a\n")
    done = twist("evaluate", "units", "--output", tmp_path, *flat)
    assert "left out: 1 no_phones, e.g. 0 (its alignment names the phone of none of its" in done.stdout
    assert "unit perplexity" in done.stdout
    assert "PNMI" not in done.stdout
    (tmp_path / "other.item").write_text("#file\nann-0 0 0.5 a b c s\n")
    stderr = twist(*command, "--evaluation.units.items", tmp_path / "other.item", status=2).stderr
    assert "in none of the conditions" in stderr
    (tmp_path / "other.item").write_text("#file\nx 0 1 a b c s\n")
    stderr = twist(*command, "--evaluation.units.items", tmp_path / "other.item", status=2).stderr
    assert "none of the 1 files" in stderr
    stderr = twist(*command, "--evaluation.units.features", "true", status=2).stderr
    assert "features are for ABX" in stderr


def test_a_run_is_measured_by_its_own_codebook(twist, spoken, finished_copy):
    folder, _ = spoken
    twist("evaluate", "units", "--run", finished_copy, "--evaluation.units.audio", folder / "audio")
    told = json.loads((finished_copy / "codebook" / "codebook.json").read_text())
    filed = json.loads((finished_copy / f"evaluation/units-{told['fingerprint'][:8]}/units.json").read_text())
    assert filed["fingerprints"]["codebook"] == told["fingerprint"]
    assert filed["figures"]["unit perplexity"]["value"] <= told["num_units"]
