"""twist evaluate mmos: a study of tiny models, its page, and scores from answers as raters and MTurk give them."""

from __future__ import annotations

import csv
import html.parser
import itertools
import json
import re
import shutil
import subprocess
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from model.artefacts import resolve
from model.lm.vocab import Vocabulary
from pipeline.evaluation.mmos.statistics import mean_opinion
from pipeline.synthetic.espeak import synthesize

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tests.jobs.conftest import Twist

CODEBOOK = "hubert-tiny-25hz-km100"
SENTENCES = (
    "The river had risen in the night, and the road to the mill was under water until the afternoon, they said.",
    "Nobody in the village could say who had left the gate open, although everyone had heard the dogs bark.",
    "She counted the letters twice, put them back into the drawer, and went out to look for her brother's boat.",
)
SYSTEMS = ["original", "resynthesis", "good", "bad"]
OPT = {
    "hidden_size": 16,
    "word_embed_proj_dim": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "ffn_dim": 32,
    "max_position_embeddings": 1024,
}


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two sets of recordings, two speech LMs and two anchors."""
    folder = tmp_path_factory.mktemp("material")
    for set_name, voice in (("books", "en-us+f2"), ("talks", "en-us+m3")):
        (folder / set_name).mkdir()
        for number, sentence in enumerate(SENTENCES):
            wav, rate_hz = synthesize(sentence, voice)
            soundfile.write(folder / set_name / f"{number}.wav", wav, rate_hz)
        soundfile.write(folder / set_name / "short.wav", wav[:rate_hz], rate_hz)
        (folder / set_name / "broken.wav").write_bytes(b"no audio")
    fingerprint = json.loads(Path(resolve(CODEBOOK), "codebook.json").read_text())["fingerprint"]
    for seed, name in enumerate(("good", "bad")):
        torch.manual_seed(seed)
        vocabulary = Vocabulary(100, codebook_fingerprint=fingerprint)
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model("opt", **OPT, **vocabulary.as_config()))
        model.save_pretrained(folder / name)
    for name in ("clean", "noise"):
        soundfile.write(folder / f"{name}.wav", np.random.default_rng(0).normal(0, 0.1, 16_000), 16_000)
    (folder / "anchors.csv").write_text("path,score\nclean.wav,5\nnoise.wav,1.5\n")
    return folder


def command(material: Path, output: Path) -> list[object]:
    return [
        *("evaluate", "mmos", "prepare", "--sets", material / "books", f"spoken={material / 'talks'}"),
        *("--models", material / "good", f"bad={material / 'bad'}", "--codebook", CODEBOOK),
        *("--anchors", material / "anchors.csv", "--num-clips", 2, "--min-duration-sec", 4, "--clips-per-part", 6),
        *("--prompt-duration-sec", 3, "--continuation-duration-sec", 2, "--device", "cpu", "--output", output),
    ]


@pytest.fixture(scope="module")
def study(material: Path, twist: Twist, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study; tests only read it."""
    output = tmp_path_factory.mktemp("mmos") / "study"
    twist(*command(material, output))
    return output


@pytest.fixture
def study_copy(study: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(study, tmp_path / "study"))


def key_of(study: Path) -> list[dict[str, str]]:
    with (study / "key.csv").open(newline="") as file:
        return list(csv.DictReader(file))


