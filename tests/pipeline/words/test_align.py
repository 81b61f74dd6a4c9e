"""The stage: every segment has its words or a reason, from whatever source, and the same ones after an interruption."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import soundfile

from pipeline.corpora.manifest import make_manifest
from pipeline.corpora.source import CorpusConfig
from pipeline.errors import TwistError
from pipeline.files import parquet
from pipeline.inspection.describe import describe_run
from pipeline.inspection.text import as_text
from pipeline.inspection.verify import verify_run
from pipeline.language.config import LanguageConfig
from pipeline.language.filter import filter_languages
from pipeline.records import WORDS_SCHEMA
from pipeline.runs import WORDS
from pipeline.segments.config import SegmentConfig
from pipeline.segments.segment import make_segments, read_segments
from pipeline.stage import StageError, read_facts
from pipeline.words.align import align_words
from pipeline.words.config import WordsConfig
from pipeline.words.parts import part_uris, read_part
from pipeline.work.cluster import ClusterConfig
from tests.ctc_models import write_ctc
from tests.progress import silently

if TYPE_CHECKING:
    from pathlib import Path

RATE_HZ = 16_000
CLUSTER = ClusterConfig()
# Words of a second each; segments of four seconds.
TEXT = "one two three four five six seven eight"


@dataclass(frozen=True)
class Run:
    """A run up to its segments."""

    audio: Path
    run: str

    def rows(self) -> list[dict[str, Any]]:
        return [row for uri in part_uris(self.run) for row in read_part(uri).to_pylist()]

    def reasons(self) -> dict[str, str | None]:
        """By segment, without the corpus."""
        return {row["segment_id"].removeprefix("sounds/"): row["drop_reason"] for row in self.rows()}

    def content(self) -> dict[str, bytes]:
        return {uri: (self.audio / uri).read_bytes() for uri in part_uris(self.run)}


def second_each(text: str) -> list[list[Any]]:
    return [[f" {word}", place + 0.1, place + 0.9] for place, word in enumerate(text.split())]


@pytest.fixture
def run(tmp_path: Path, without_ray: None) -> Run:  # noqa: ARG001
    """Three recordings of 8 s in two segments, two of them with alignments; and one of 4 s with a text alone."""
    audio = tmp_path / "sounds"
    audio.mkdir()
    generator = np.random.default_rng(0)
    for name in ("aligned", "late", "text", "silent"):
        length_s = 4 if name == "text" else 8
        soundfile.write(audio / f"{name}.wav", 0.1 * generator.standard_normal(length_s * RATE_HZ), RATE_HZ)
    rows = [{"path": f"{name}.wav", "text": TEXT, "speaker": name} for name in ("aligned", "late", "text")]
    (audio / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    lines = [
        {"file_name": "aligned.wav", "aligned_text": second_each(TEXT.upper())},
        {"file_name": "late.wav", "aligned_text": [*second_each(TEXT)[:3], ["four", 3.1, 3.1], ["nine", 4.1, 5.0]]},
    ]
    (audio / "aligned_text.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    run = str(tmp_path / "run")
    make_manifest(run, [CorpusConfig(str(audio))], silently)
    filter_languages(run, LanguageConfig(unknown="keep"), CLUSTER, silently)
    config = SegmentConfig(min_s=2.0, max_s=4.0, detect_speech="none", work_unit_minutes=0.1)
    make_segments(run, config, CLUSTER, silently)
    return Run(audio, run)


@pytest.fixture
def model(tmp_path: Path) -> str:
    write_ctc(tmp_path / "ctc")
    return str(tmp_path / "ctc")


def test_words_of_files_are_cut_into_segments(run: Run) -> None:
    align_words(run.run, WordsConfig(), CLUSTER, silently)
    assert run.reasons() == {
        "aligned.wav#00000000-00004000": None,
        "aligned.wav#00004000-00008000": None,
        "late.wav#00000000-00004000": "bad_times",
        "late.wav#00004000-00008000": None,
        "silent.wav#00000000-00004000": "no_text",
        "silent.wav#00004000-00008000": "no_text",
        "text.wav#00000000-00004000": "no_alignment",
    }
    first, second, *_ = run.rows()
    assert [word["word"] for word in first["words"] + second["words"]] == TEXT.split(), "spelled as in the text"
    assert [word["start_s"] for word in second["words"]] == pytest.approx([0.1, 1.1, 2.1, 3.1])
    assert {row["source"] for row in run.rows()} == {"corpus", None}
    facts = read_facts(run.run, WORDS)
    assert facts["counts"]["kept"]["items"] == 3 and facts["by_source"]["corpus"]["items"] == 3
    assert facts["num_words"] == 9


def test_every_segment_is_there_once_in_the_part_of_its_chunk(run: Run) -> None:
    align_words(run.run, WordsConfig(), CLUSTER, silently)
    segments = read_segments(run.run).to_pylist()
    assert [row["segment_id"] for row in run.rows()] == [segment["segment_id"] for segment in segments]
    by_part = {uri.rpartition("/part-")[2]: read_part(uri)["segment_id"].to_pylist() for uri in part_uris(run.run)}
    for segment in segments:
        assert segment["segment_id"] in by_part[f"{segment['work_unit']}.parquet"]
    assert len(by_part) == len({segment["work_unit"] for segment in segments}) > 1


def test_a_model_aligns_what_has_no_alignment(run: Run, model: str) -> None:
    align_words(run.run, WordsConfig(model=model), CLUSTER, silently)
    reasons = run.reasons()
    assert {reasons[id] for id in reasons if id.startswith("silent")} == {"no_text"}
    # Random weights put words anywhere, but all of them into the recording's only segment.
    (of_text,) = [row for row in run.rows() if row["recording_id"] == "sounds/text.wav"]
    assert of_text["source"] == "ctc" and [word["word"] for word in of_text["words"]] == TEXT.split()
    assert read_facts(run.run, WORDS)["by_source"]["corpus"]["items"] == 3


def test_a_model_can_be_told_to_align_all(run: Run, model: str) -> None:
    align_words(run.run, WordsConfig(source="ctc", model=model), CLUSTER, silently)
    assert {row["source"] for row in run.rows()} <= {"ctc", None}
    assert "corpus" not in read_facts(run.run, WORDS)["by_source"]


def test_an_interrupted_run_ends_with_the_same_bytes(run: Run, model: str) -> None:
    config = WordsConfig(model=model, work_unit_minutes=0.1)
    align_words(run.run, config, CLUSTER, silently)
    done = run.audio.parent / "run/words/DONE"
    before, fingerprint = run.content(), done.read_text()
    done.unlink()
    next((run.audio.parent / "run/words").glob("part-*.parquet")).unlink()
    next((run.audio.parent / "run/words/recordings").glob("part-*.parquet")).unlink()
    align_words(run.run, config, CLUSTER, silently)
    assert run.content() == before and done.read_text() == fingerprint


def test_what_was_missing_is_aligned_when_it_is_back(run: Run, model: str) -> None:
    config = WordsConfig(source="ctc", model=model)
    path = run.audio / "late.wav"
    content = path.read_bytes()
    path.unlink()
    align_words(run.run, config, CLUSTER, silently)
    assert run.reasons()["late.wav#00000000-00004000"] == "missing"
    path.write_bytes(content)
    align_words(run.run, config, CLUSTER, silently)
    assert run.reasons()["late.wav#00000000-00004000"] == "missing", "a finished stage is left as it is"
    align_words(run.run, config, CLUSTER, silently, retry_dropped=True)
    assert run.reasons()["late.wav#00000000-00004000"] != "missing"


def test_other_settings_are_refused(run: Run) -> None:
    align_words(run.run, WordsConfig(), CLUSTER, silently)
    with pytest.raises(StageError, match='tier was "words", is "orthography"'):
        align_words(run.run, WordsConfig(tier="orthography"), CLUSTER, silently)


def test_alignments_that_changed_are_not_passed_over(run: Run) -> None:
    """Whether the stage is finished or was interrupted: added files, files with other content, files that are gone."""
    align_words(run.run, WordsConfig(), CLUSTER, silently)
    added = run.audio / "text.json"
    added.write_text(json.dumps({"words": [{"word": "one", "start": 0.5, "end": 1.0}]}))
    with pytest.raises(StageError, match="its input alignments has changed since"):
        align_words(run.run, WordsConfig(), CLUSTER, silently)
    added.unlink()
    align_words(run.run, WordsConfig(), CLUSTER, silently)
    (run.audio.parent / "run/words/DONE").unlink()
    with (run.audio / "aligned_text.jsonl").open("a") as file:
        file.write("\n")
    with pytest.raises(StageError, match="its input alignments has changed since"):
        align_words(run.run, WordsConfig(), CLUSTER, silently)


def test_a_run_among_its_audio_goes_on(run: Run) -> None:
    """What the stage writes there is no alignment that was added."""
    inside = shutil.copytree(run.run, run.audio / "run")
    for _ in range(2):
        align_words(str(inside), WordsConfig(alignments=(str(run.audio),)), CLUSTER, silently)
    assert read_facts(str(inside), WORDS)["notices"] == {}


def test_parts_of_another_table_of_texts_are_made_anew(run: Run, model: str) -> None:
    """Chunks have the names of others where what is to be aligned has changed, as with a later version of this."""
    config = WordsConfig(source="ctc", model=model, work_unit_minutes=0.1)
    align_words(run.run, config, CLUSTER, silently)
    before = run.content()
    (run.audio.parent / "run/words/DONE").unlink()
    texts = run.audio.parent / "run/words/texts.parquet"
    parquet.write(str(texts), parquet.read(str(texts)).slice(1))
    first, *_, last = sorted((run.audio.parent / "run/words/recordings").glob("part-*.parquet"))
    first.write_bytes(last.read_bytes())
    align_words(run.run, config, CLUSTER, silently)
    assert run.content() == before


def test_it_is_described_and_verified(run: Run) -> None:
    align_words(run.run, WordsConfig(), CLUSTER, silently)
    assert list(verify_run(run.run)) == []
    text = as_text({"kind": "run", "path": run.run, **describe_run(run.run)})
    assert "corpus: 3 segments" in text and "bad_times 1" in text and "one 0.10-0.90" in text


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"words": [{"word": "a", "start_s": 0.5, "end_s": 0.5}]}, "'a' from 0.5 to 0.5 s"),
        ({"words": [{"word": "a", "start_s": 0.0, "end_s": 9.0}]}, "its last word ends at 9.0 s, behind the segment"),
        ({"words": [{"word": " a", "start_s": 0.0, "end_s": 1.0}]}, "' a' is no word"),
        ({"words": []}, "has 0 words, with None as the reason"),
        ({"drop_reason": "no_text"}, "has 4 words, with no_text as the reason"),
        ({"segment_id": "sounds/other#0"}, "neither kept nor dropped"),
    ],
)
def test_what_is_wrong_is_found(run: Run, change: dict[str, Any], expected: str) -> None:
    align_words(run.run, WordsConfig(), CLUSTER, silently)
    uri = part_uris(run.run)[0]
    rows = read_part(uri).to_pylist()
    rows[0] |= change
    parquet.write(uri, parquet.read(uri).from_pylist(rows, WORDS_SCHEMA))
    violations = list(verify_run(run.run))
    assert any(expected in violation for violation in violations), violations
    assert any("its DONE does not fit" in violation for violation in violations)


def test_a_run_without_any_words_fails(run: Run) -> None:
    (run.audio / "aligned_text.jsonl").unlink()
    with pytest.raises(TwistError, match=r"none of 7 segments has words with times: .*no_alignment"):
        align_words(run.run, WordsConfig(), CLUSTER, silently)


def test_settings_that_make_no_sense_are_refused() -> None:
    for settings, expected in (
        ({"source": "ctc"}, "needs words.model"),
        ({"source": "files", "model": "ctc"}, "words.model is of no use with words.source files"),
        ({"source": "pocketsphinx", "alignments": ("a",)}, "words.alignments are of no use"),
        ({"work_unit_minutes": 0}, "must be positive"),
    ):
        with pytest.raises(TwistError, match=expected):
            WordsConfig(**settings)  # type: ignore[arg-type]
