"""The folder that a report is: whole, bounded, and safe whatever corpora call their files."""

from __future__ import annotations

import dataclasses
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pytest
import soundfile

from pipeline.errors import TwistError
from pipeline.files import parquet, storage
from pipeline.records import SAMPLE_RATE_HZ, WORDS_SCHEMA
from pipeline.report.clips import ClipWriter, unit_blocks
from pipeline.report.config import ReportConfig
from pipeline.report.report import write_report
from pipeline.report.site import PAGES
from pipeline.runs import WORDS
from pipeline.stage import Stage, StageCounts, Tally
from pipeline.units.parts import part_uris, read_part
from tests.conftest import PACK
from tests.progress import silently

if TYPE_CHECKING:
    from collections.abc import Callable

OWNED = '</script><script>document.title="owned"</script>'
HOSTILE = (
    ("<img src=x onerror=document.title=1>.wav", OWNED, 6.0, 1),
    ("\u202ecod.exe\x1b[2J.wav", "b", 6.0, 2),
    ('"><svg onload=alert(1)>.wav', "'-alert(1)-'", 7.0, 3),
    ("plain.wav", "d", 7.0, 3),
)


def report_of(run: Path | str, output: Path | str, **settings: object) -> None:
    write_report(str(run), str(output), [], f"{run}/speech", ReportConfig(**settings), silently)


