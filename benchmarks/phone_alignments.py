"""Says which word and phone is said when in recorded English: labels to tune a tokenizer with, and to judge units by.

    python benchmarks/phone_alignments.py data/LibriSpeech/train-clean-100 data/phones/train-clean-100

Recordings and texts lie as LibriSpeech's do; a TextGrid is written for each that could be followed, in a tree of the
same shape, and one that is there already is kept. pocketsphinx aligns (BSD; its model and dictionary come with its
package), and espeak-ng pronounces words that its dictionary lacks. With --texts, a JSON of texts by recording, those
without one can be aligned as well, to what an ASR heard: where it misheard, labels are wrong. For LibriSpeech itself
there are better ones, TextGrids of the Montreal Forced Aligner (Lugosch et al. 2019).
"""

from __future__ import annotations

import argparse
import collections
import json
import re
import sys
from pathlib import Path

import numpy as np
import soundfile
from pocketsphinx import Decoder
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from pipeline.files import storage
from pipeline.records import SAMPLE_RATE_HZ
from pipeline.synthetic.espeak import spell_in_ipa
from pipeline.words.pocketsphinx import FRAME_S, PADDING_S, VARIANT, padded

# A word of its own for each phone: phones that a word's alignment was not found for are aligned as words.
ALONE = "zzq"
ARPABET = frozenset(
    ["AA", "AE", "AH", "AO", "AW", "AY", "B", "CH", "D", "DH", "EH", "ER", "EY", "F", "G", "HH", "IH", "IY", "JH", "K",
     "L", "M", "N", "NG", "OW", "OY", "P", "R", "S", "SH", "T", "TH", "UH", "UW", "V", "W", "Y", "Z", "ZH"]
)  # fmt: skip
# What espeak-ng's American English says.
FROM_IPA = {
    "tʃ": "CH", "dʒ": "JH", "eɪ": "EY", "aɪ": "AY", "aʊ": "AW", "ɔɪ": "OY", "oʊ": "OW", "aɪɚ": "AY ER", "aɪə": "AY AH",
    "iə": "IY AH", "ɪɹ": "IH R", "ɛɹ": "EH R", "ɑɹ": "AA R", "ɔɹ": "AO R", "oɹ": "AO R", "ʊɹ": "UH R", "əl": "AH L",
    "n̩": "AH N", "ɜ": "ER", "ɚ": "ER", "ɑ": "AA", "a": "AA", "æ": "AE", "ʌ": "AH", "ə": "AH", "ɐ": "AH", "ɔ": "AO",
    "ɒ": "AA", "ɛ": "EH", "e": "EY", "ɪ": "IH", "ᵻ": "IH", "i": "IY", "ʊ": "UH", "u": "UW", "o": "OW", "b": "B",
    "d": "D", "ð": "DH", "f": "F", "ɡ": "G", "g": "G", "h": "HH", "k": "K", "l": "L", "m": "M", "n": "N", "ŋ": "NG",
    "p": "P", "ɹ": "R", "r": "R", "s": "S", "ʃ": "SH", "t": "T", "ɾ": "T", "ʔ": "T", "θ": "TH", "v": "V", "w": "W",
    "j": "Y", "z": "Z", "ʒ": "ZH", "x": "K",
}  # fmt: skip
LONGEST_FIRST = re.compile("|".join(sorted(FROM_IPA, key=len, reverse=True)))

# Label, start and end; in frames of pocketsphinx, or in seconds of the audio.
Frames = list[tuple[str, int, int]]
Labelled = list[tuple[str, float, float]]


class NotFollowedError(Exception):
    """The text could not be found in the audio; says why."""


