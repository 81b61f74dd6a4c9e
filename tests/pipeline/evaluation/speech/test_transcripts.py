"""Transcripts are made once, go on after an interruption, and name what cannot be heard."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.audio.read import AudioError
from pipeline.evaluation.speech import transcripts
from pipeline.evaluation.speech.transcripts import as_heard, transcripts_of
from pipeline.records import SAMPLE_RATE_HZ
from pipeline.work import cluster
from pipeline.work.cluster import ClusterConfig
from tests.progress import silently

IDS = [str(number) for number in range(transcripts.ITEMS_AT_ONCE + 3)]


@pytest.fixture(autouse=True)
def actors_here(monkeypatch):
    """Items are heard one after the other, by the very ears that a test gives."""
    monkeypatch.setattr(cluster, "map_actors", lambda function, items, _: map(function, items))


class Ears:
    """An ASR that hears how long audio is; breaks at the item `deaf_at`."""

    def __init__(self, fingerprint="ears", deaf_at=None):
        self.fingerprint, self.heard, self.deaf_at = fingerprint, [], deaf_at

    @property
    def settings(self):
        return {"asr": self.fingerprint}

    def __call__(self, wav):
        if len(wav) == self.deaf_at:
            raise KeyboardInterrupt
        self.heard.append(len(wav))
        return f"{len(wav)} samples"


def read(item_ids):
    return [AudioError("undecodable", "holes") if one == "2" else np.ones(int(one) + 1, np.float32) for one in item_ids]


def test_transcripts_are_made_once(tmp_path):
    ears = Ears()
    found = transcripts_of(str(tmp_path), IDS, "audio", read, ears, ClusterConfig(), silently)
    assert found.of == {one: f"{int(one) + 1} samples" for one in IDS if one != "2"}
    assert found.duration_s["5"] == 6 / SAMPLE_RATE_HZ
    assert [(one.item_id, one.reason, one.detail) for one in found.left_out] == [("2", "undecodable", "holes")]
    again = Ears()
    assert transcripts_of(str(tmp_path), IDS, "audio", read, again, ClusterConfig(), silently) == found
    assert not again.heard


@pytest.mark.parametrize(("reason", "is_retried"), [("missing", True), ("io_error", True), ("undecodable", False)])
def test_what_could_not_be_read_is_tried_again_if_that_may_have_passed(tmp_path, reason, is_retried):
    def fails(item_ids):
        return [AudioError(reason, "gone") if one == "2" else reads([one])[0] for one in item_ids]

    def reads(item_ids):
        return [np.ones(int(one) + 1, np.float32) for one in item_ids]

    before = transcripts_of(str(tmp_path), IDS, "audio", fails, Ears(), ClusterConfig(), silently)
    assert "2" not in before.of
    ears = Ears()
    found = transcripts_of(str(tmp_path), IDS, "audio", reads, ears, ClusterConfig(), silently)
    assert ("2" in found.of) == is_retried
    assert len(ears.heard) == (transcripts.ITEMS_AT_ONCE if is_retried else 0)


def test_other_audio_or_another_asr_is_heard_anew(tmp_path):
    transcripts_of(str(tmp_path), IDS, "audio", read, Ears(), ClusterConfig(), silently)
    for fingerprint, audio, ids in (("others", "audio", IDS), ("ears", "changed", IDS), ("ears", "audio", IDS[1:])):
        ears = Ears(fingerprint)
        transcripts_of(str(tmp_path), ids, audio, read, ears, ClusterConfig(), silently)
        assert ears.heard, (fingerprint, audio)


def test_an_interruption_costs_only_the_last_items(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        transcripts_of(str(tmp_path), IDS, "audio", read, Ears(deaf_at=len(IDS)), ClusterConfig(), silently)
    ears = Ears()
    whole = transcripts_of(str(tmp_path), IDS, "audio", read, ears, ClusterConfig(), silently)
    assert ears.heard == [transcripts.ITEMS_AT_ONCE + number for number in (1, 2, 3)]
    assert set(whole.of) == set(IDS) - {"2"}


def test_a_silent_voice_is_heard_as_silence():
    assert len(as_heard(np.ones(22_050, np.float32), 22_050)) == SAMPLE_RATE_HZ
    for num_samples in (22_050, 0):
        silence = as_heard(np.zeros(num_samples, np.float32), 22_050)
        assert isinstance(silence, np.ndarray)
        assert len(silence)
        assert not silence.any()
