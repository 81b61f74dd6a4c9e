"""Pitch tokenizers: batched = alone, the published layout against an independent implementation, what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from model.pitch.checkpoint import load_pitch_model, save_pitch_model
from model.pitch.contour import Contour, extract, features_of
from model.pitch.model_config import PitchModelConfig
from model.pitch.tokenizer import PitchTokenizer, load_pitch_tokenizer
from model.pitch.vqvae import PitchVQVAE
from pipeline.errors import TwistError
from tests.model import published_pitch
from tests.model.pitch.test_contour import gliding, has_yaapt, voice


def random_contour(num_frames: int, seed: int) -> Contour:
    generator = np.random.default_rng(seed)
    f0 = (150 + 60 * np.sin(np.arange(num_frames) / 30 + seed) + generator.standard_normal(num_frames)).astype("f4")
    f0[generator.random(num_frames) < 0.3] = 0
    return Contour(f0, f0 > 0)


@pytest.fixture
def tokenizer(tmp_path: Path) -> PitchTokenizer:
    published_pitch.write(tmp_path)
    return load_pitch_tokenizer(str(tmp_path), "nccf")


@pytest.mark.parametrize("num_frames", [16, 31, 208, 1827])
@pytest.mark.parametrize("features", ["norm_f0_interp,vuv", "norm_f0,vuv", "f0_interp,vuv", "f0, vuv"])
def test_the_published_layout_gives_the_codes_of_its_description(
    tmp_path: Path, num_frames: int, features: str
) -> None:
    state = published_pitch.write(tmp_path, num_frames, {**published_pitch.CONFIG, "features": features})
    tokenizer = load_pitch_tokenizer(str(tmp_path), "nccf")
    contour = random_contour(num_frames, 1)
    codes = tokenizer.codes_of_contour(contour)
    seen = features_of(contour, features.replace(" ", "")).astype(np.float64)  # type: ignore[arg-type]
    np.testing.assert_array_equal(codes, published_pitch.encode(state, seen))
    assert len(codes) == num_frames // 16
    f0, voicing = published_pitch.decode(state, codes)
    made = tokenizer.contour(codes, mean_hz=100.0)
    np.testing.assert_allclose(made.f0, f0 + 100.0, rtol=1e-3, atol=np.abs(f0).max() * 1e-4)
    is_clear = np.abs(voicing - 0.5) > 1e-3 * np.abs(voicing).max()
    np.testing.assert_array_equal(made.is_voiced[is_clear], voicing[is_clear] >= 0.5)


def test_random_codes_are_many(tokenizer: PitchTokenizer) -> None:
    codes = np.concatenate([tokenizer.codes_of_contour(random_contour(1827, seed)) for seed in range(3)])
    assert len(np.unique(codes)) > 3, "or the comparison above would say little"


def test_the_published_size() -> None:
    model = PitchVQVAE(PitchModelConfig())
    assert sum(weight.numel() for weight in model.parameters()) == 200_194
    assert model.codebook.numel() == 8_192
    assert {name: tuple(w.shape) for name, w in model.state_dict().items()} == published_pitch.shapes()


def test_a_clip_has_the_same_codes_in_every_batch(tokenizer: PitchTokenizer) -> None:
    lengths = [16_000, 40_000, 1280, 1279, 23_456]
    clips = [voice(gliding(90 + 20 * n, 200 + 30 * n, length / 16_000), n) for n, length in enumerate(lengths)]
    batched = tokenizer.codes([torch.from_numpy(clip) for clip in clips])
    for number, (clip, codes) in enumerate(zip(clips, batched, strict=True)):
        (alone,) = tokenizer.codes([torch.from_numpy(clip)])
        assert codes.dtype == torch.int64 and torch.equal(codes, alone), f"clip {number}"
        assert len(codes) == lengths[number] // 1280
        assert ((codes >= 0) & (codes < 64)).all()


def test_speech_without_a_voiced_frame_has_codes(tokenizer: PitchTokenizer) -> None:
    (codes,) = tokenizer.codes([torch.zeros(16_000)])
    zeros = Contour(np.zeros(200, np.float32), np.zeros(200, np.bool_))
    np.testing.assert_array_equal(codes.numpy(), tokenizer.codes_of_contour(zeros))
    assert len(codes) == 12


def test_a_mean_may_be_given(tokenizer: PitchTokenizer) -> None:
    wav = torch.from_numpy(voice(gliding(100, 200, 1.0)))
    own_mean_hz = extract(wav.numpy(), "nccf").mean_hz
    (by_itself,), (given,) = tokenizer.codes([wav]), tokenizer.codes([wav], [own_mean_hz])
    (other,) = tokenizer.codes([wav], [900.0])
    assert torch.equal(by_itself, given) and not torch.equal(by_itself, other)


def test_rates(tokenizer: PitchTokenizer) -> None:
    assert (tokenizer.rate_hz, tokenizer.num_codes, tokenizer.hop_samples) == (12.5, 64, 1280)


def test_a_saved_tokenizer_is_the_same(tokenizer: PitchTokenizer, tmp_path: Path) -> None:
    folder = tmp_path / "ours"
    folder.mkdir()
    save_pitch_model(tokenizer.model, folder)
    again = load_pitch_tokenizer(str(folder), "nccf")
    assert again.fingerprint == tokenizer.fingerprint, "the layout is no part of it"
    contour = random_contour(1000, 3)
    np.testing.assert_array_equal(again.codes_of_contour(contour), tokenizer.codes_of_contour(contour))


@pytest.mark.skipif(not has_yaapt(), reason="the extra pitch")
def test_fingerprints_tell_weights_and_extractors_apart(tokenizer: PitchTokenizer, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    published_pitch.write(other, seed=1)
    prints = {load_pitch_tokenizer(str(other), "nccf").fingerprint, tokenizer.fingerprint}
    published = load_pitch_tokenizer(str(tmp_path))
    assert published.extractor == "yaapt", "what the published tokenizer was trained on"
    assert len({*prints, published.fingerprint}) == 3


def changed(path: str, value: Any) -> dict[str, Any]:
    """The published config with one value changed."""
    config = json.loads(json.dumps(published_pitch.CONFIG))
    *sections, key = path.split(".")
    inner = config
    for section in sections:
        inner = inner[section]
    inner[key] = value
    return config


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        ("features", "f0", "features is 'f0'"),
        ("vq_params.levels", 2, "levels: 2, which is not supported"),
        ("encoder_params.strides_t", [3], "strides_t: \\[3\\], which is not supported"),
        ("encoder_params.attention", 4, "attention: 4, which is not supported"),
        ("encoder_params.input_emb_width", 1, "input_emb_width: 1"),
        ("decoder_params.depth", 3, "differ in depth"),
        ("encoder_params", {}, "lacks"),
        ("encoder_params", None, "no config of a published pitch tokenizer"),
        ("vq_params.l_bins", 10**9, "num_codes is 1000000000"),
        ("vq_params.l_bins", 32, "not of the shape that its config says"),
    ],
)
def test_published_configs_that_cannot_be_followed_are_refused(
    tmp_path: Path, path: str, value: Any, words: str
) -> None:
    published_pitch.write(tmp_path, config=changed(path, value))
    with pytest.raises(TwistError, match=words):
        load_pitch_model(tmp_path)


def test_hostile_configs_are_refused(tmp_path: Path) -> None:
    published_pitch.write(tmp_path)
    expanding = "b0: &b0 [x, x]\n" + "".join(f"b{n}: &b{n} [*b{n - 1}, *b{n - 1}]\n" for n in range(1, 18))
    for text in (expanding, "!!python/object/apply:os.system ['true']", "[" * 5000, "- 1", "\x00"):
        (tmp_path / "config.yaml").write_text(text)
        with pytest.raises(TwistError, match=r"config\.yaml"):
            load_pitch_model(tmp_path)


def test_code_in_a_published_file_is_not_executed(tmp_path: Path) -> None:
    published_pitch.write(tmp_path)
    mark = tmp_path / "executed"
    torch.save({"model": _Executes(mark)}, tmp_path / "model.pt")
    with pytest.raises(TwistError, match=r"model\.pt"):
        load_pitch_model(tmp_path)
    assert not mark.exists()


class _Executes:
    def __init__(self, mark: Path) -> None:
        self._mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self._mark,))


def test_missing_and_damaged_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(TwistError, match=r"neither config\.json nor config\.yaml"):
        load_pitch_model(tmp_path)
    state = published_pitch.write(tmp_path)
    torch.save({"generator": {}}, tmp_path / "model.pt")
    with pytest.raises(TwistError, match="no state named model"):
        load_pitch_model(tmp_path)
    weights = {name: torch.from_numpy(value).float() for name, value in state.items()}
    del weights["decoder.out.bias"]
    torch.save({"model": weights}, tmp_path / "model.pt")
    with pytest.raises(TwistError, match=r"lacks decoder\.out\.bias"):
        load_pitch_model(tmp_path)
    ours = tmp_path / "ours"
    ours.mkdir()
    save_pitch_model(PitchVQVAE(PitchModelConfig()), ours)
    (ours / "config.json").write_text(json.dumps({**PitchModelConfig().to_json(), "downs": 3}))
    with pytest.raises(TwistError, match="'downs' is no setting"):
        load_pitch_model(ours)
    (ours / "config.json").write_text(yaml.safe_dump({"width": 3}))
    with pytest.raises(TwistError, match="cannot be read"):
        load_pitch_model(ours)
    (ours / "config.json").write_text("{}")
    (ours / "model.safetensors").write_bytes(b"no tensors")
    with pytest.raises(TwistError, match="is damaged"):
        load_pitch_model(ours)
