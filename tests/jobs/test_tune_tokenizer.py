"""A tokenizer tuned through the command, on the segments of a run and the phones of some of them."""

from __future__ import annotations

import json

from pipeline.synthetic.config import VoicesConfig
from pipeline.synthetic.many_voices import write_voices_corpus

SPIN = """
language: {languages: [en], unknown: keep}
segments: {max_s: 16, detect_speech: none}
spin: {batch_size: 2, crop_s: 1, num_steps: 4, warmup_steps: 1, num_codes: 8, code_dim: 16, validation_share: 0.3,
       validation_clips: 4, validate_every: 2, checkpoint_every: 2, log_every: 1, device: cpu}
"""


def test_a_tokenizer_is_tuned_and_used(twist, tmp_path):
    voices = tmp_path / "voices"
    write_voices_corpus(voices, VoicesConfig(hours=0.02, test_sentences=2))
    recipe, run = tmp_path / "recipe.yaml", tmp_path / "run"
    recipe.write_text(f"run: {run}\ncorpora: [{{kind: folder, root: {voices}/train, name: voices}}]{SPIN}")
    twist("run", "--config", recipe, "--until", "segment")
    said = twist("tune-tokenizer", "--config", recipe, "--spin.phones", voices / "train").stdout
    assert "4 steps over" in said
    metrics = [json.loads(line) for line in (run / "tokenizer/metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in metrics if "phone_accuracy" in line] == [1, 2, 3, 4]
    encoder = ("--encoder.name", "hubert", "--encoder.path", run / "tokenizer/00000004", "--encoder.layer", 3)
    made = twist("run", "--config", recipe, "--until", "codebook", *encoder, "--codebook.num_units", 20)
    assert "codebook" in made.stdout
    book = json.loads((run / "codebook/codebook.json").read_text())
    assert book["encoder"]["level_dbfs"] == -24.0


def test_phones_of_other_recordings_are_refused(twist, finished_copy, recipe, tmp_path):
    voices = tmp_path / "voices"
    write_voices_corpus(voices, VoicesConfig(hours=0.005, test_sentences=2))
    done = twist(
        "tune-tokenizer", "--config", recipe, "--run", finished_copy, "--spin.phones", voices / "train", status=2
    )
    assert "none of a recording of this run" in done.stderr and "Traceback" not in done.stderr
