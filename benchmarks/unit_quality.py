"""How much units reveal of what is said: encoders compared with MFCC, at equal codebook sizes, on unseen voices.

    python benchmarks/unit_quality.py [--hubert PATH:LAYER ...] [--units K ...] [--speech FOLDER] [--quick] [--json]

Speech and phonemes are espeak-ng's (`twist make-speech voices`). Each codebook is fitted on the voices of train, and
measured on the voices and sentences of test. pipeline/evaluation (purity.py, abx.py, same_words.py) defines the
measures:

    phone_purity, cluster_purity, pnmi     over frames; a pause counts as a phone
    abx_within, abx_across                 error of triphones by one speaker, by two; lower is better
    abx_features_across                    the same of features, before they become units
    same_sentence, same_word               how often the same text by two speakers is closer than another text
    sentence_ratio, word_ratio             distance of the same text over that of different texts; lower is better
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow.parquet as pq
import soundfile
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.machine import machine
from model.encoder.config import EncoderConfig
from model.encoder.encoder import load_encoder
from pipeline.evaluation.units.abx import abx, abx_error
from pipeline.evaluation.units.alignments import intervals_of, labels_at
from pipeline.evaluation.units.phone_tokens import PhoneToken, cut, tokens_of
from pipeline.evaluation.units.purity import agreement
from pipeline.evaluation.units.same_words import same_words
from pipeline.synthetic.config import VoicesConfig
from pipeline.synthetic.many_voices import PHONEMES, write_voices_corpus
from pipeline.units import codebook, kmeans
from pipeline.units.encode import run_lengths

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from model.encoder.encoder import Encoder

# Shorter words have too few units to be told apart.
MIN_WORD_S = 0.3
HIGHER_IS_BETTER = ("phone_purity", "cluster_purity", "pnmi", "same_sentence", "same_word")
LOWER_IS_BETTER = ("abx_within", "abx_across", "abx_features_across", "sentence_ratio", "word_ratio")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hubert", nargs="*", default=["hubert-tiny-25hz:3"], help="encoders: a path and a layer each")
    parser.add_argument("--units", nargs="*", type=int, default=[100, 200], help="codebook sizes")
    parser.add_argument(
        "--speech", type=Path, help="a folder that `twist make-speech voices` made; made anew unless given"
    )
    parser.add_argument("--fit-minutes", type=float, default=40.0, help="speech that codebooks are fitted on")
    parser.add_argument("--quick", action="store_true", help="less speech: a minute at most")
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.quick:
        arguments.fit_minutes, arguments.units = 8.0, arguments.units[:1]
    with tempfile.TemporaryDirectory() as scratch:
        speech = arguments.speech
        if speech is None:
            speech = Path(scratch) / "voices"
            hours = 1.2 * arguments.fit_minutes / 60
            write_voices_corpus(speech, VoicesConfig(hours=hours, test_sentences=12 if arguments.quick else 40))
        result = measure(arguments.hubert, arguments.units, speech, arguments.fit_minutes)
    print(json.dumps(result) if arguments.json else as_table(result))


def measure(huberts: list[str], sizes: list[int], speech: Path, fit_minutes: float) -> dict[str, Any]:
    """Measures every encoder at every codebook size; returns figures and their ratios to MFCC's."""
    configs = {"mfcc": EncoderConfig()}
    for name in huberts:
        path, _, layer = name.rpartition(":")
        configs[name] = EncoderConfig(name="hubert", path=path, layer=int(layer))
    figures = {}
    for name, config in configs.items():
        encoder = load_encoder(config)
        fitted_on, tested = (
            fit_features(encoder, speech / "train", fit_minutes),
            test_features(encoder, speech / "test"),
        )
        for size in sizes:
            centroids, _ = kmeans.fit(fitted_on, size, seed=0, num_steps=10)
            figures[f"{name} {size}"] = quality(encoder, codebook.Assigner(centroids, encoder.device), tested)
    ratios = {
        f"{measure}_vs_mfcc {name} {size}": figures[f"{name} {size}"][measure] / figures[f"mfcc {size}"][measure]
        for name, size in itertools.product(huberts, sizes)
        for measure in (*HIGHER_IS_BETTER, *LOWER_IS_BETTER)
    }
    return {"ratios": ratios, "figures": figures, "machine": machine()}


