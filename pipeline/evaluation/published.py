"""Figures that papers and projects print for these benchmarks, to set beside one's own.

Each says which measure it is to be compared with. Where a paper does not say how it scored, neither does this.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Published:
    """A printed figure, in percent unless it is a perplexity or an error rate.

    Attributes:
        benchmark, measure: What to compare it with.
        model: Which model.
        value: As a share, like ours.
        source: Where it is printed.
        rule: How it was scored.
    """

    benchmark: str
    measure: str
    model: str
    value: float
    source: str
    rule: str


def _of(benchmark: str, measure: str, source: str, rule: str, figures: dict[str, float]) -> tuple[Published, ...]:
    return tuple(Published(benchmark, measure, model, value / 100, source, rule) for model, value in figures.items())


TWIST_TABLE_3 = "TWIST, table 3"
NOT_SAID = "not said (sum fits best)"
SLAMKIT = "Slam, table 1"
SPIRIT_LM = "SpiRit-LM, table 4"
# Text to text, text to speech, speech to speech, speech to text.
STSP = {
    "": {"SpiRit-LM Base": (65, 33, 33, 34), "SpiRit-LM Expressive": (63, 38, 54, 36), "cascade": (65, 36, 33, 33)},
    "_3shot": {"SpiRit-LM Expressive": (64, 37, 50, 34)},
    "_6shot": {"SpiRit-LM Expressive": (67, 39, 51, 35)},
    "_9shot": {"SpiRit-LM Expressive": (64, 38, 40, 37)},
}
SPIRIT_LM_5 = "SpiRit-LM, table 5"
SPIRIT_LM_6 = "SpiRit-LM, table 6"
MEAN_OF_WHAT = "mean, over what is not said"

PUBLISHED = (
    *_of("swuggy", "all, sum", TWIST_TABLE_3, NOT_SAID, {"TWIST-1.3B": 72.9, "TWIST-7B": 74.6}),
    *_of("swuggy", "in-vocab, sum", TWIST_TABLE_3, NOT_SAID, {"TWIST-1.3B": 82.4, "TWIST-7B": 84.4}),
    *_of("swuggy", "in-vocab, sum", "TWIST, table 2", NOT_SAID, {"cold 350M": 80.38, "TWIST-350M": 82.41}),
    *_of("swuggy", "all, mean", SPIRIT_LM, "mean", {"SpiRit-LM Base": 69.0, "SpiRit-LM Expressive": 65.0}),
    *_of("sblimp", "by id, sum", TWIST_TABLE_3, NOT_SAID, {"TWIST-1.3B": 60.3, "TWIST-7B": 62.1}),
    *_of("sblimp", "by id, sum", "TWIST, table 2", NOT_SAID, {"cold 350M": 57.99, "TWIST-350M": 59.31}),
    *_of("sblimp", "by id, mean", SPIRIT_LM, "mean", {"SpiRit-LM Base": 58.3, "SpiRit-LM Expressive": 54.2}),
    *_of("sblimp", "by pair, mean", SLAMKIT, "mean, with the end", {"TWIST-1.3B": 57.0, "Slam": 58.86}),
    *_of("sblimp", "mean of types, mean", "Cuervo and Marxer", "mean", {"85M": 59.0, "823M": 61.3}),
    *_of("ssc", "all, mean", SLAMKIT, "mean, with the end", {"TWIST-1.3B": 52.4, "TWIST-7B": 55.3, "Slam": 58.04}),
    *_of("tsc", "all, mean", SLAMKIT, "mean, with the end", {"TWIST-1.3B": 70.6, "TWIST-7B": 74.1, "Slam": 82.04}),
    *_of("tsc", "all, mean", "TWIST, table 4", NOT_SAID, {"TWIST-1.3B": 61.3, "TWIST-7B": 64.4}),
    *_of("ssc", "all, mean", SPIRIT_LM, "mean", {"SpiRit-LM Base": 61.0, "SpiRit-LM Expressive": 56.9}),
    *_of("tsc", "all, mean", SPIRIT_LM, "mean", {"SpiRit-LM Base": 82.9, "SpiRit-LM Expressive": 75.4}),
    *_of("tsc-cross", "T->S, mean", SPIRIT_LM_6, MEAN_OF_WHAT, {"SpiRit-LM Base": 72.7}),
    *_of("tsc-cross", "S->T, mean", SPIRIT_LM_6, MEAN_OF_WHAT, {"SpiRit-LM Base": 88.6}),
    *_of("ssc-cross", "S->T, mean", SPIRIT_LM, MEAN_OF_WHAT, {"SpiRit-LM Base": 64.6}),
    *_of("choices", "mean of subjects", SPIRIT_LM, "MMLU", {"SpiRit-LM Base": 36.9}),
    *_of("asr", "WER", SPIRIT_LM_5, "LibriSpeech test-clean, 10 shots", {"SpiRit-LM Base": 21.9, "and pairs": 6.0}),
    *_of("tts", "CER", SPIRIT_LM_5, "LibriSpeech test-clean, 10 shots", {"SpiRit-LM Base": 45.5, "and pairs": 6.7}),
    *_of("intent", "accuracy", SPIRIT_LM_5, "30 shots", {"SpiRit-LM Base": 71.9, "and pairs": 75.8}),
    *_of("salmon", "sentiment_consistency, mean", "SALMon", "mean", {"TWIST-7B": 61.5}),
    *_of("salmon", "speaker_consistency, mean", "SALMon", "mean", {"TWIST-7B": 71.0}),
    *_of("salmon", "gender_consistency, mean", "SALMon", "mean", {"TWIST-7B": 70.0}),
    *_of("salmon", "bg_domain_consistency, mean", "SALMon", "mean", {"TWIST-7B": 55.0}),
    *_of("salmon", "bg_all_consistency, mean", "SALMon", "mean", {"TWIST-7B": 60.5}),
    *_of("salmon", "rir_consistency, mean", "SALMon", "mean", {"TWIST-7B": 62.0}),
    *_of("salmon", "sentiment_alignment, mean", "SALMon", "mean", {"TWIST-7B": 51.5}),
    *_of("salmon", "bg_alignment, mean", "SALMon", "mean", {"TWIST-7B": 54.5}),
    *(
        Published("generation", "GenPPL, with prompt", model, value, SLAMKIT, "Whisper large-v3-turbo, Llama-3.2-1B")
        for model, value in {"TWIST-1.3B": 132.0, "TWIST-7B": 94.0, "Slam": 62.8}.items()
    ),
    *(
        one
        for shots, models in STSP.items()
        for model, values in models.items()
        for direction, value in zip(("t2t", "t2s", "s2s", "s2t"), values, strict=True)
        for one in _of(f"stsp_{direction}{shots}", "accuracy", "SpiRit-LM, table 3", "mean of 3 runs", {model: value})
    ),
    # Word error rates of resynthesized speech; the paper names neither the test set nor a normalizer.
    *_of("resynthesis", "WER", "TWIST, table 5", "Whisper small", {"500 units, 25 Hz": 16, "500 units, 50 Hz": 17}),
)
