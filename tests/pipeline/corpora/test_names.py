from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.corpora.names import Names, leaves_its_folder, refuse_strangers
from pipeline.corpora.source import CorpusConfig, CorpusError

# Names as they may be on a disk: no slash or NUL within a part, and no part that is a dot or two.
PARTS = st.text(
    st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="/\\\"'"), min_size=1, max_size=8
).filter(lambda part: part.strip() == part and part.strip(".") != "")
NAMES = st.lists(PARTS, min_size=1, max_size=3).map(lambda parts: "/".join(parts) + ".ogg")
# What a table may write for a name.
WAYS = {
    "as it is": lambda name: name,
    "composed": lambda name: unicodedata.normalize("NFC", name),
    "taken apart": lambda name: unicodedata.normalize("NFD", name),
    "from here": lambda name: f"./{name}",
    "with backslashes": lambda name: name.replace("/", "\\"),
    "from here, with backslashes": lambda name: ".\\" + name.replace("/", "\\"),
    "with blanks": lambda name: f"  {name} \t",
    "in quotes": lambda name: f'"{name}"',
    "with doubled slashes": lambda name: name.replace("/", "//"),
}


@given(st.sets(NAMES, min_size=1, max_size=6), st.sampled_from(sorted(WAYS)), st.data())
def test_a_file_is_found_however_a_table_writes_its_name(names: set[str], way: str, data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(sorted(names)))
    written = WAYS[way](name)
    others = {
        other for other in names - {name} if unicodedata.normalize("NFC", other) == unicodedata.normalize("NFC", name)
    }
    found = Names(names).find(written)
    assert found == name or (others and found in {None, *others}), f"{written!r} is {found!r}"


@given(st.sets(NAMES, max_size=6), st.text(max_size=12))
def test_what_is_found_is_there(names: set[str], written: str) -> None:
    found = Names(names, without_suffix=True).find(written)
    assert found is None or found in names


def test_a_name_that_may_mean_two_files_finds_neither() -> None:
    names = Names(["a/B.wav", "a/b.wav", "c.wav", "c.flac"], without_suffix=True)
    assert names.find("a/b.wav") == "a/b.wav"
    assert names.find("A/b.wav") is None
    assert names.find("c") is None
    assert names.find("C.WAV") == "c.wav"


def test_a_suffix_may_be_left_out_only_where_told() -> None:
    assert Names(["LJ001-0001.wav"], without_suffix=True).find("LJ001-0001") == "LJ001-0001.wav"
    assert Names(["LJ001-0001.wav"]).find("LJ001-0001") is None


@pytest.mark.parametrize("name", ["/a", "../a", "a/../../b", "..\\a", "a\\..\\..\\b", " /a"])
def test_names_that_leave(name: str) -> None:
    assert leaves_its_folder(name)


@pytest.mark.parametrize("name", ["a", "a/../b", "./a", "..a", "a..b/c", ""])
def test_names_that_stay(name: str) -> None:
    assert not leaves_its_folder(name)


@pytest.mark.parametrize(
    ("described", "files", "matched", "refused"),
    [(4, 4, 1, True), (4, 4, 2, False), (1000, 3, 3, False), (3, 1000, 3, False), (1, 1, 0, True), (5, 0, 0, False)],
)
def test_a_table_is_refused_where_most_of_both_sides_lacks_the_other(
    described: int, files: int, matched: int, refused: bool
) -> None:
    def refuse() -> None:
        refuse_strangers(CorpusConfig("/data/c"), "t.csv", (described, "x.wav"), (files, "a.wav"), matched)

    if not refused:
        refuse()
        return
    with pytest.raises(CorpusError, match=r"t\.csv .* corpus c do not fit: .* 'x\.wav', only .* 'a\.wav'; correct"):
        refuse()
