from __future__ import annotations

import io
import json
import tarfile
import tempfile
import unicodedata
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.corpora import webdataset
from pipeline.corpora.source import AudioFile, CorpusConfig, CorpusError, Notice
from pipeline.files import storage
from pipeline.files.audio_uri import open_read

if TYPE_CHECKING:
    from collections.abc import Iterable

Content = bytes | tuple[bytes, str]  # the bytes of a file, or the type and target of a link


def tar(members: Iterable[tuple[str, Content]]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as file:
        for name, content in members:
            info = tarfile.TarInfo(name)
            if isinstance(content, tuple):
                info.type, info.linkname = content
                file.addfile(info)
            else:
                info.size = len(content)
                file.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def said(**known: object) -> bytes:
    return json.dumps(known).encode()


def find(root: Path, content: bytes) -> tuple[dict[str, AudioFile], dict[str, Notice]]:
    (root / "x.tar").write_bytes(content)
    found = list(webdataset.find_recordings(CorpusConfig(str(root), "webdataset", "c")))
    files = [file for file in found if isinstance(file, AudioFile)]
    assert len({file.id for file in files}) == len(files), "an id that comes twice costs a recording"
    notices = {notice.what: notice for notice in found if isinstance(notice, Notice)}
    return {file.id.removeprefix("x/"): file for file in files}, notices


NAMES = ("a", "b.1", "b.2", "c.v1.0", "sub/d")


@given(st.permutations([*(f"{name}.ogg" for name in NAMES), *(f"{name}.json" for name in NAMES)]))
def test_members_of_a_sample_are_found_in_any_order(order: list[str]) -> None:
    members = [(name, said(speaker=name[:-5]) if name.endswith("json") else b"audio") for name in order]
    with tempfile.TemporaryDirectory() as folder:
        files, notices = find(Path(folder), tar(members))
    assert {name: file.speaker for name, file in files.items()} == {f"{name}.ogg": name for name in NAMES}
    assert not notices


def test_what_descriptions_say(tmp_path: Path) -> None:
    files, notices = find(
        tmp_path,
        tar(
            [
                ("a.ogg", b"1"),
                ("b.left.ogg", b"2"),
                ("b.right.ogg", b"3"),
                ("a.JSON", said(Lang="de", client_id=7, Duration_MS=1500, dialect="x")),
                ("b.json", said(language="en", split="dev")),
                ("b.right.txt", "café".encode("latin-1")),
            ]
        ),
    )
    a, left, right = (files[name] for name in ("a.ogg", "b.left.ogg", "b.right.ogg"))
    assert (a.language, a.speaker, a.duration_s) == ("de", "7", 1.5)
    assert (left.language, left.split, left.text) == ("en", "validation", None)
    assert (right.language, right.text) == ("en", "café")
    assert not notices


def test_what_belongs_to_no_audio_is_noticed(tmp_path: Path) -> None:
    members = [("a.ogg", b"1"), ("a.json", said(speaker_name_id=1)), ("z.json", said()), ("y.txt", b"x")]
    _, notices = find(tmp_path, tar([*members, ("b.ogg", b"2"), ("b.json", b"{never closed")]))
    assert {what: notice.count for what, notice in notices.items()} == {
        "description_without_audio": 2,
        "unused_column": 1,
        "unreadable_description": 1,
    }
    assert "z.json in" in notices["description_without_audio"].example


@pytest.mark.parametrize("forms", [("NFD", "NFC"), ("NFC", "NFD")])
def test_letters_with_accents(forms: tuple[str, str], tmp_path: Path) -> None:
    audio, description = (unicodedata.normalize(form, "Zoë.é") for form in forms)
    files, notices = find(tmp_path, tar([(f"{audio}.ogg", b"1"), (f"{description}.json", said(language="fr"))]))
    assert [file.language for file in files.values()] == ["fr"]
    assert not notices


def test_names_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    members = [(f"a{number}.ogg", b"1") for number in range(3)] + [(f"b{number}.json", said()) for number in range(3)]
    with pytest.raises(CorpusError, match=r"descriptions in .* 'b0\.json', only 0 .* 3 files, e\.g\. 'a0\.ogg'"):
        find(tmp_path, tar(members))


def test_a_readme_is_no_reason_to_refuse(tmp_path: Path) -> None:
    files, notices = find(tmp_path, tar([*((f"{n}.ogg", b"1") for n in range(5)), ("README.txt", b"x")]))
    assert len(files) == 5 and notices["description_without_audio"].count == 1


def test_tars_behind_one_another(tmp_path: Path) -> None:
    """Also where names come twice: each audio has the description of its own part."""
    parts = [
        tar(
            [(f"{n}.ogg", f"{part}{n}".encode()) for n in range(3)]
            + [(f"{n}.json", said(speaker=f"{part}{n}")) for n in range(3)]
        )
        for part in "pqr"
    ]
    files, _ = find(tmp_path, b"".join([*parts[:2], bytes(5 * 512), parts[2], bytes(4096)]))
    assert len(files) == 9
    for file in files.values():
        with open_read(file.uri) as audio:
            assert audio.read().decode() == file.speaker


def test_what_is_behind_an_end_mark_and_no_tar_is_damage(tmp_path: Path) -> None:
    files, _ = find(tmp_path, tar([("a.ogg", b"1")]) + b"garbage" * 1000)
    assert files["a.ogg"].drop_reason is None
    assert files["x.tar"].drop_reason == "unreadable"


HARD, SYMBOLIC = tarfile.LNKTYPE, tarfile.SYMTYPE


def test_links(tmp_path: Path) -> None:
    files, _ = find(
        tmp_path,
        tar(
            [
                ("sub/early.ogg", (SYMBOLIC, "../a.ogg")),
                ("a.ogg", b"audio"),
                ("hard.ogg", (HARD, "./a.ogg")),
                ("chain.ogg", (SYMBOLIC, "sub/early.ogg")),
                ("out.ogg", (SYMBOLIC, "/etc/passwd")),
                ("up.ogg", (SYMBOLIC, "../../a.ogg")),
                ("dangling.ogg", (SYMBOLIC, "gone.ogg")),
                ("circle.ogg", (SYMBOLIC, "circle.ogg")),
                ("hard.json", (HARD, "early.json")),
                ("early.json", said(speaker="s")),
            ]
        ),
    )
    for name in ("sub/early.ogg", "a.ogg", "hard.ogg", "chain.ogg"):
        assert files[name].drop_reason is None
        with open_read(files[name].uri) as audio:
            assert audio.read() == b"audio", name
    assert files["hard.ogg"].speaker == "s"
    for name in ("out.ogg", "up.ogg", "dangling.ogg", "circle.ogg"):
        assert files[name].drop_reason == "bad_link" and "no file of the tar" in files[name].drop_detail


def test_on_s3(s3_folder: str) -> None:
    content = tar([("a.ogg", b"1"), ("b.ogg", (HARD, "a.ogg"))]) + tar([("c.ogg", b"3"), ("a.json", said(speaker="s"))])
    storage.write_bytes(f"{s3_folder}/data/x.tar", content)
    found = list(webdataset.find_recordings(CorpusConfig(f"{s3_folder}/data", "webdataset", "c")))
    assert sorted(file.id for file in found if isinstance(file, AudioFile)) == ["x/a.ogg", "x/b.ogg", "x/c.ogg"]
