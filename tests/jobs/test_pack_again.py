"""`twist pack --again`: other shards of the same units, without deleting anything by hand."""

from __future__ import annotations

import shutil

import pytest

from pipeline.files import storage


@pytest.mark.parametrize("is_killed", [False, True])
def test_packing_again_equals_packing_anew(is_killed, finished_copy, shard_files, twist, tmp_path, monkeypatch):
    other = ("--pack.seed", 7)
    anew = shutil.copytree(finished_copy, tmp_path / "anew", ignore=lambda _, names: {"shards"} & set(names))
    twist("pack", "--run", anew, *other)
    assert "seed was 0, is 7" in twist("pack", "--run", finished_copy, *other, status=2).stderr
    if is_killed:
        delete, deleted = storage.delete, []

        def delete_two(uri):
            if len(deleted) == 2:
                raise KeyboardInterrupt
            deleted.append(uri)
            delete(uri)

        with monkeypatch.context() as patch:
            patch.setattr(storage, "delete", delete_two)
            twist("pack", "--run", finished_copy, "--again", *other, status=130)
        assert not (finished_copy / "shards" / "DONE").exists()
        twist("pack", "--run", finished_copy, *other)
    else:
        twist("pack", "--run", finished_copy, "--again", *other)
    assert shard_files(finished_copy) == shard_files(anew)