class Page(html.parser.HTMLParser):
    """What of a page asks something of the network, and its scripts by id."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.scripts: dict[str, str] = {}
        self._script: str | None = None
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.addresses += [str(found[name]) for name in ("src", "href", "action", "srcset") if name in found]
        self._script = found.get("id") or "" if tag == "script" else None

    def handle_data(self, data: str) -> None:
        if self._script is not None:
            self.scripts[self._script] = self.scripts.get(self._script, "") + data

    def handle_endtag(self, tag: str) -> None:
        self._script = None


def test_every_recording_is_there_in_every_system(study):
    key = key_of(study)
    assert Counter(row["system"] for row in key) == {**dict.fromkeys(SYSTEMS, 4), "anchor": 2}
    assert {row["set"] for row in key} == {"books", "spoken", ""}
    by_item = itertools.groupby(sorted(key, key=lambda row: row["item"]), lambda row: row["item"])
    for item, rows in by_item:
        systems = sorted(row["system"] for row in rows)
        assert systems in (sorted(SYSTEMS), ["anchor"]), item
    assert [row["anchor_score"] for row in key if row["system"] == "anchor"] == ["5.0", "1.5"]
    assert not {Path(row["item"]).name for row in key} & {"short.wav", "broken.wav"}


def test_clips_are_as_long_as_asked_for_and_equally_loud(study):
    for row in key_of(study):
        if row["system"] == "anchor":
            continue
        wav, rate_hz = soundfile.read(study / "page" / "audio" / f"{row['clip']}.wav")
        assert 4 - 0.1 <= len(wav) / rate_hz <= 5.05, row
        assert 20 * np.log10(np.sqrt(np.mean(wav**2))) == pytest.approx(-26, abs=1.5) or np.abs(wav).max() > 0.95, row


def test_the_page_tells_nothing_and_asks_nothing_of_the_network(study):
    text = (study / "page" / "index.html").read_text()
    assert not re.search(r"https?://|url\(|@import|import\(|fetch\(|XMLHttpRequest", text)
    page = Page(text)
    assert page.addresses == []
    told = json.loads(page.scripts["study"])
    assert told["study"] == json.loads((study / "study.json").read_text())["fingerprint"]
    clips = {row["clip"] for row in key_of(study)}
    assert {path.stem for path in (study / "page" / "audio").iterdir()} == clips
    assert {clip for part in told["parts"] for clip in part} == clips
    for secret in ("original", "resynthesis", "good", "books", "anchor"):
        assert secret not in page.scripts["study"]
    assert sorted(path.name for path in (study / "page").iterdir()) == ["audio", "index.html", "mturk.csv"]
    # MTurk fills in what stands between dollar and braces: only the columns of its input may.
    filled = set(re.findall(r"\$\{(\w*)\}", text))
    assert filled == {"part", "audio_base"} == set((study / "page" / "mturk.csv").read_text().split("\n")[0].split(","))


def test_each_part_has_all_anchors_and_each_other_clip_is_in_one(study):
    parts = json.loads(Page((study / "page" / "index.html").read_text()).scripts["study"])["parts"]
    anchors = {row["clip"] for row in key_of(study) if row["system"] == "anchor"}
    assert len(parts) == 3
    assert all(anchors <= set(part) for part in parts)
    others = Counter(clip for part in parts for clip in part if clip not in anchors)
    assert set(others.values()) == {1}
    assert {len(part) for part in parts} == {5 + 2, 6 + 2}


def test_equal_settings_give_equal_bytes(material, study, twist, tmp_path):
    twist(*command(material, tmp_path / "again"))
    for path in sorted(study.rglob("*")):
        if path.is_file():
            assert path.read_bytes() == (tmp_path / "again" / path.relative_to(study)).read_bytes(), path


@pytest.mark.skipif(shutil.which("chromium") is None, reason="there is no chromium to open the page with")
def test_a_browser_opens_the_page(study, tmp_path):
    """Its script has run to the end: the scale is there, and the rater is asked to begin."""
    options = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", f"--user-data-dir={tmp_path}")
    page = (study / "page" / "index.html").as_uri()
    done = subprocess.run(["chromium", *options, "--dump-dom", page], capture_output=True, text=True, timeout=60)
    scale = re.findall(r'<input type="radio" name="shown" value="([\d.]+)">', done.stdout)
    assert scale == ["1", "1.5", "2", "2.5", "3", "3.5", "4", "4.5", "5"], done.stderr
    assert '<section id="start">' in done.stdout
    assert '<section id="rate" hidden="">' in done.stdout


@pytest.mark.skipif(shutil.which("node") is None, reason="there is no node to run the page's script")
def test_a_rater_can_go_through_the_page(study, tmp_path):
    """In a stand-in for a browser: nothing is rated before it was heard, all is kept, and the answers are whole."""
    page = Page((study / "page" / "index.html").read_text())
    driver = Path(__file__).with_name("rate_in_node.js").read_text()
    script = tmp_path / "page.js"
    script.write_text(
        driver.replace("/*STUDY*/", json.dumps(page.scripts["study"])).replace("/*PAGE*/", page.scripts[""])
    )
    done = subprocess.run(["node", script], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    parts = json.loads(page.scripts["study"])["parts"]
    assert not told["rated_unheard"]
    assert sorted(told["first_order"]) == sorted(told["second_order"])
    assert sorted(told["first_order"]) in [sorted(part) for part in parts]
    assert told["first_order"] != told["second_order"], "two raters have one order"
    assert told["resumed_at"] == told["left_at"] == 2
    rows = list(csv.DictReader(told["answers"].splitlines()))
    assert {row["rater"] for row in rows} == {'A "B", C'}
    assert sorted(row["clip"] for row in rows) == sorted(told["first_order"])
    assert {row["score"] for row in rows} == {"3.5"}
    assert told["mturk"]["ratings"].count(":") == len(parts[1])
    assert told["mturk"]["part"] == 2
    assert told["mturk"]["action"].endswith("/mturk/externalSubmit")


def write_own(path: Path, study: str, scores: Iterable[tuple[str, str, float]]) -> Path:
    lines = [f'{study},"{rater}",{clip},{score:g}' for rater, clip, score in scores]
    path.write_text("\r\n".join(["study,rater,clip,score", *lines, ""]))
    return path


def drawn_scores(study: Path, raters: Iterable[str], seed: int = 0) -> list[tuple[str, str, float]]:
    """Raters who agree that models are worse than people, and know the anchors."""
    rng = np.random.default_rng(seed)
    true = {"original": 4.5, "resynthesis": 4.0, "good": 3.0, "bad": 1.5}
    scores = []
    for rater in raters:
        for row in key_of(study):
            score = true.get(row["system"]) or float(row["anchor_score"])
            scores.append((rater, row["clip"], float(np.clip(round(2 * (score + rng.normal(0, 0.3))) / 2, 1, 5))))
    return scores


def fingerprint_of(study: Path) -> str:
    return str(json.loads((study / "study.json").read_text())["fingerprint"])


def test_scores_are_those_of_the_statistics(study_copy, twist, tmp_path):
    given = drawn_scores(study_copy, "ABCDE")
    answers = write_own(tmp_path / "a.csv", fingerprint_of(study_copy), given)
    told = json.loads(twist("evaluate", "mmos", "score", answers, "--study", study_copy, "--json").stdout)
    assert told == json.loads((study_copy / "scores.json").read_text())
    key = {row["clip"]: row for row in key_of(study_copy)}
    assert [(one["set"], one["system"]) for one in told["opinions"]] == [
        (name, system) for name in ("books", "spoken", "all") for system in SYSTEMS
    ]
    rows = pq.read_table(study_copy / "scores.parquet").to_pylist()
    assert {(row["rater"], row["clip"], row["score"]) for row in rows} == set(given)
    for one in told["opinions"]:
        counted = [
            row
            for row in rows
            if row["counts"] and row["system"] == one["system"] and one["set"] in ("all", row["set"])
        ]
        clips = sorted({row["clip"] for row in counted})
        raters = sorted({row["rater"] for row in counted})
        scores = np.full((len(raters), len(clips)), np.nan)
        for row in counted:
            scores[raters.index(row["rater"]), clips.index(row["clip"])] = row["score"]
        assert one["mean"] == pytest.approx(np.nanmean(scores))
        assert one["half_interval"] == pytest.approx(mean_opinion(scores).half_interval)
        assert all(key[clip]["system"] == one["system"] for clip in clips)
    assert all(rater["anchor_error"] < 0.5 and not rater["left_out"] for rater in told["raters"])
    text = twist("evaluate", "mmos", "score", answers, "--study", study_copy).stdout
    assert re.search(r"books +original +4\.\d\d ± \d\.\d\d", text), text


def test_mturk_s_answers_are_the_same_as_the_page_s(study_copy, twist, tmp_path):
    given = drawn_scores(study_copy, "AB")
    own = write_own(tmp_path / "own.csv", fingerprint_of(study_copy), given)
    batch = tmp_path / "batch.csv"
    with batch.open("w", newline="") as file:
        writer = csv.writer(file, quoting=csv.QUOTE_ALL)
        writer.writerow(
            [
                "HITId",
                "AssignmentId",
                "WorkerId",
                "AssignmentStatus",
                "Input.part",
                "Answer.part",
                "Answer.ratings",
                "Answer.study",
            ]
        )
        for rater in "AB":
            ratings = " ".join(f"{clip}:{score:g}" for who, clip, score in given if who == rater)
            writer.writerow(["h", "a", rater, "Approved", "1", "1", ratings, fingerprint_of(study_copy)])
        writer.writerow(["h", "a", "C", "Rejected", "1", "1", ratings, fingerprint_of(study_copy)])
    score = ("evaluate", "mmos", "score")
    first = json.loads(twist(*score, own, "--study", study_copy, "--json").stdout)
    second = json.loads(twist(*score, batch, "--study", study_copy, "--json").stdout)
    assert first["opinions"] == second["opinions"]
    assert second["set_aside"] == {"of a rejected task": len(key_of(study_copy))}


def test_answers_that_do_not_count_are_counted_and_named(study_copy, twist, tmp_path):
    study = fingerprint_of(study_copy)
    given = drawn_scores(study_copy, ["A", "B", "stranger"])
    first_clip = key_of(study_copy)[0]["clip"]
    more = [("A", "0000", 3.0), ("A", first_clip, 4.0)]
    answers = write_own(tmp_path / "a.csv", study, [*given, *more])
    command = ("evaluate", "mmos", "score", answers, "--study", study_copy, "--raters", "A", "B")
    told = json.loads(twist(*command, "--json").stdout)
    assert told["set_aside"] == {
        "given anew": 1,
        "of an unknown clip": 1,
        "of an unknown rater": len(key_of(study_copy)),
    }
    assert [rater["name"] for rater in told["raters"]] == ["A", "B"]
    text = twist(*command).stdout
    assert "of an unknown clip, e.g. 0000 at line" in text
    assert "of an unknown rater, e.g. stranger at line" in text


def test_a_rater_who_rates_the_other_way_round_is_left_out(study_copy, twist, tmp_path):
    given = drawn_scores(study_copy, "ABCDEF")
    given = [(rater, clip, 6 - score if rater == "C" else score) for rater, clip, score in given]
    answers = write_own(tmp_path / "a.csv", fingerprint_of(study_copy), given)
    told = json.loads(twist("evaluate", "mmos", "score", answers, "--study", study_copy, "--json").stdout)
    left_out = {rater["name"]: rater["left_out"] for rater in told["raters"]}
    assert left_out["C"]
    assert {one["num_raters"] for one in told["opinions"]} == {6 - sum(map(bool, left_out.values()))}


def test_a_rater_s_name_steers_no_terminal(study_copy, twist, tmp_path):
    given = [("A", clip, score) for _, clip, score in drawn_scores(study_copy, "A")]
    answers = write_own(tmp_path / "a.csv", fingerprint_of(study_copy), [*given, ("\x1b[2J", given[0][1], 3.0)])
    stdout = twist("evaluate", "mmos", "score", answers, "--study", study_copy, "--raters", "A").stdout
    assert "\x1b" not in stdout
    assert r"e.g. \x1b[2J at line" in stdout


def test_agreement_about_two_systems_is_that_about_clips(study_copy, twist, tmp_path):
    """Of two means the correlation is 1 or -1, whatever was rated."""
    clips = {
        row["clip"] for row in key_of(study_copy) if row["set"] == "books" and row["system"] in ("original", "good")
    }
    given = [(rater, clip, score) for rater, clip, score in drawn_scores(study_copy, "ABC") if clip in clips]
    answers = write_own(tmp_path / "a.csv", fingerprint_of(study_copy), given)
    told = json.loads(twist("evaluate", "mmos", "score", answers, "--study", study_copy, "--json").stdout)
    assert all(0 < rater["correlation"] < 1 for rater in told["raters"])
    assert {rater["correlation_of"] for rater in told["raters"]} == {"clips"}
    text = twist("evaluate", "mmos", "score", answers, "--study", study_copy).stdout
    assert "3 raters rated too few systems: their agreement is that about clips" in text


def test_one_rater_has_a_plain_interval_and_is_told(study_copy, twist, tmp_path):
    answers = write_own(tmp_path / "a.csv", fingerprint_of(study_copy), drawn_scores(study_copy, "A"))
    text = twist("evaluate", "mmos", "score", answers, "--study", study_copy).stdout
    assert "one rater or one item" in text


@pytest.mark.parametrize(
    ("row", "sentence"),
    [
        ("{study},A,{clip},3.2", "is no score from 1 to 5 in halves"),
        ("{study},A,{clip},6", "is no score from 1 to 5 in halves"),
        ("{study},,{clip},3", "does not name its rater"),
        ("another,A,{clip},3", "answers another study"),
        ("{study},A,0000,3", "hold no score that counts: 1 of an unknown clip, e.g. 0000"),
    ],
)
def test_answers_that_cannot_be_used_are_refused(study, twist, tmp_path, row, sentence):
    filled = row.format(study=fingerprint_of(study), clip=key_of(study)[0]["clip"])
    (tmp_path / "a.csv").write_text(f"study,rater,clip,score\n{filled}\n")
    assert sentence in twist("evaluate", "mmos", "score", tmp_path / "a.csv", "--study", study, status=2).stderr


def test_what_is_no_study_or_no_answers_is_told(study, twist, tmp_path):
    assert (
        "lies on this machine's disk"
        in twist("evaluate", "mmos", "score", tmp_path / "a.csv", "--study", "s3://bucket/study", status=2).stderr
    )
    (tmp_path / "a.csv").write_text(f"study,rater,clip,score\n{'x' * 200_000},A,b,3\n")
    assert (
        "is no CSV of answers"
        in twist("evaluate", "mmos", "score", tmp_path / "a.csv", "--study", study, status=2).stderr
    )
    (tmp_path / "a.csv").write_text("a,b\n1,2\n")
    score = ("evaluate", "mmos", "score", tmp_path / "a.csv", "--study")
    assert "holds no answers: its first line names neither" in twist(*score, study, status=2).stderr
    assert "holds no study" in twist(*score, tmp_path, status=2).stderr


def test_a_study_that_cannot_be_made_says_why(material, study, twist, tmp_path):
    given = command(material, tmp_path / "s")
    assert "holds a study already" in twist(*command(material, study), status=2).stderr
    stderr = twist(*given, "--num-clips", 4, status=2).stderr
    assert "the set books" in stderr
    assert "has 3 readable recordings of 4 s or more among 5, but 4 are to be drawn" in stderr
    assert "name its codebook" in twist(*(one for one in given if one not in ("--codebook", CODEBOOK)), status=2).stderr
    stderr = twist(*given, "--models", material / "good", material / "good", status=2).stderr
    assert "two models are called 'good'" in stderr
    stderr = twist(*given, "--sets", f"all={material / 'books'}", status=2).stderr
    assert "a set cannot be called 'all', as tables call all sets together" in stderr
    assert "cannot be called 'original'" in twist(*given, "--models", f"original={material / 'good'}", status=2).stderr
    assert "min_s is 9.0" in twist(*given, "--min-duration-sec", 9, status=2).stderr
    for content, sentence in (
        ("path,score\nclean.wav,6\n", "line 2: an anchor has a path and a score from 1 to 5"),
        ("path\nclean.wav\n", "lacks the columns score"),
        ("path,score\n", "names no anchors"),
    ):
        (tmp_path / "anchors.csv").write_text(content)
        assert sentence in twist(*given, "--anchors", tmp_path / "anchors.csv", status=2).stderr
    assert "there is no table" in twist(*given, "--anchors", tmp_path / "none.csv", status=2).stderr
    assert not (tmp_path / "s" / "study.json").exists()
