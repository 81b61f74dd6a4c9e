"""Tiny trees of the corpora in their real layouts, with synthesized speech: for tests, and to look at.

    python tests/corpora_trees.py FOLDER        writes all of them below FOLDER

What a tree holds of the odd (a stray file, one cut off, a clip in another language, the same speech as another tree) is
said where it is written.
"""

from __future__ import annotations

import csv
import functools
import gzip
import io
import json
import random
import sys
import tarfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import soundfile
import soxr

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from pipeline.synthetic.espeak import synthesize
from pipeline.synthetic.sentences import paragraphs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from numpy.typing import NDArray

VOICES = {
    "en": ("en-us", "en-gb-scotland", "en-us+f2", "en-us+m3", "en-gb-scotland+m2"),
    "de": ("de", "de+f2"),
    "fr": ("fr",),
}
FORMATS: dict[str, dict[str, str]] = {
    "flac": {"format": "FLAC"},
    "wav": {"format": "WAV"},
    "ogg": {"format": "OGG", "subtype": "VORBIS"},
    "opus": {"format": "OGG", "subtype": "OPUS"},
    "mp3": {"format": "MP3", "subtype": "MPEG_LAYER_III"},
}


@functools.cache
def say(number: int, language: str = "en") -> tuple[NDArray[np.int16], str]:
    """A sentence or two, always the same for one number: wav [S] at 16 kHz, and the text."""
    sentences = next(paragraphs(language, random.Random(1000 + number)))
    text = " ".join(sentences[: 1 + number % 2])
    voices = VOICES[language]
    wav, rate_hz = synthesize(text, voices[number % len(voices)], words_per_minute=200)
    # Clips of synthesized speech begin and end at once; recorded ones do not.
    silence = np.zeros(1600, np.int16)
    return np.concatenate([silence, soxr.resample(wav, rate_hz, 16_000).astype(np.int16), silence]), text


def duration_s(number: int, language: str = "en") -> float:
    return len(say(number, language)[0]) / 16_000


def encode(wav: NDArray[np.int16], suffix: str, rate_hz: int = 16_000) -> bytes:
    """A wav [S] at 16 kHz as the content of a file."""
    buffer = io.BytesIO()
    samples = wav if rate_hz == 16_000 else soxr.resample(wav, 16_000, rate_hz)
    soundfile.write(buffer, samples, rate_hz, **FORMATS[suffix])
    return buffer.getvalue()


def put(path: Path, content: bytes | str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)


def table(rows: Iterable[Iterable[object]], delimiter: str = "\t") -> str:
    return "".join(delimiter.join(map(str, row)) + "\n" for row in rows)


def write_tar(path: Path, members: Iterable[tuple[str, bytes]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))


# The corpora of the paper


def write_librispeech(root: Path) -> None:
    """Two speakers to train on, one each for dev and test; a chapter that Libri-Light holds too."""
    number = 0
    for part, speaker, chapter, count in (
        ("train-clean-100", 100, 121669, 3),
        ("train-clean-100", 101, 121670, 2),
        ("dev-clean", 102, 121671, 2),
        ("test-other", 103, 121672, 2),
    ):
        folder = root / "LibriSpeech" / part / str(speaker) / str(chapter)
        lines = []
        for utterance in range(count):
            wav, text = say(number)
            number += 1
            id = f"{speaker}-{chapter}-{utterance:04d}"
            put(folder / f"{id}.flac", encode(wav, "flac"))
            lines.append(f"{id} {text.upper()}\n")
        put(folder / f"{speaker}-{chapter}.trans.txt", "".join(lines))
    put(root / "LibriSpeech" / "SPEAKERS.TXT", ";ID |SEX|SUBSET|MINUTES|NAME\n100 | F | train-clean-100 | 0.3 | A\n")
    put(
        root / "LibriSpeech" / "CHAPTERS.TXT",
        ";ID    |READER|MINUTES| SUBSET           | PROJ.|BOOK ID| CH. TITLE | PROJECT TITLE\n"
        "121669 | 100  | 0.30  | train-clean-100  | 812  | 4357  | 02 - The Mermaids | Sea Fairies\n"
        "121670 | 101  | 0.20  | train-clean-100  | 813  | 4358  | Part 1, Chapter 3 | Another\n"
        "121671 | 102  | 0.20  | dev-clean        | 814  | 4359  | Chapter 01 | A Third\n",
    )


