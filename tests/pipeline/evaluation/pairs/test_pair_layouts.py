"""Layouts of benchmarks of pairs: which files are paired, and what is told of those that are not."""

from __future__ import annotations

import pytest

from pipeline.errors import TwistError
from pipeline.evaluation.pairs import pair_files, salmon
from pipeline.evaluation.pairs.numbered_pairs import numbered_pairs, one_folder_of_pairs


def touch(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def names_of(pairs):
    return [(pair.positive.item_id, pair.negative.item_id) for pair in pairs]


def test_stories_are_paired_by_number_and_not_by_the_order_of_names(tmp_path):
    touch(tmp_path, "10_a.wav", "11_b.wav", "2_c.wav", "3_d.wav", "2_c.txt", "7_e.wav", "notes.wav")
    pairs, unpaired = numbered_pairs(str(tmp_path), "_")
    assert names_of(pairs) == [("2_c.wav", "3_d.wav"), ("10_a.wav", "11_b.wav")]
    assert [(one.item_id, one.detail) for one in unpaired] == [("6", "there is no number 6")]


def test_two_files_of_one_number_are_refused(tmp_path):
    touch(tmp_path, "0_a.wav", "0_b.wav", "1_c.wav")
    with pytest.raises(TwistError, match=r"two files of number 0: 0_[ab]\.wav and 0_[ab]\.wav"):
        numbered_pairs(str(tmp_path), "_")


def test_a_folder_without_numbers_says_what_is_looked_for(tmp_path):
    touch(tmp_path, "a.wav")
    with pytest.raises(TwistError, match="no audio files named <number>_<anything>"):
        numbered_pairs(str(tmp_path), "_")


def test_two_sets_beside_each_other_are_not_one(tmp_path):
    """The folder above sSC and tSC would give the pairs of both under the name of one."""
    touch(tmp_path, "sSC/0_a.wav", "sSC/1_a.wav")
    assert names_of(one_folder_of_pairs(str(tmp_path), "_")[0]) == [("sSC/0_a.wav", "sSC/1_a.wav")]
    touch(tmp_path, "tSC/0_a.wav", "tSC/1_a.wav")
    assert len(numbered_pairs(str(tmp_path), "_")[0]) == 2
    with pytest.raises(TwistError, match=r"pairs in several folders \(sSC, tSC\): name one of them"):
        one_folder_of_pairs(str(tmp_path), "_")


def test_salmons_parts(tmp_path):
    touch(tmp_path, "gender_consistency/sample_3_0.wav", "gender_consistency/sample_3_1.wav")
    touch(tmp_path, "bg_alignment/sample_0_0.wav", "bg_alignment/readme.md")
    pairs, left_out = salmon.read_pairs(str(tmp_path))
    assert names_of(pairs) == [("gender_consistency/sample_3_0.wav", "gender_consistency/sample_3_1.wav")]
    assert pairs[0].facts == {"part": "gender_consistency"}
    told = {one.item_id: one.reason for one in left_out}
    assert told["bg_alignment/0"] == "unpaired"
    assert told["speaker_consistency"] == "missing"
    with pytest.raises(TwistError, match="none of SALMon's parts: what is looked for are sentiment_consistency"):
        salmon.read_pairs(str(tmp_path / "bg_alignment"))


def test_two_folders_of_equal_names(tmp_path):
    touch(tmp_path, "positive/x/a.wav", "negative/x/a.flac", "positive/b.wav", "negative/c.wav")
    pairs, unpaired = pair_files.read_pairs(str(tmp_path))
    assert names_of(pairs) == [("positive/x/a", "negative/x/a")]
    assert [(one.item_id, one.detail) for one in unpaired] == [
        ("b", "there is no negative/b"),
        ("c", "there is no positive/c"),
    ]


def test_two_files_that_one_twin_could_have_are_refused(tmp_path):
    touch(tmp_path, "positive/a.wav", "positive/a.flac", "negative/a.wav")
    with pytest.raises(TwistError, match=r"two files of one name in positive/: a\.flac and a\.wav"):
        pair_files.read_pairs(str(tmp_path))


def test_a_table_of_pairs(tmp_path):
    table = tmp_path / "pairs.csv"
    table.write_text("id,positive,negative,group\nx,a.wav,s3://bucket/b.wav,g\ny,a.wav,/mnt/c.wav,g\nz,,d.wav,\n")
    pairs, unpaired = pair_files.read_pairs(str(table))
    assert [(pair.pair_id, pair.group) for pair in pairs] == [("x", "g"), ("y", "g")]
    assert (pairs[0].positive.uri, pairs[0].negative.uri) == (str(tmp_path / "a.wav"), "s3://bucket/b.wav")
    assert pairs[1].negative.uri == "/mnt/c.wav"
    assert [(one.item_id, one.detail) for one in unpaired] == [("z", "line 4 has no positive")]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("good,bad\na,b\n", "lacks the columns positive, negative; it has good, bad"),
        ("id,positive,negative\n1,a,b\n1,c,d\n", "line 3: the id 1 was there before"),
        ("id,positive,negative\n1,a\n", "line 2: it has 2 fields; the first line names 3"),
        ('positive,negative\n"a\nb",c,d\n', "line 3: it has 3 fields"),
        ("positive,negative\na,b\nc,in/../../d\n", r"line 3: the path 'in/../../d' leaves the folder"),
    ],
)
def test_a_table_that_cannot_be_used_is_told(tmp_path, content, says):
    (tmp_path / "pairs.csv").write_text(content)
    with pytest.raises(TwistError, match=says):
        pair_files.read_pairs(str(tmp_path / "pairs.csv"))
    with pytest.raises(TwistError, match="there is no table"):
        pair_files.read_pairs(str(tmp_path / "none.csv"))