@pytest.fixture(scope="module")
def small_report(small_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of a small run; tests only read it."""
    folder = tmp_path_factory.mktemp("report")
    report_of(small_run, folder)
    return folder


class Found(HTMLParser):
    """What a page refers to, and which of its elements could run something."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.references: list[str] = []
        self.ids: list[str] = []
        self.running: list[str] = []
        self.images: list[str] = []
        self.feed(page.read_text())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.references += [value for name, value in attrs if name in ("src", "href") and value]
        self.ids += [given["id"]] if given.get("id") else []
        self.images += [given.get("src") or ""] if tag == "img" else []
        if (
            tag == "script"
            and given.get("type") != "application/json"
            and not given.get("src", "").startswith("assets/")
        ):
            self.running.append(str(attrs))
        self.running += [name for name, _ in attrs if name.startswith("on") or name == "style"]


@pytest.mark.parametrize("page", [name for name, _ in PAGES])
def test_pages_refer_to_what_is_in_the_folder(small_report, page):
    found = Found(small_report / f"{page}.html")
    assert not found.running
    assert len(set(found.ids)) == len(found.ids), "two elements have one id"
    for reference in found.references:
        if reference == "data:,":
            continue
        path, _, anchor = reference.partition("#")
        assert ":" not in path
        target = small_report / (path or f"{page}.html")
        assert target.is_file(), f"{page}.html refers to {path}, which is not there"
        if anchor and target.suffix == ".html":
            assert anchor in Found(target).ids, f"{page}.html refers to {reference}, and nothing is called that"


def test_nothing_is_in_the_folder_that_no_page_shows(small_report):
    shown = {reference for page in small_report.glob("*.html") for reference in Found(page).references}
    clips = {str(path.relative_to(small_report)) for path in small_report.rglob("clip-*")}
    assert clips
    assert clips <= shown


def test_clips_are_the_audio_of_the_recordings(small_run, small_report):
    page = (small_report / "listening.html").read_text()
    clip = re.search(
        r'<span class="name">(\S+?/(\S+?\.wav))#(\d+)-(\d+)</span>.*?src="(audio/clip-\d+\.flac)"', page, re.DOTALL
    )
    assert clip, "no kept segment is there to hear"
    original, rate_hz = soundfile.read(small_run.parent / "sounds" / clip[2])
    start_s, end_s = max(0.0, int(clip[3]) / 1000 - 1), min(len(original) / rate_hz, int(clip[4]) / 1000 + 1)
    heard, heard_rate_hz = soundfile.read(small_report / clip[5])
    assert heard_rate_hz == SAMPLE_RATE_HZ
    assert len(heard) / heard_rate_hz == pytest.approx(end_s - start_s, abs=0.01)
    # Every second sample of 16 kHz is one of the 8 kHz that were recorded, but for the resampler.
    recorded = original[round(start_s * rate_hz) : round(end_s * rate_hz)]
    num_samples = min(len(recorded), len(heard[::2]))
    assert np.corrcoef(recorded[:num_samples], heard[::2][:num_samples])[0, 1] > 0.99


def test_duplicates_are_shown_with_both_copies(small_report):
    page = (small_report / "packing.html").read_text()
    assert re.search(r'class="pair".*twin [12]\.wav.*twin [12]\.wav', page, re.DOTALL)


def regions(clip: str, pattern: str) -> list[tuple[float, float]]:
    """Start and end of the rectangles of a clip that a pattern finds, in seconds."""
    found = re.findall(rf'<rect{pattern} x="([\d.]+)" width="([\d.]+)"', clip)
    return [(float(x), float(x) + float(width)) for x, width in found]


def test_a_sample_of_several_segments_has_the_units_of_each_where_it_lies(make_run: Callable[..., Path], tmp_path):
    clips = [("a.wav", "a", 14.0, 1), ("b.wav", "b", 14.0, 2), ("c.wav", "c", 14.0, 3)]
    run = make_run(clips, packed=dataclasses.replace(PACK, sample_s=12.0))
    report_of(run, tmp_path / "report")
    shown = (tmp_path / "report" / "listening.html").read_text().split("<article")[1:]
    of_several = [clip for clip in shown if clip.count('class="this"') > 1 and 'class="lane units"' in clip]
    assert of_several, "no sample of several segments is shown"
    for clip in of_several:
        units = regions(clip.partition('class="lane units"')[2], "")
        for start_s, end_s in regions(clip, ' class="this"'):
            within = [unit for unit in units if start_s - 0.01 <= unit[0] < end_s - 0.01]
            assert within[0][0] == pytest.approx(start_s, abs=0.01)
            assert within[-1][1] == pytest.approx(end_s, abs=0.1)


def test_aligned_words_stand_under_their_segment(run_copy, tmp_path):
    stage = Stage(str(run_copy), WORDS, {}, {})
    with stage.begin():
        for uri in part_uris(str(run_copy)):
            rows = [
                {name: row.get(name) for name in WORDS_SCHEMA.names}
                | {
                    "words": [
                        {"word": "first", "start_s": 0.0, "end_s": 0.5},
                        {"word": "last", "start_s": 1.0, "end_s": 1.5},
                    ]
                }
                for row in read_part(uri).to_pylist()
            ]
            path = storage.join(stage.uri, uri.rpartition("/")[2])
            parquet.write(path, pa.Table.from_pylist(rows, WORDS_SCHEMA))
        stage.finish(StageCounts(Tally(), Tally()), [], "output")
    report_of(run_copy, tmp_path / "report")
    assert '<span dir="auto">first last</span>' in (tmp_path / "report" / "listening.html").read_text()


def test_names_from_outside_stay_text(make_run: Callable[..., Path], tmp_path):
    run = make_run(HOSTILE)
    report_of(run, tmp_path / "report", clips=20)
    for name, _ in PAGES:
        page = tmp_path / "report" / f"{name}.html"
        assert not Found(page).running, name
        assert all(image.startswith("pictures/clip-") for image in Found(page).images), name
        assert not re.search("[\x00-\x09\x0b-\x1f\x7f\u202a-\u202e\u2066-\u2069]", page.read_text()), name
    listening = (tmp_path / "report" / "listening.html").read_text()
    assert "&lt;img src=x onerror=document.title=1&gt;" in listening, "the name is not shown at all"
    assert "cod.exe" in listening


def test_without_audio_there_is_none_and_that_of_before_goes(small_run, tmp_path):
    report_of(small_run, tmp_path, clips=1)
    assert list(tmp_path.rglob("clip-*"))
    report_of(small_run, tmp_path, clips=1, has_audio=False)
    assert not list(tmp_path.rglob("clip-*"))
    assert "the report was made without audio" in (tmp_path / "listening.html").read_text()


def test_files_of_others_in_the_folder_stay(small_run, tmp_path):
    (tmp_path / "audio").mkdir()
    (tmp_path / "audio" / "mine.wav").write_bytes(b"mine")
    report_of(small_run, tmp_path, clips=0)
    assert (tmp_path / "audio" / "mine.wav").read_bytes() == b"mine"


def test_the_audio_stays_below_its_limit_and_the_rest_is_named(small_run, tmp_path):
    report_of(small_run, tmp_path, max_audio_mb=0.2)
    sizes = [path.stat().st_size for path in tmp_path.rglob("*.flac")]
    assert 0 < sum(sizes) <= 200_000
    assert "limit of audio is reached" in (tmp_path / "listening.html").read_text()


def test_the_same_seed_gives_the_same_pages(small_run, tmp_path):
    for name in ("one", "other"):
        report_of(small_run, tmp_path / name, clips=2, seed=3)
    one, other = (
        re.sub(r"made [\d: -]+", "", (tmp_path / name / "listening.html").read_text()) for name in ("one", "other")
    )
    assert one == other


def test_a_report_can_lie_on_s3(small_run, s3_folder):
    report_of(small_run, f"{s3_folder}/report", clips=1)
    names = storage.list_files(f"{s3_folder}/report")
    assert {f"{name}.html" for name, _ in PAGES} <= set(names)
    assert any(name.startswith("audio/clip-") for name in names)


def test_an_unfinished_run_has_pages_that_say_what_to_do(run_copy, tmp_path):
    for stage in ("segments", "units", "shards"):
        (run_copy / stage / "DONE").unlink()
    report_of(run_copy, tmp_path / "report")
    assert "twist segment" in (tmp_path / "report" / "segments.html").read_text()
    assert "twist pack" in (tmp_path / "report" / "units.html").read_text()
    (run_copy / "manifest" / "DONE").unlink()
    with pytest.raises(TwistError, match="no finished manifest"):
        report_of(run_copy, tmp_path / "other")


def test_audio_that_is_gone_costs_its_clip(make_run: Callable[..., Path], tmp_path):
    run = make_run([("a.wav", "a", 6.0, 1), ("b.wav", "b", 6.0, 2), ("c.wav", "c", 6.0, 3)])
    (run.parent / "sounds" / "a.wav").unlink()
    report_of(run, tmp_path / "report")
    page = (tmp_path / "report" / "listening.html").read_text()
    assert "cannot be read: missing" in page
    assert "<audio" in page


def test_a_written_clip_has_the_samples_and_two_pictures(tmp_path):
    wav = np.sin(np.arange(8000) / 10).astype(np.float32) / 2
    heard = ClipWriter(str(tmp_path), 10**6).write(wav)
    read, rate_hz = soundfile.read(tmp_path / heard.audio, dtype="float32")
    assert rate_hz == SAMPLE_RATE_HZ
    np.testing.assert_allclose(read, wav, atol=1e-4)
    assert all((tmp_path / path).read_bytes().startswith(b"\x89PNG") for path in (heard.wave, heard.mel))


@pytest.mark.parametrize("num_samples", [1, 10, 999, 1001])
def test_the_shortest_audio_has_pictures(tmp_path, num_samples):
    assert ClipWriter(str(tmp_path), 10**6).write(np.zeros(num_samples, np.float32)).mel


def test_units_lie_where_their_frames_do():
    blocks = unit_blocks([3, 1, 2], [1, 2, 4], 25.0, ["#000000"] * 4, 1.0, 1.2)
    assert [(block.unit, round(block.start_s, 2), round(block.end_s, 2)) for block in blocks] == [
        (3, 1.0, 1.04),
        (1, 1.04, 1.12),
        (2, 1.12, 1.2),
    ]