def write_libri_light(root: Path) -> None:
    """Chapters with voice activity: one that LibriSpeech has utterances of, one by a speaker of its dev set."""
    chapters = (
        # part, speaker, book, stem, project, sentences
        ("small", 100, "sea_fairies_0812_librivox_64kb_mp3", "01_baum_sea_fairies_64kb", 812, range(20, 25)),
        ("small", 100, "sea_fairies_0812_librivox_64kb_mp3", "02_baum_sea_fairies_64kb", 812, range(3)),
        ("small", 201, "a_book_librivox_64kb_mp3", "abook_07_author_64kb", 900, range(25, 30)),
        ("medium", 202, "other_book_librivox_64kb_mp3", "other_01_author_64kb", 901, range(30, 34)),
        ("medium", 102, "third_book_librivox_64kb_mp3", "third_05_author_64kb", 902, range(34, 36)),
        ("duplicate", 201, "a_book_version_2_librivox_64kb_mp3", "abook_07_author_64kb", 903, range(25, 27)),
    )
    for part, speaker, book, stem, project, sentences in chapters:
        pieces, activity, at = [], [], 0.0
        for number in sentences:
            wav = say(number)[0]
            activity.append([round(at + 0.1, 2), round(at + len(wav) / 16_000 - 0.1, 2)])
            pieces += [wav, np.zeros(8000, np.int16)]
            at += len(wav) / 16_000 + 0.5
        path = root / part / str(speaker) / book / f"{stem}.flac"
        whole = np.concatenate(pieces)
        put(path, encode(whole, "flac"))
        facts: dict[str, Any] = {
            "speaker": str(speaker),
            "book_meta": {"id": str(project), "title": "Sea Fairies", "genre": None, "meta_genre": "Literature"},
            "snr": float("nan"),
            "voice_activity": activity,
            "file_length_sec": len(whole) / 16_000,
        }
        put(path.with_suffix(".json"), json.dumps(facts))
    # As after a broken download: a chapter without its JSON, and an empty one.
    put(root / "medium/202/other_book_librivox_64kb_mp3/other_02_author_64kb.flac", encode(say(36)[0], "flac"))
    put(root / "medium/202/other_book_librivox_64kb_mp3/other_03_author_64kb.flac", b"")


SPOTIFY_COLUMNS = [
    "show_uri",
    "show_name",
    "show_description",
    "publisher",
    "language",
    "rss_link",
    "episode_uri",
    "episode_name",
    "episode_description",
    "duration",
    "show_filename_prefix",
    "episode_filename_prefix",
]


def write_spotify(root: Path) -> None:
    """Three shows, one tagged as German; an episode that no row names, and a row without its episode."""
    rows = []
    episodes = (
        ("show_0aBcD", "episode1", "['en']", "en", range(40, 43), 16_000, "The weekly talk show about gardens"),
        ("show_0aBcD", "episode2", "['en']", "en", range(43, 46), 16_000, "The weekly talk show about gardens"),
        ("show_1eFgH", "episode3", "['en-US']", "en", range(46, 49), 44_100, "Stories that were never told before"),
        ("show_2iJkL", "episode4", "['de']", "de", range(3), 44_100, "Die Geschichten der alten Stadt"),
    )
    for show, episode, tag, language, numbers, rate_hz, title in episodes:
        whole = np.concatenate([say(number, language)[0] for number in numbers])
        path = root / "podcasts-audio" / show[5].upper() / show[6].upper() / show / f"{episode}.ogg"
        put(path, encode(whole, "ogg", rate_hz))
        minutes = len(whole) / 16_000 / 60
        row = dict.fromkeys(SPOTIFY_COLUMNS, "x")
        row |= {
            "show_name": title,
            "show_description": f'<p>{title}, "quoted" and with https://example.org/links</p>',
            "episode_name": episode,
            "episode_description": "",
            "language": tag,
            "duration": f"{minutes:.8f}",
            "show_filename_prefix": show,
            "episode_filename_prefix": episode,
        }
        rows.append(row)
    put(root / "podcasts-audio/0/A/show_0aBcD/unlisted.ogg", encode(say(40)[0], "ogg"))
    rows.append({**rows[0], "episode_filename_prefix": "gone"})
    put(root / "metadata.tsv", table([SPOTIFY_COLUMNS, *([row[c] for c in SPOTIFY_COLUMNS] for row in rows)]))


