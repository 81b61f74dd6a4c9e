from __future__ import annotations

import json

import soundfile

from pipeline.shards import open_dataset


def test_from_a_sample_key_back_to_its_audio(twist, finished_run, tmp_path):
    row = open_dataset(str(finished_run / "shards")).row(0)
    played = tmp_path / "clip.wav"
    printed = twist("trace", row["key"], "--run", finished_run, "--play-to", played).stdout
    assert row["segment_id"] in printed and row["shard"] in printed
    info = soundfile.info(played)
    assert info.samplerate == 16_000 and abs(info.duration - row["duration_s"]) < 0.01


def test_json_has_every_segment(twist, finished_run):
    recording_id = open_dataset(str(finished_run / "shards")).row(0)["segment_id"].rpartition("#")[0]
    traced = json.loads(twist("trace", recording_id, "--run", finished_run, "--json").stdout)
    assert traced["recording"]["recording_id"] == recording_id and traced["segments"]


def test_an_unknown_name_is_a_mistake(twist, finished_run):
    assert "nearest names" in twist("trace", "speech/nothing", "--run", finished_run, status=2).stderr
