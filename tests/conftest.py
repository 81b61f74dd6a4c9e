"""Fixtures that all tests share: real recorded speech, and small runs that need neither speech nor Ray."""

from __future__ import annotations

import functools
import json
import pickle
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pytest
import soundfile
from hypothesis import settings

from model.encoder.config import EncoderConfig
from pipeline.audio.read import read_clips
from pipeline.corpora.manifest import make_manifest
from pipeline.corpora.source import CorpusConfig
from pipeline.files import parquet, storage
from pipeline.files.machine_cache import CACHE_VARIABLE
from pipeline.language.config import LanguageConfig
from pipeline.language.filter import filter_languages
from pipeline.packing.config import PackConfig, SplitConfig
from pipeline.packing.pack import pack
from pipeline.segments.config import SegmentConfig
from pipeline.segments.segment import make_segments
from pipeline.units.codebook_fit import fit_codebook
from pipeline.units.config import CodebookConfig
from pipeline.units.tokenize import tokenize
from pipeline.work import cluster, dataflow
from pipeline.work.cluster import ClusterConfig
from tests import corpora_trees
from tests.progress import silently

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from numpy.typing import NDArray

    from pipeline.work.dataflow import Processor
    from pipeline.work.plan import Chunk

# No deadlines: a busy machine must not fail a test.
settings.register_profile("no deadline", deadline=None)
settings.load_profile("no deadline")

SOUND_RATE_HZ = 8000
SPEECH = Path(__file__).resolve().parents[1].parent / "shared" / "speech"


@pytest.fixture(scope="session")
def speech() -> Path:
    """A folder of real recorded speech beside the project."""
    if not SPEECH.is_dir():
        pytest.skip(f"no recorded speech at {SPEECH}")
    return SPEECH


@pytest.fixture(scope="session")
def corpus_tree(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Gives the folder of a tiny tree of a corpus, by its kind; tests only read it."""
    folder = tmp_path_factory.mktemp("trees")

    @functools.cache
    def tree(kind: str) -> Path:
        corpora_trees.WRITERS[kind](folder / kind)
        return folder / kind

    return tree


@pytest.fixture(scope="session", autouse=True)
def cache_of_this_session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keeps what is fetched out of the cache in the user's home."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(CACHE_VARIABLE, str(tmp_path_factory.mktemp("cache")))
        yield


class Clip(NamedTuple):
    """A recording of a small run: tones of changing pitch. Clips with equal `sound` and duration have equal samples."""

    name: str
    speaker: str | None
    duration_s: float
    sound: int
    language: str = "en"
    split: str | None = None


# Six speakers, one unknown speaker, one clip in another language, and two identical clips.
CLIPS = (
    *(
        Clip(f"{speaker}/{take}.wav", speaker, 9.0 + take, 10 * i + take)
        for i, speaker in enumerate("abcdef")
        for take in (1, 2)
    ),
    Clip("nobody's.wav", None, 7.0, 100),
    Clip("g/autre é.wav", "g", 8.0, 101, language="fr"),
    Clip("twin 1.wav", "a", 5.0, 102),
    Clip("twin 2.wav", "a", 5.0, 102),
)
MFCC, CODEBOOK = EncoderConfig(), CodebookConfig(num_units=20, num_iterations=5)
PACK = PackConfig(split=SplitConfig(validation=0.2, test=0.2), units_per_shard=600, min_shards=2)


@pytest.fixture(scope="session")
def make_run(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Makes runs with the real stages on synthetic audio, except that chunks run one by one instead of on Ray.

    In each run one file cannot be read, and one disappears before it is encoded. Clips are given as tuples (see Clip).
    """

    def make(
        clips: Sequence[tuple[Any, ...]] = CLIPS,
        *,
        work_unit_minutes: float = 0.25,
        packed: PackConfig | None = PACK,
        encoder: EncoderConfig = MFCC,
        codebook: CodebookConfig = CODEBOOK,
    ) -> Path:
        folder = tmp_path_factory.mktemp("small")
        audio, run = folder / "sounds", str(folder / "run")
        _write_audio([*(Clip(*clip) for clip in clips), Clip("vanishes.wav", "f", 6.0, 103)], audio)
        (audio / "broken.wav").write_bytes(b"RIFF, but no more of it")
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(dataflow, "run_chunks", run_here)
            patch.setattr(cluster, "map_tasks", map_here)
            make_manifest(run, [CorpusConfig(str(audio))], silently)
            filter_languages(run, LanguageConfig(), ClusterConfig(), silently)
            plan = SegmentConfig(min_s=2.0, max_s=5.0, detect_speech="none", work_unit_minutes=work_unit_minutes)
            make_segments(run, plan, ClusterConfig(), silently)
            (audio / "vanishes.wav").unlink()
            fit_codebook(run, codebook, encoder, ClusterConfig(), silently)
            tokenize(run, encoder, ClusterConfig(), silently)
            if packed:
                pack(run, packed, silently)
        return Path(run)

    return make


@pytest.fixture(scope="session")
def small_run(make_run: Callable[..., Path]) -> Path:
    """A finished run, shards and all; tests only read it."""
    return make_run()


@pytest.fixture
def run_copy(small_run: Path, tmp_path: Path) -> Path:
    """A finished run to change or break."""
    return Path(shutil.copytree(small_run, tmp_path / "run"))


@pytest.fixture
def without_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes stages process chunks one by one in the test's process."""
    monkeypatch.setattr(dataflow, "run_chunks", run_here)
    monkeypatch.setattr(cluster, "map_tasks", map_here)


def map_here(function: Callable[[Any], Any], items: Iterable[Any], *, num_cpus: float = 1) -> Iterator[Any]:  # noqa: ARG001
    """Stands in for cluster.map_tasks: one item after another, pickling everything that would be sent to workers."""
    there = pickle.loads(pickle.dumps(function))
    return (pickle.loads(pickle.dumps(there(pickle.loads(pickle.dumps(item))))) for item in items)


def _write_audio(clips: Sequence[Clip], folder: Path) -> None:
    rows = []
    for clip in clips:
        path = folder / clip.name
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, _tones(clip), SOUND_RATE_HZ)
        rows.append({"path": clip.name, "language": clip.language, "speaker": clip.speaker, "split": clip.split})
    (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def _tones(clip: Clip) -> NDArray[np.float64]:
    """Consecutive tones of 100 to 300 ms with a little noise, so that frames repeat and are of many kinds."""
    generator = np.random.default_rng(clip.sound)
    num_samples = round(clip.duration_s * SOUND_RATE_HZ)
    num_tones = num_samples // (SOUND_RATE_HZ // 10) + 1
    lengths = generator.integers(SOUND_RATE_HZ // 10, 3 * SOUND_RATE_HZ // 10, num_tones)
    pitches_hz = np.repeat(generator.uniform(100, 3000, num_tones), lengths)[:num_samples]
    phase = 2 * np.pi * np.cumsum(pitches_hz) / SOUND_RATE_HZ
    return 0.3 * np.sin(phase) + 0.003 * generator.standard_normal(num_samples)


def run_here(
    chunks: Iterable[Chunk], parts: str, processor: type[Processor], processor_args: dict[str, Any], *_: object
) -> dict[str, Any]:
    """Stands in for dataflow.run_chunks, in this process."""
    process = processor(**processor_args)
    for chunk in chunks:
        part = process(chunk, list(read_clips(chunk.spans)))
        storage.put_if_absent(dataflow.part_uri(parts, chunk.name), parquet.to_bytes(part))
    return {}