def _peoples_clip(number: int, language: str = "en") -> tuple[str, bytes, str, int]:
    wav, text = say(number, language)
    name = f"Talks_SLASH_Evening_DOT_mp3_{number // 3}_{number:05d}.flac"
    return name, encode(wav, "flac"), text.lower(), round(len(wav) / 16)


def write_peoples_speech(root: Path) -> None:
    """Tars with JSON lines: two subsets of train, a German clip in one of them, a tar that is cut off, and test."""
    parts = (
        ("train", "clean", {"en": range(60, 66)}),
        ("train", "dirty_sa", {"en": range(66, 70), "de": range(4, 5)}),
        ("test", "test", {"en": range(70, 72)}),
    )
    for split, subset, numbers in parts:
        clips = [_peoples_clip(n, language) for language, some in numbers.items() for n in some]
        for tar, half in enumerate((clips[::2], clips[1::2])):
            path = root / split / subset / f"{subset}_{tar:06d}.tar"
            write_tar(path, [(name, content) for name, content, _, _ in half])
        data = {
            "name": [name for name, *_ in clips],
            "label": [text for *_, text, _ in clips],
            "duration_ms": [duration_ms for *_, duration_ms in clips],
        }
        row = {"identifier": "Talks", "audio_document_id": "Evening.mp3", "training_data": data}
        put(root / split / f"{subset}.json", json.dumps(row) + "\n")
    whole = (root / "train/clean/clean_000000.tar").read_bytes()
    put(root / "train/clean/clean_000002.tar", whole[: len(whole) * 2 // 5].replace(b"_00060", b"_00160"))


def write_peoples_speech_parquet(root: Path) -> None:
    """The same as Hugging Face has it."""
    for subset, numbers in (("clean", range(60, 66)), ("validation", range(72, 74))):
        clips = [_peoples_clip(number) for number in numbers]
        rows = pa.table(
            {
                "id": [name for name, *_ in clips],
                "audio": [{"bytes": content, "path": name} for name, content, _, _ in clips],
                "duration_ms": pa.array([duration_ms for *_, duration_ms in clips], pa.int32()),
                "text": [text for *_, text, _ in clips],
            }
        )
        split = "train" if subset == "clean" else subset
        path = root / subset / f"{split}-00000-of-00001.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(rows, path, row_group_size=4)


EVENTS = ("20180206-0900-PLENARY", "20190115-0900-PLENARY")


def write_voxpopuli(root: Path) -> None:
    """Sessions on the English channel, one on the German one and the floor of the first; one more in a tar; cut files,
    with and without text, of the first session."""
    sessions = {
        (EVENTS[0], "en"): ("en", range(80, 84)),
        (EVENTS[1], "en"): ("en", range(84, 88)),
        (EVENTS[1], "de"): ("de", range(5, 7)),
        (EVENTS[0], "original"): ("en", range(80, 84)),
    }
    cutting: list[tuple[str, int, float, float]] = []
    for (event, channel), (language, numbers) in sessions.items():
        wavs = [say(number, language)[0] for number in numbers]
        pause = np.zeros(4000, np.int16)
        whole = np.concatenate([piece for wav in wavs for piece in (wav, pause)])
        at = 0.0
        for segment, wav in enumerate(wavs):
            cutting.append((f"{event}_{channel}", segment, round(at, 3), round(at + len(wav) / 16_000, 3)))
            at += (len(wav) + len(pause)) / 16_000
        put(root / "raw_audios" / channel / event[:4] / f"{event}_{channel}.ogg", encode(whole, "ogg"))
    event = "20200108-0900-PLENARY"
    whole = np.concatenate([say(number)[0] for number in range(88, 91)])
    write_tar(root / "raw_audios/en_2020.tar", [(f"en/2020/{event}_en.ogg", encode(whole, "ogg"))])
    rows = [("event_id", "segment_no", "start", "end"), *cutting]
    put(root / "unlabelled_data/unlabelled_v2.tsv.gz", gzip.compress(table(rows).encode(), mtime=0))
    for session, segment, _, _ in cutting[:4]:
        wav = say(80 + segment)[0]
        put(root / "unlabelled_data/en/2018" / f"{session}_{segment}.ogg", encode(wav, "ogg"))
    _write_voxpopuli_asr(root / "transcribed_data/en", cutting[:4])


def _write_voxpopuli_asr(folder: Path, cutting: list[tuple[str, int, float, float]]) -> None:
    columns = [
        "session_id",
        "id_",
        "split",
        "vad",
        "original_text",
        "normed_text",
        "speaker_id",
        "gender",
        "start_time",
        "end_time",
    ]
    official, splits = [columns], {"train": [], "dev": [], "test": []}
    for (_, segment, start_s, end_s), split in zip(cutting, ("train", "train", "dev", "fold3"), strict=True):
        wav, text = say(80 + segment)
        id = f"15-en_20180206-16:10:06_{segment}"
        name = f"{EVENTS[0]}-{id}"
        put(folder / "2018" / f"{name}.ogg", encode(wav, "ogg"))
        official.append(
            [EVENTS[0], id, split, f"[[{start_s}, {end_s}]]", text, text.lower(), "124755", "male", start_s, end_s]
        )
        if split in splits:  # of a split that is none the official script makes no row
            splits[split].append([name, text, text.lower(), "124755", split, "male", "False", "None"])
    put(folder / "asr_en.tsv.gz", gzip.compress(table(official, "|").encode(), mtime=0))
    header = ["id", "raw_text", "normalized_text", "speaker_id", "split", "gender", "is_gold_transcript", "accent"]
    for split, rows in splits.items():
        put(folder / f"asr_{split}.tsv", table([header, *rows]))


# The others


def write_mls(root: Path) -> None:
    """English in FLAC, German in Opus; the first English recording is a chapter that Libri-Light holds."""
    _write_mls_language(
        root / "mls_english",
        "flac",
        "en",
        {
            "train": [
                (201, 900, "https://archive.org/download/a_book_librivox/abook_07_author_64kb.mp3", range(25, 27)),
                (301, 910, "https://archive.org/download/b_book_librivox/bbook_01_author_64kb.mp3", range(100, 102)),
            ],
            "dev": [(302, 911, "https://archive.org/download/c/c_01_author_64kb.mp3", range(102, 103))],
            "test": [],
        },
    )
    _write_mls_language(
        root / "mls_german_opus",
        "opus",
        "de",
        {
            "train": [(401, 920, "https://archive.org/download/d/d_01_author_64kb.mp3", range(7, 9))],
            "dev": [],
            "test": [],
        },
    )


def _write_mls_language(
    folder: Path, suffix: str, language: str, splits: dict[str, list[tuple[int, int, str, range]]]
) -> None:
    for split, recordings in splits.items():
        transcripts, segments = [], []
        for speaker, book, url, numbers in recordings:
            at = 0.0
            for place, number in enumerate(numbers):
                wav, text = say(number, language)
                id = f"{speaker}_{book}_{place:06d}"
                put(folder / split / "audio" / str(speaker) / str(book) / f"{id}.{suffix}", encode(wav, suffix))
                transcripts.append((id, text.lower()))
                segments.append((id, url, round(at, 4), round(at + len(wav) / 16_000, 4)))
                at += len(wav) / 16_000 + 0.5
        put(folder / split / "transcripts.txt", table(transcripts))
        put(folder / split / "segments.txt", table(segments))
    put(folder / "metainfo.txt", "SPEAKER | GENDER | PARTITION | MINUTES | BOOK ID | TITLE | CHAPTER\n")


COMMON_VOICE_COLUMNS = [
    "client_id",
    "path",
    "sentence_id",
    "sentence",
    "sentence_domain",
    "up_votes",
    "down_votes",
    "age",
    "gender",
    "accents",
    "variant",
    "locale",
    "segment",
]


def write_common_voice(root: Path) -> None:
    """English with all tables: clips found wrong and clips unchecked too; German; one clip that no table names."""
    english = {
        "train": [110, 111],
        "dev": [112],
        "test": [113],
        "validated": [114],
        "invalidated": [115],
        "other": [116],
    }
    for locale, tables in (("en", english), ("de", {"train": [10], "validated": [], "invalidated": [], "other": []})):
        rows: dict[str, list[list[str]]] = {}
        durations = []
        for name, numbers in tables.items():
            rows[name] = []
            for number in numbers:
                wav, text = say(number, locale)
                clip = f"common_voice_{locale}_{number}.mp3"
                content = encode(wav, "mp3", 32_000)
                put(root / locale / "clips" / clip, content)
                durations.append((clip, round(soundfile.info(io.BytesIO(content)).duration * 1000)))
                row = dict.fromkeys(COMMON_VOICE_COLUMNS, "")
                quote = '"' if number == 111 else ""  # never closed: quotes are letters
                row |= {"client_id": f"client{number}", "path": clip, "sentence": quote + text, "locale": locale}
                rows[name].append([row[column] for column in COMMON_VOICE_COLUMNS])
        rows["validated"] = [row for name in ("train", "dev", "test", "validated") for row in rows.get(name, [])]
        for name, some in rows.items():
            put(root / locale / f"{name}.tsv", table([COMMON_VOICE_COLUMNS, *some]))
        put(root / locale / "clip_durations.tsv", table([("clip", "duration[ms]"), *durations]))
    put(root / "en/clips/common_voice_en_999.mp3", encode(say(110)[0], "mp3", 32_000))


def sphere(channels: list[NDArray[np.int16]], rate_hz: int) -> bytes:
    """A NIST SPHERE file of 16-bit samples, as LDC has them."""
    samples = np.stack(channels, axis=1).astype("<i2")
    fields = (
        ("channel_count", "-i", len(channels)),
        ("sample_rate", "-i", rate_hz),
        ("sample_count", "-i", len(samples)),
        ("sample_n_bytes", "-i", 2),
        ("sample_byte_format", "-s2", "01"),
        ("sample_coding", "-s3", "pcm"),
        ("conversation_id", "-s5", "00001"),
    )
    header = "NIST_1A\n   1024\n" + "".join(f"{name} {kind} {value}\n" for name, kind, value in fields) + "end_head\n"
    return header.encode().ljust(1024, b" ") + samples.tobytes()


def write_fisher(root: Path) -> None:
    """Two calls, one a part; on each a speaker a channel who take turns; one transcript holds the known mistake."""
    calls = (
        ("fe_03_p1_sph1", "fe_03_p1_tran", "fe_03_p1", "00001", range(120, 124)),
        ("fe_03_p2_sph1", "fe_03_p2_tran", "fe_03_p2", "11487", range(124, 128)),
    )
    for audio, transcripts, part, call, numbers in calls:
        sides: list[list[NDArray[np.int16]]] = [[], []]
        lines, at = ["# Fisher", "# transcribed by machine", ""], 0.0
        for place, number in enumerate(numbers):
            wav, text = say(number)
            turn = soxr.resample(wav, 16_000, 8_000).astype(np.int16)
            sides[place % 2].append(turn)
            sides[1 - place % 2].append(np.zeros_like(turn))
            lines.append(f"{at:.2f} {at + len(turn) / 8_000:.2f} {'AB'[place % 2]}: {text.lower()}")
            at += len(turn) / 8_000
        if call == "11487":
            lines.append("31.09 234.06 A: beyond the end of this short call")
        content = sphere([np.concatenate(side) for side in sides], 8_000)
        put(root / audio / "audio" / call[:3] / f"fe_03_{call}.sph", content)
        put(root / transcripts / "data/trans" / call[:3] / f"fe_03_{call}.txt", "\n".join(lines) + "\n")
        header = [
            "CALL_ID",
            "DATE_TIME",
            "TOPICID",
            "SIG_GRADE",
            "CNV_GRADE",
            "APIN",
            "ASX.DL",
            "APHNUM",
            "APHSET",
            "APHTYP",
            "BPIN",
            "BSX.DL",
        ]
        row = [call, "20030101", "ENG01", "4", "4", f"1{call}", "m.a", "", "", "", f"2{call}", "f.a"]
        put(root / transcripts / "doc" / f"{part}_calldata.tbl", table([header, row], ","))


def write_ljspeech(root: Path) -> None:
    """Three clips, the table of four."""
    rows = []
    for number in range(130, 133):
        wav, text = say(number)
        id = f"LJ001-{number:04d}"
        put(root / "LJSpeech-1.1/wavs" / f"{id}.wav", encode(wav, "wav", 22_050))
        rows.append((id, text, text))
    rows.append(("LJ001-9999", 'a "clip" that is gone', 'a "clip" that is gone'))
    put(root / "LJSpeech-1.1/metadata.csv", table(rows, "|"))


def write_webdataset(root: Path) -> None:
    """Two tars of audio with text and JSON beside it; a name that would leave its folder; one tar cut off."""
    for tar, numbers in enumerate((range(140, 143), range(143, 145))):
        members = []
        for number in numbers:
            wav, text = say(number)
            facts = {"speaker": f"s{number % 2}", "language": "en", "duration": len(wav) / 16_000}
            members += [(f"{number}.flac", encode(wav, "flac")), (f"{number}.json", json.dumps(facts).encode())]
            members.append((f"{number}.txt", text.encode()))
        if tar == 1:
            members.append(("../../outside.flac", encode(say(140)[0], "flac")))
        write_tar(root / f"audio-{tar:06d}.tar", members)
    whole = (root / "audio-000001.tar").read_bytes()
    put(root / "audio-000002.tar", whole[: len(whole) // 3])


def write_hf_parquet(root: Path) -> None:
    """Rows with and without text, in three row groups; one without audio, one that is no audio."""
    rows: list[dict[str, Any]] = []
    for number in range(150, 154):
        wav, text = say(number)
        audio = {"bytes": encode(wav, "wav"), "path": f"{number}.wav"}
        rows.append(
            {"audio": audio, "speaker_id": number % 2, "locale": "en", "sentence": text if number % 2 else None}
        )
    rows.append({"audio": {"bytes": None, "path": "gone.wav"}, "speaker_id": 1, "locale": "en", "sentence": None})
    rows.append(
        {"audio": {"bytes": b"no audio " * 9, "path": "x.wav"}, "speaker_id": 1, "locale": "en", "sentence": None}
    )
    (root / "data").mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), root / "data/train-00000-of-00001.parquet", row_group_size=2)


def write_folder(root: Path) -> None:
    """Three files with a table."""
    with io.StringIO(newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "language", "speaker", "text"])
        for number in range(160, 163):
            wav, text = say(number)
            put(root / f"clip {number}.wav", encode(wav, "wav"))
            writer.writerow([f"clip {number}.wav", "en", f"s{number % 2}", text])
        put(root / "metadata.csv", file.getvalue())


def write_lhotse(root: Path) -> None:
    """Recordings and supervisions: one of two channels with a speaker on each, one that a command would give."""
    one, two = (say(number)[0] for number in (170, 171))
    length = max(len(one), len(two))
    both = np.stack([np.pad(wav, (0, length - len(wav))) for wav in (one, two)], axis=1)
    (root / "audio").mkdir(parents=True, exist_ok=True)
    soundfile.write(root / "audio/call.wav", both, 16_000)
    put(root / "audio/clip.flac", encode(say(172)[0], "flac"))

    def recording(id: str, source: str, kind: str, num_samples: int, channels: list[int]) -> dict[str, Any]:
        sources = [{"type": kind, "channels": channels, "source": source}]
        length_s = num_samples / 16_000
        return {"id": id, "sources": sources, "sampling_rate": 16_000, "num_samples": num_samples, "duration": length_s}

    def supervision(recording_id: str, channel: int, number: int, start_s: float = 0.0) -> dict[str, Any]:
        told = {"id": f"{recording_id}-{channel}", "recording_id": recording_id, "start": start_s, "channel": channel}
        text = {"text": say(number)[1], "speaker": f"s{number}", "language": "English"}
        return {**told, **text, "duration": round(duration_s(number) - start_s, 3)}

    recordings = [
        recording("call", "audio/call.wav", "file", length, [0, 1]),
        recording("clip", "audio/clip.flac", "file", len(say(172)[0]), [0]),
        recording("piped", "sph2pipe call.sph |", "command", 16_000, [0]),
        recording("outside", "../outside.wav", "file", 16_000, [0]),
    ]
    supervisions = [supervision("call", 0, 170), supervision("call", 1, 171), supervision("clip", 0, 172, 0.1)]
    put(root / "recordings.jsonl", "".join(json.dumps(row) + "\n" for row in recordings))
    content = "".join(json.dumps(row) + "\n" for row in supervisions)
    put(root / "supervisions.jsonl.gz", gzip.compress(content.encode(), mtime=0))


def write_fairseq(root: Path) -> None:
    """Two splits, of files beside the tables' folder; and rows that lead nowhere."""
    for number, suffix in ((180, "wav"), (181, "flac"), (182, "wav")):
        put(root / f"audio/{number}.{suffix}", encode(say(number)[0], suffix))
    samples = {number: len(say(number)[0]) for number in (180, 181, 182)}
    inside = f"180.wav\t{samples[180]}\n181.flac\t{samples[181]}\ngone.wav\t9\n../audio/182.wav\t9\nx.zip:4:5\t5\n"
    put(root / "manifests/train.tsv", f"../audio\n{inside}")
    put(root / "manifests/valid.tsv", f"../audio\n182.wav\t{samples[182]}\n")


def write_nemo(root: Path) -> None:
    """A file with two stretches and a whole one as NeMo names them, and one as slm_scaling does."""
    for number in (190, 191, 192):
        put(root / f"audio/{number}.wav", encode(say(number)[0], "wav"))
    stretch = {"audio_filepath": "audio/190.wav", "duration": 0.5, "lang": "en", "speaker": "x"}
    rows: list[dict[str, Any]] = [
        {**stretch, "offset": 1.2, "text": "and the second"},
        {**stretch, "offset": 0.2, "text": "the first"},
        {"audio_filepath": "audio/191.wav", "duration": round(duration_s(191), 3), "text": say(191)[1], "lang": "en"},
        {"audio_filepath": "../outside.wav", "duration": 1.0, "text": ""},
    ]
    put(root / "train_manifest.json", "".join(json.dumps(row) + "\n" for row in rows))
    other = {"id": "d:dev:192", "dataset": "d", "split": "dev", "audio": "../audio/192.wav", "offset": 0.0}
    put(
        root / "more/others.jsonl",
        json.dumps({**other, "duration": None, "speaker": "y", "sample_rate": 16_000}) + "\n",
    )


WRITERS: dict[str, Callable[[Path], None]] = {
    "librispeech": write_librispeech,
    "libri_light": write_libri_light,
    "spotify": write_spotify,
    "peoples_speech": write_peoples_speech,
    "voxpopuli": write_voxpopuli,
    "mls": write_mls,
    "common_voice": write_common_voice,
    "fisher": write_fisher,
    "ljspeech": write_ljspeech,
    "webdataset": write_webdataset,
    "hf_parquet": write_hf_parquet,
    "folder": write_folder,
    "lhotse": write_lhotse,
    "fairseq": write_fairseq,
    "nemo": write_nemo,
}


if __name__ == "__main__":
    for name, write in WRITERS.items():
        write(Path(sys.argv[1]) / name)
