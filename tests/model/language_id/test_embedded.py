"""language-tiny, the classifier that comes with the project: its size, its facts, and its published errors."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import soundfile
import torch

from model.artefacts import local_path
from model.language_id.classifier import find_language_classifier, load_language_classifier
from model.language_id.pooled_folder import read_facts
from pipeline.audio.read import AudioError, Span, read_spans

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

NAME = "language-tiny"
WINDOW = 160_000


def test_it_is_small_and_says_what_it_was_trained_on() -> None:
    folder, kind = find_language_classifier(NAME)
    assert (folder, kind) == (local_path(NAME), "pooled")
    assert sum(path.stat().st_size for path in folder.iterdir()) <= 6 * 10**6
    facts = read_facts(folder)
    assert facts.wanted == "en" and len(facts.labels) == 29
    assert 0 < facts.calibration.other_below <= 0.5 < facts.calibration.wanted_from < 1
    assert "of librispeech" in facts.trained_on and "of espeak" in facts.trained_on


def test_padding_and_company_do_not_matter() -> None:
    classifier = load_language_classifier(NAME, "cpu")
    generator = torch.Generator().manual_seed(0)
    wavs = [0.1 * torch.randn(length, generator=generator) for length in (48_000, 16_000, 48_000)]
    together = classifier(wavs)
    assert all(torch.equal(classifier([wav])[0], row) for wav, row in zip(wavs, together, strict=True))


def english_of(paths: list[Path]) -> NDArray[np.float32]:
    """The probability of English of every 10 s of these files."""
    wavs = []
    for path in paths:
        (wav,) = read_spans([Span(str(path), None, 0.0, soundfile.info(path).duration)])
        assert not isinstance(wav, AudioError)
        wavs += [torch.from_numpy(wav[start : start + WINDOW]) for start in range(0, len(wav) - WINDOW + 1, WINDOW)]
    found: NDArray[np.float32] = load_language_classifier(NAME, "cpu")(wavs)[:, 0].numpy()
    return found


def test_its_published_errors_on_speakers_that_it_does_not_know(speech: Path) -> None:
    """As its card says: English that sounds like LibriSpeech stays, Italian is found mostly, and German stays."""
    other_below = read_facts(local_path(NAME)).calibration.other_below
    english = english_of([*sorted((speech / "LibriSpeech").glob("**/*.flac")), speech / "librivox" / "en.mp3"])
    assert len(english) >= 8 and (english < other_below).mean() <= 0.1
    italian = english_of(sorted((speech / "languages" / "it").glob("watson*.wav")))
    assert len(italian) == 6 and (italian < other_below).mean() >= 0.5
    german = english_of([speech / "librivox" / "de.mp3"])
    assert (german < other_below).mean() <= 0.5, "it is better than its card says: measure it anew"
