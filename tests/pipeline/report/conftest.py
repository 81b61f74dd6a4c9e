"""A run of speech, text, pitch and style, whose words and documents are made to break out of pages."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pyarrow as pa
import pytest

from pipeline.files import parquet, storage
from pipeline.packing.pack import pack
from pipeline.pitch.config import PitchConfig
from pipeline.pitch.pitch import tokenize_pitch
from pipeline.records import WORDS_SCHEMA
from pipeline.runs import WORDS
from pipeline.stage import Stage, StageCounts, Tally, fingerprint_of
from pipeline.style.stage import StyleConfig, take_style
from pipeline.text.config import TextConfig, TextCorpus
from pipeline.text.pack_text import pack_text
from pipeline.units.parts import part_uris, read_part
from pipeline.work import cluster, dataflow
from pipeline.work.cluster import ClusterConfig
from tests.conftest import PACK, map_here, run_here
from tests.progress import silently
from tests.text_models import write_tokenizer

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

SPOKEN = ("the", "quick", "<b>brown</b>", "fox", "</svg><script>x</script>", "\u202ejumps", "over", "dogs")
DOCUMENT = 'she sells </span><script>document.title="owned"</script> sea shells '


@pytest.fixture(scope="session")
def written_run(make_run: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of all these; tests only read it."""
    run = make_run([(f"{name}.wav", name, 14.0 + place, place) for place, name in enumerate("abcd")], packed=None)
    folder = tmp_path_factory.mktemp("written")
    tokenizer = str(write_tokenizer(folder / "lm"))
    (folder / "texts.txt").write_text("".join(f"{DOCUMENT}{number}\n" for number in range(40)) + "\n")
    _write_words(str(run))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dataflow, "run_chunks", run_here)
        patch.setattr(cluster, "map_tasks", map_here)
        tokenize_pitch(str(run), PitchConfig(model="pitch-tiny"), ClusterConfig(), silently)
        take_style(str(run), StyleConfig(model="style-tiny-25hz"), ClusterConfig(), silently)
        corpus = TextCorpus(path=str(folder / "texts.txt"), name="tales", document="line")
        pack_text(str(run), TextConfig(tokenizer=tokenizer, corpora=(corpus,), validation=0.2), silently)
        pack(str(run), PACK, silently, tokenizer=tokenizer)
    spans = {"text_words": [1, 2], "speech_words": [1, 2]}
    mixture = {"speech": 1, "text": 1, "interleaved": 2}
    recipe = {"text": {"tokenizer": tokenizer}, "train": {"seed": 3, "spans": spans, "mixture": mixture}}
    (run / "recipe.yaml").write_text(json.dumps(recipe))
    return run


def _write_words(run: str) -> None:
    """Words for each segment, half a second each, as far as it reaches."""
    stage = Stage(run, WORDS, {}, {"segments": fingerprint_of(run, "segments")})
    with stage.begin():
        for uri in part_uris(run):
            rows = []
            for row in read_part(uri).to_pylist():
                count = min(len(SPOKEN), int(2 * (row["end_s"] - row["start_s"])))
                words = [
                    {"word": word, "start_s": place / 2, "end_s": place / 2 + 0.4}
                    for place, word in enumerate(SPOKEN[:count])
                ]
                rows.append({name: row.get(name) for name in WORDS_SCHEMA.names} | {"words": words, "source": "corpus"})
            path = storage.join(stage.uri, uri.rpartition("/")[2])
            parquet.write(path, pa.Table.from_pylist(rows, WORDS_SCHEMA))
        stage.finish(StageCounts(Tally(), Tally()), [], "output")