def fit_features(encoder: Encoder, train: Path, minutes: float) -> NDArray[np.float32]:
    paths = sorted(train.rglob("*.flac"))
    np.random.default_rng(0).shuffle(paths)
    features, heard_s = [], 0.0
    for path in paths:
        wav, rate_hz = soundfile.read(path, dtype="float32")
        features.append(encoder.encode([torch.from_numpy(wav)])[0].numpy())
        heard_s += len(wav) / rate_hz
        if heard_s >= 60 * minutes:
            break
    return np.concatenate(features)


def test_features(encoder: Encoder, test: Path) -> list[tuple[dict[str, Any], torch.Tensor]]:
    """Rows of the table of phonemes, each with the features of its recording."""
    rows = pq.read_table(test / PHONEMES).to_pylist()
    wavs = [soundfile.read(test / row["path"], dtype="float32")[0] for row in rows]
    return [(row, encoder.encode([torch.from_numpy(wav)])[0]) for row, wav in zip(rows, wavs, strict=True)]


def quality(
    encoder: Encoder, assign: codebook.Assigner, tested: list[tuple[dict[str, Any], torch.Tensor]]
) -> dict[str, float]:
    all_units, all_phones = [], []
    triphones: list[PhoneToken] = []
    units_of: dict[str, NDArray[Any]] = {}
    sentences: dict[str, dict[str, NDArray[np.uint16]]] = defaultdict(dict)
    words: dict[str, dict[str, NDArray[np.uint16]]] = defaultdict(dict)
    for row, features in tested:
        units = assign(features).numpy().astype(np.uint16)
        middles = np.arange(len(units)) * encoder.hop_samples + encoder.min_samples / 2
        times_s = middles / encoder.sample_rate_hz
        units_of[row["path"]] = units
        phones = intervals_of([(phone["name"], phone["start_s"], phone["end_s"]) for phone in row["phonemes"]])
        for unit, phone in zip(units, labels_at(times_s, phones), strict=True):
            if phone is not None:
                all_units.append(unit)
                all_phones.append(phone)
        triphones += tokens_of(row["path"], phones, row["speaker"], "triphone")
        sentences[str(row["sentence"])][row["speaker"]] = run_lengths(units)[0]
        for word in row["words"]:
            of_word = units[(times_s >= word["start_s"]) & (times_s < word["end_s"])]
            if word["end_s"] - word["start_s"] >= MIN_WORD_S and len(of_word):
                words[f"{row['sentence']} {word['name']}"][row["speaker"]] = run_lengths(of_word)[0]
    agrees = agreement(np.array(all_units), np.array(all_phones))
    by_sentence, by_word = same_words(sentences), same_words(words)
    rate_hz = encoder.sample_rate_hz / encoder.hop_samples
    tokens = cut(triphones, units_of, rate_hz, "inclusive")
    of_features = cut(triphones, {row["path"]: of_file.numpy() for row, of_file in tested}, rate_hz, "inclusive")
    return {
        "phone_purity": agrees.purity,
        "cluster_purity": agrees.cluster_purity,
        "pnmi": agrees.normalized_information,
        "abx_within": abx_error(abx(tokens, speakers="within", contexts="within")),
        "abx_across": abx_error(abx(tokens, speakers="across", contexts="within")),
        "abx_features_across": abx_error(abx(of_features, speakers="across", contexts="within")),
        "same_sentence": by_sentence.share_closer,
        "same_word": by_word.share_closer,
        "sentence_ratio": by_sentence.distance_ratio,
        "word_ratio": by_word.distance_ratio,
    }


def as_table(result: dict[str, Any]) -> str:
    measures = (*HIGHER_IS_BETTER, *LOWER_IS_BETTER)
    width = max(map(len, result["figures"]))
    lines = [" " * width + "".join(f"{measure:>21}" for measure in measures)]
    for name, figures in result["figures"].items():
        lines.append(name.ljust(width) + "".join(f"{figures[measure]:21.3f}" for measure in measures))
    return "\n".join(lines)


if __name__ == "__main__":
    main()