class PhoneAligner:
    """Aligns a text to its audio, phone by phone; take a new one for each, as pocketsphinx adapts to what it hears."""

    def __init__(self) -> None:
        self._decoder = Decoder(lm=None, loglevel="FATAL")
        for phone in ARPABET:
            self._decoder.add_word(ALONE + phone.lower(), phone, True)

    def __call__(self, wav: np.ndarray, text: str) -> dict[str, Labelled]:
        """`words` and `phones` with their times in seconds.

        Args:
            wav: [S] at 16 kHz.
            text: What is said in it.

        Raises:
            NotFollowedError: the text is not what is said, as far as pocketsphinx can tell.
        """
        written = re.sub(r"[^a-z' ]", " ", text.lower().replace("’", "'")).split()
        for word in written:
            self._know(word)
        samples = padded(wav)
        words = self._follow(samples, written)  # with the pronunciation of each, as in "the(2)"
        try:
            self._decoder.set_alignment()
            self._hear(samples)
            phones = [(phone.name, phone.start, phone.start + phone.duration)
                      for word in self._decoder.get_alignment() for phone in word]  # fmt: skip
        except RuntimeError:
            said = [phone for word, _, _ in words for phone in self._decoder.lookup_word(word).split()]
            alone = self._follow(samples, [ALONE + phone.lower() for phone in said])
            phones = [(phone, start, end) for phone, (_, start, end) in zip(said, alone, strict=True)]
        return {
            "words": _within(
                [(VARIANT.sub("", word), start, end) for word, start, end in words], len(wav) / SAMPLE_RATE_HZ
            ),
            "phones": _within([phone for phone in phones if phone[0] in ARPABET], len(wav) / SAMPLE_RATE_HZ),
        }

    def _know(self, word: str) -> None:
        if self._decoder.lookup_word(word):
            return
        ipa = re.sub("[ˈˌː]", "", spell_in_ipa(word, "en-us"))
        phones = [phone for found in LONGEST_FIRST.findall(ipa) for phone in FROM_IPA[found].split()]
        if not phones or LONGEST_FIRST.sub("", ipa).strip():
            raise NotFollowedError("unpronounceable")
        self._decoder.add_word(word, " ".join(phones), True)

    def _follow(self, samples: bytes, words: list[str]) -> Frames:
        try:
            self._decoder.set_align_text(" ".join(words))
            self._hear(samples)
        except RuntimeError as error:
            raise NotFollowedError("not followed") from error
        found = [
            (segment.word, segment.start_frame, segment.end_frame + 1)
            for segment in self._decoder.seg() or ()
            if segment.word[0] not in "<["
        ]
        if [VARIANT.sub("", word) for word, _, _ in found] != words:
            raise NotFollowedError("not followed to its end")
        return found

    def _hear(self, samples: bytes) -> None:
        self._decoder.start_utt()
        self._decoder.process_raw(samples, full_utt=True)
        self._decoder.end_utt()


def _within(frames: Frames, duration_s: float) -> Labelled:
    """Frames of padded audio as seconds of the audio."""
    times = [
        (label, max(0.0, start * FRAME_S - PADDING_S), min(end * FRAME_S - PADDING_S, duration_s))
        for label, start, end in frames
    ]
    return [(label, start_s, end_s) for label, start_s, end_s in times if start_s < end_s]


def textgrid(tiers: dict[str, Labelled], duration_s: float) -> str:
    """A short TextGrid."""
    lines = ['"ooTextFile"', '"TextGrid"', "0", f"{duration_s:.3f}", "<exists>", str(len(tiers))]
    for name, intervals in tiers.items():
        lines += ['"IntervalTier"', f'"{name}"', "0", f"{duration_s:.3f}", str(len(intervals))]
        for label, start_s, end_s in intervals:
            lines += [f"{start_s:.3f}", f"{end_s:.3f}", f'"{label}"']
    return "\n".join(lines) + "\n"


def texts_of(root: Path) -> dict[str, str]:
    """What *.trans.txt say, by recording."""
    lines = (line for path in root.rglob("*.trans.txt") for line in path.read_text().splitlines())
    return {name: text for name, _, text in (line.partition(" ") for line in lines)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("audio", type=Path, help="a folder of LibriSpeech's layout")
    parser.add_argument("output", type=Path, help="the folder to write to")
    parser.add_argument(
        "--texts", type=Path, help="a JSON object of texts by recording, for those without a transcript"
    )
    given = parser.parse_args()
    texts = (json.loads(given.texts.read_text()) if given.texts else {}) | texts_of(given.audio)
    outcomes = collections.Counter[str]()
    for path in tqdm(sorted(given.audio.rglob("*.flac"))):
        target = (given.output / path.relative_to(given.audio)).with_suffix(".TextGrid")
        if target.exists():
            outcomes["there already"] += 1
            continue
        if path.stem not in texts:
            outcomes["without a text"] += 1
            continue
        wav = soundfile.read(path, dtype="float32")[0]
        try:
            tiers = PhoneAligner()(wav, texts[path.stem])
        except NotFollowedError as reason:
            outcomes[str(reason)] += 1
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        storage.write_bytes(str(target), textgrid(tiers, len(wav) / SAMPLE_RATE_HZ).encode())
        outcomes["aligned"] += 1
    print(", ".join(f"{count:,} {outcome}" for outcome, count in outcomes.most_common()))


if __name__ == "__main__":
    main()
