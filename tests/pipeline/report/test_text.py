"""The page of text, and lanes of pitch and style: what shards hold, and where it lies in a clip."""

from __future__ import annotations

import itertools
import json
import re
import shutil
from html import unescape
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pipeline.errors import TwistError
from pipeline.files import storage
from pipeline.printable import printable
from pipeline.report.as_trained import AsTrained, read_as_trained
from pipeline.report.clips import code_blocks
from pipeline.report.config import ReportConfig
from pipeline.report.report import write_report
from pipeline.report.site import PAGES
from pipeline.report.streams import read_streams
from pipeline.report.text import read_text
from pipeline.report.training import read_kinds
from pipeline.shards import open_dataset
from pipeline.text_shards import open_text, read_document
from tests.pipeline.report.conftest import SPOKEN
from tests.pipeline.report.test_report import Found
from tests.progress import silently

if TYPE_CHECKING:
    from pipeline.report.text import TextFigures


@pytest.fixture(scope="module")
def written_report(written_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    write_report(str(written_run), str(folder), [], f"{written_run}/speech", ReportConfig(clips=3), silently)
    return folder


def figures_of(run: Path, size: int = 3) -> TextFigures:
    dataset = open_dataset(str(run / "shards"))
    found = read_text(str(run), dataset, read_as_trained(str(run)), (), (), size, seed=0)
    assert found is not None
    return found


def clips_of(page: Path) -> list[str]:
    return [clip for clip in page.read_text().split("<article")[1:] if 'class="lane' in clip]


def test_totals_are_those_of_both_kinds_of_shards(written_run: Path) -> None:
    figures, text = figures_of(written_run), open_text(str(written_run / "text"))
    assert figures.num_documents == sum(map(len, text.rows(["key"])))
    assert figures.num_tokens == sum(sum(table["num_tokens"].to_pylist()) for table in text.rows(["num_tokens"]))
    (lengths,) = figures.charts
    assert sum(map(sum, (series.values for series in lengths.series))) == figures.num_documents
    samples = open_dataset(str(written_run / "shards")).manifest
    for name in ("num_words", "num_text_tokens"):
        told = sum(getattr(total, name) for total in figures.words)
        assert told == sum(filter(None, samples[name].to_pylist())) > 0


def test_documents_are_read_whole_and_shown_as_text_by_their_tokenizer(written_run: Path) -> None:
    text = open_text(str(written_run / "text"))
    rows = [row for table in text.rows(text.schema.names) for row in table.to_pylist()]
    assert sorted(read_document(text, row).row for row in rows) == list(range(40))
    (shown,) = figures_of(written_run).documents
    assert all(re.fullmatch(r"she sells .* sea shells \d+", document.text) for document in shown.documents)
    assert len(shown.documents) == 3


def test_without_its_tokenizer_a_document_is_tokens(written_run: Path) -> None:
    dataset = open_dataset(str(written_run / "shards"))
    for tokenizer in (None, "/nowhere", "s3://"):
        found = read_text(str(written_run), dataset, AsTrained(tokenizer), (), (), 1, seed=0)
        assert found is not None and found.no_text
        assert not found.documents[0].documents[0].text and found.documents[0].documents[0].tokens


def test_a_damaged_document_is_told(written_run: Path, tmp_path: Path) -> None:
    shards = Path(shutil.copytree(written_run / "text", tmp_path / "text"))
    text = open_text(str(shards))
    row = text.head(1).to_pylist()[0]
    tar = shards / row["shard"]
    content = bytearray(tar.read_bytes())
    content[row["tokens_offset"]] ^= 1
    tar.chmod(0o644)
    tar.write_bytes(content)
    with pytest.raises(TwistError, match="no whole document at byte"):
        read_document(text, row)
    tar.unlink()
    with pytest.raises(TwistError, match="is missing"):
        read_document(text, row)


def test_spans_hold_every_word_once_and_touch_each_other(written_report: Path) -> None:
    clips = clips_of(written_report / "text.html")
    assert clips
    for clip in clips:
        lane = clip.partition('class="lane spans"')[2].partition('<svg class="head"')[0]
        spans = [(float(x), float(x) + float(w)) for x, w in re.findall(r'x="([\d.]+)%" width="([\d.]+)%"', lane)]
        kinds = re.findall(r'<rect class="(speech|text)"', lane)
        assert len(spans) == len(kinds) > 1
        assert all(one != other for one, other in itertools.pairwise(kinds))
        assert all(end == pytest.approx(start, abs=0.01) for (_, end), (start, _) in itertools.pairwise(spans))
        words = [unescape(word) for word in re.findall(r"<text transform[^>]*>(.*?)</text>", lane)]
        assert words == [printable(word) for word in SPOKEN[: len(words)]]
        # A word stands in its span.
        places = [float(x) for x in re.findall(r'<svg x="([\d.]+)%" overflow="visible"><text transform', lane)]
        assert all(any(start <= place <= end for start, end in spans) for place in places)


def test_spans_of_speech_say_the_units_that_lie_in_them(written_run: Path, written_report: Path) -> None:
    rows = {row["segment_id"]: row for row in open_dataset(str(written_run / "shards")).manifest.to_pylist()}
    for clip in clips_of(written_report / "text.html"):
        name = re.search(r'<span class="name">(.*?)</span>', clip)
        assert name is not None
        said = clip.partition('<p class="tokens">')[2].partition("</p>")[0]
        of_speech = re.findall(r"\[Speech\]</b> ([\d ]*)", said)
        num_said = sum(len(units.split()) for units in of_speech)
        assert 0 < num_said <= rows[unescape(name[1])]["num_units"] + len(of_speech)


def test_clips_have_lanes_of_pitch_and_style_and_the_units_page_their_figures(
    written_run: Path, written_report: Path
) -> None:
    kept = (written_report / "listening.html").read_text().partition('id="kept-')[2]
    assert "codes of pitch" in kept and "codes of style" in kept
    page = (written_report / "units.html").read_text()
    for stream in read_streams(str(written_run), seed=0):
        assert f"How often each code of {stream.name} occurs" in page
        told = json.loads((written_run / stream.name / "stage.json").read_text())
        assert stream.num_seen == sum(told["code_uses" if stream.name == "pitch" else "code_counts"]) > 0
        assert sum(stream.charts[0].series[0].values) == pytest.approx(100)


def test_the_overview_counts_documents_and_their_tokens_not_hours(written_report: Path) -> None:
    row = (written_report / "index.html").read_text().partition('<th scope="row">text</th>')[2].partition("</tr>")[0]
    assert "40 documents" in row and "tokens" in row and "min" not in row


def test_words_and_documents_from_outside_stay_text(written_report: Path) -> None:
    for name, _ in PAGES:
        page = written_report / f"{name}.html"
        assert not Found(page).running, name
        assert not re.search("[\x00-\x09\x0b-\x1f\x7f\u202a-\u202e\u2066-\u2069]", page.read_text()), name
    assert "&lt;b&gt;brown&lt;/b&gt;" in (written_report / "text.html").read_text(), "the word is not shown at all"


def test_a_run_of_speech_alone_says_how_text_comes_in(small_run: Path, tmp_path: Path) -> None:
    write_report(str(small_run), str(tmp_path), [], "none", ReportConfig(clips=0), silently)
    assert "twist pack-text" in (tmp_path / "text.html").read_text()


def test_kinds_are_counted_by_the_tokens_between_lines(tmp_path: Path) -> None:
    lines = (
        {"step": 1, "tokens": 100, "share_speech": 1.0, "share_text": 0.0},
        {"step": 2, "tokens": 400, "share_speech": 0.0, "share_text": 1.0},
        {"step": 2, "validation": {"corpora": {"text": {"perplexity": 7.0}}, "mean": {"perplexity": 7.0}}},
    )
    storage.write_bytes(
        f"{tmp_path}/checkpoints/metrics.jsonl", "".join(f"{json.dumps(one)}\n" for one in lines).encode()
    )
    speech, text = read_kinds(str(tmp_path), None)
    assert (speech.seen, text.seen, speech.asked) == (0.25, 0.75, None)
    assert (speech.perplexity, text.perplexity) == (None, 7.0)


def test_settings_come_from_the_runs_recipe(written_run: Path, tmp_path: Path) -> None:
    found = read_as_trained(str(written_run))
    assert (found.seed, found.spans.text_words) == (3, (1, 2))
    assert read_as_trained(str(tmp_path)) == AsTrained()
    for damage in ("train: {spans: {rule: 5, wrds: 1}}", "- a", "a: [", "train: {seed: many}"):
        (tmp_path / "recipe.yaml").write_text(damage)
        with pytest.raises(TwistError, match="recipe"):
            read_as_trained(str(tmp_path))


def test_equal_codes_in_a_row_are_one_block_and_none_lies_behind_the_end() -> None:
    blocks = code_blocks([4, 4, 5, 6], 2.0, 1.0, 2.2)
    assert [(block.code, block.start_s, block.end_s) for block in blocks] == [(4, 1.0, 2.0), (5, 2.0, 2.2)]
