"""The vocoder: as the published layout, batched = alone, streamed = in one piece, and its files."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from model.vocoder import synthesizer
from model.vocoder.checkpoint import load_vocoder, save_vocoder
from model.vocoder.config import VocoderConfig
from model.vocoder.stream import VocoderStream, look_ahead_frames
from model.vocoder.synthesizer import Synthesizer, Utterance
from model.vocoder.vocoder import Vocoder
from pipeline.errors import TwistError
from tests.model import published_vocoder

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

# Like the published config but smaller; with training settings, which the reader ignores.
PUBLISHED: dict[str, Any] = {
    "resblock": 1,
    "batch_size": 16,
    "segment_size": 8960,
    "num_embeddings": 30,
    "embedding_dim": 8,
    "model_in_dim": 8,
    "upsample_rates": [5, 4, 2],
    "upsample_kernel_sizes": [11, 8, 4],
    "upsample_initial_channel": 16,
    "resblock_kernel_sizes": [3, 7, 11],
    "resblock_dilation_sizes": [[1, 3, 5], [1, 3, 5], [1, 3, 5]],
    "dur_predictor_params": {
        "encoder_embed_dim": 8,
        "var_pred_hidden_dim": 6,
        "var_pred_kernel_size": 3,
        "var_pred_dropout": 0.5,
    },
    "sampling_rate": 16000,
}
CONDITIONED: dict[str, dict[str, Any]] = {
    "plain": {},
    "speaker": {"multispkr": "from_input_file", "num_speakers": 5, "model_in_dim": 16},
    "speaker vector": {"multispkr": "_", "embedder_params": {"a": 1}, "embedder_dim": 7, "model_in_dim": 16},
    "speaker and style": {"multispkr": "_", "multistyle": "_", "num_styles": 4, "model_in_dim": 24},
    "real f0": {"f0": True, "model_in_dim": 9},
    "quantized f0 and speaker": {"f0": True, "f0_quant_num_bin": 12, "multispkr": "_", "model_in_dim": 24},
    "codes and speaker": {
        "num_f0_tokens": 9,
        "f0_hop_size": 80,
        "num_style_tokens": 6,
        "style_hop_size": 1000,
        "code_hop_size": 40,
        "multispkr": "from_input_file",
        "model_in_dim": 32,
    },
}
UNITS = np.array([3, 29, 0, 7, 7, 12, 5], np.uint16)


def random_vocoder(settings: dict[str, Any], seed: int = 0) -> Vocoder:
    """Weights large enough for every layer to matter, and durations over one frame."""
    torch.manual_seed(seed)
    vocoder = Vocoder(VocoderConfig.from_json({**PUBLISHED, **settings}))
    with torch.no_grad():
        for name, parameter in vocoder.named_parameters():
            if name.startswith(("ups", "resblocks", "conv_p")):
                parameter.normal_(0, 0.12)
        if vocoder.dur_predictor:
            vocoder.dur_predictor.proj.bias.fill_(1.3)
    return vocoder.eval()


def arrays(state: dict[str, torch.Tensor]) -> dict[str, NDArray[np.float64]]:
    return {name: tensor.double().numpy() for name, tensor in state.items()}


def old_names(vocoder: Vocoder) -> dict[str, torch.Tensor]:
    """The state with weight norm in torch's old format, which the published files have."""
    vocoder.add_weight_norm()
    state = {}
    for name, tensor in vocoder.state_dict().items():
        name = name.replace("parametrizations.weight.original0", "weight_g")
        state[name.replace("parametrizations.weight.original1", "weight_v")] = tensor
    assert any(name.endswith("weight_g") for name in state)
    return state


def conditions_of(settings: dict[str, Any], num_frames: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """A vocoder's inputs: under our names as tensors [1, ...], and under the published names."""
    generator = np.random.default_rng(0)
    ours: dict[str, Any] = {}
    theirs: dict[str, Any] = {}
    if settings.get("multispkr"):
        speaker = generator.standard_normal(7).astype(np.float32) if settings.get("embedder_params") else 3
        ours["speaker"], theirs["spkr"] = torch.tensor(np.asarray(speaker))[None], speaker
    if settings.get("multistyle"):
        ours["style"], theirs["style"] = torch.tensor([2]), 2
    if settings.get("f0"):
        bins = settings.get("f0_quant_num_bin")
        f0 = generator.integers(bins, size=num_frames) if bins else generator.random(num_frames).astype(np.float32)
        ours["f0"], theirs["f0"] = torch.from_numpy(f0)[None], f0
    for name, ours_is, theirs_is in (("f0", "pitch_codes", "f0_code"), ("style", "style_codes", "style_code")):
        if count := settings.get(f"num_{name}_tokens"):
            codes = generator.integers(count, size=num_frames)
            ours[ours_is], theirs[theirs_is] = torch.from_numpy(codes)[None], codes
    return ours, theirs


@pytest.mark.parametrize("name", CONDITIONED)
@pytest.mark.parametrize("names", ["old", "new", "folded"])
def test_published_files_sound_as_published(tmp_path: Path, name: str, names: str) -> None:
    settings = CONDITIONED[name]
    vocoder = random_vocoder(settings)
    if names == "old":
        state = old_names(vocoder)
    else:
        if names == "new":
            vocoder.add_weight_norm()
        state = vocoder.state_dict()
    torch.save({"generator": state}, tmp_path / "g_00400000.pt")
    (tmp_path / "g_00400000_config.json").write_text(json.dumps({**PUBLISHED, **settings}))
    loaded, fingerprint = load_vocoder(tmp_path / "g_00400000.pt")
    loaded.for_inference(torch.float32, torch.device("cpu"))
    assert fingerprint is None

    ours, theirs = conditions_of(settings, len(UNITS))
    units = torch.from_numpy(UNITS.astype(np.int64))
    wav = loaded(units[None], **ours)[0]
    expected = published_vocoder.speak(arrays(state), PUBLISHED | settings, UNITS, dur_prediction=False, **theirs)
    assert wav.shape == (len(UNITS) * 40,)
    assert np.abs(expected).max() > 0.05 and expected.std() > 0.003, "a vocoder that says nothing proves nothing"
    np.testing.assert_allclose(wav.numpy(), expected, rtol=1e-4, atol=2e-6)

    durations = loaded.durations(units[None])[0].numpy()
    np.testing.assert_array_equal(durations, published_vocoder.durations(arrays(state), UNITS))
    assert durations.max() > 1
    if "f0" not in settings:
        codes = {f"{name}s": theirs.get(name) for name in ("style_code",)} | {"pitch_codes": theirs.get("f0_code")}
        told = Utterance(UNITS, speaker=theirs.get("spkr"), style=theirs.get("style"), **codes)
        spoken = Synthesizer(loaded)([told])[0]
        expected = published_vocoder.speak(arrays(state), PUBLISHED | settings, UNITS, dur_prediction=True, **theirs)
        np.testing.assert_allclose(spoken, expected, rtol=1e-4, atol=2e-6)


@pytest.mark.parametrize("repeats", [1, 2, 4])
def test_pitch_may_come_more_often_than_units_and_less_often(repeats: int) -> None:
    settings = CONDITIONED["real f0"]
    vocoder = random_vocoder(settings)
    units = np.arange(8)
    for num_pitches in (8 * repeats, 8 // repeats):
        f0 = np.random.default_rng(0).random(num_pitches).astype(np.float32)
        wav = vocoder(torch.from_numpy(units)[None], f0=torch.from_numpy(f0)[None])[0].detach().numpy()
        state = arrays(vocoder.state_dict())
        expected = published_vocoder.speak(state, PUBLISHED | settings, units, dur_prediction=False, f0=f0)
        np.testing.assert_allclose(wav, expected, rtol=1e-4, atol=2e-6)


@pytest.mark.parametrize("num_missing", [-1, 0, 1])
def test_codes_come_at_their_own_rates(num_missing: int) -> None:
    """Pitch lasts two frames and style twenty-five; the last code lasts as long as there are frames."""
    settings = CONDITIONED["codes and speaker"]
    vocoder = random_vocoder(settings).for_inference(torch.float32, torch.device("cpu"))
    generator = np.random.default_rng(3)
    durations = generator.integers(1, 5, size=len(UNITS)).astype(np.uint16)
    frames = np.repeat(UNITS, durations)
    codes = {
        name: generator.integers(count, size=-(-len(frames) // each)).astype(np.uint16)
        for name, count, each in (("pitch", 9, 2), ("style", 6, 25))
    }
    codes["pitch"] = np.append(codes["pitch"], [3, 4])[: len(codes["pitch"]) - num_missing]
    told = Utterance(UNITS, durations, 3, pitch_codes=codes["pitch"], style_codes=codes["style"])
    (wav,) = Synthesizer(vocoder)([told])
    expected = published_vocoder.speak(
        arrays(vocoder.state_dict()),
        PUBLISHED | settings,
        frames,
        dur_prediction=False,
        spkr=3,
        f0_code=codes["pitch"],
        style_code=codes["style"],
    )
    np.testing.assert_allclose(wav, expected, rtol=1e-4, atol=2e-6)


def utterances_of(settings: dict[str, Any]) -> list[Utterance]:
    generator = np.random.default_rng(1)
    utterances = []
    for number, length in enumerate((9, 1, 23, 4, 0, 23, 2)):
        units = generator.integers(30, size=length).astype(np.uint16)
        durations = generator.integers(1, 5, size=length).astype(np.uint16) if number % 2 or "f0" in settings else None
        num_frames = int(durations.sum()) if durations is not None else 0
        speaker: Any = None
        if settings.get("multispkr"):
            speaker = generator.standard_normal(7).astype(np.float32) if settings.get("embedder_params") else number % 5
        style = number % 4 if settings.get("multistyle") else None
        f0: Any = None
        if settings.get("f0"):
            bins = settings.get("f0_quant_num_bin")
            f0 = generator.integers(bins, size=num_frames) if bins else generator.random(num_frames).astype(np.float32)
        codes: dict[str, Any] = {}
        for name, ours, frames_each in (("f0", "pitch_codes", 2), ("style", "style_codes", 25)):
            if count := settings.get(f"num_{name}_tokens"):
                num_codes = length if durations is None else -(-num_frames // frames_each)
                codes[ours] = generator.integers(count, size=num_codes).astype(np.uint16)
        utterances.append(Utterance(units, durations, speaker, style, f0, **codes))
    return utterances


@pytest.mark.parametrize("name", CONDITIONED)
def test_batched_equals_alone(name: str) -> None:
    vocoder = random_vocoder(CONDITIONED[name]).for_inference(torch.float32, torch.device("cpu"))
    utterances = utterances_of(CONDITIONED[name])
    alone = Synthesizer(vocoder)(utterances)
    for frames_per_batch in (1, 120, 10_000):
        batched = Synthesizer(vocoder, frames_per_batch)(utterances)
        for number, (one, other) in enumerate(zip(alone, batched, strict=True)):
            np.testing.assert_allclose(one, other, rtol=0, atol=1e-6, err_msg=f"utterance {number}")
    assert len(alone[4]) == 0 and all(len(wav) for i, wav in enumerate(alone) if i != 4)


def test_a_long_utterance_is_streamed_and_sounds_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    vocoder = random_vocoder(CONDITIONED["speaker"]).for_inference(torch.float32, torch.device("cpu"))
    utterances = utterances_of(CONDITIONED["speaker"])
    whole = Synthesizer(vocoder)(utterances)
    monkeypatch.setattr(synthesizer, "FRAMES_PER_CHUNK_ON_CPU", 5)
    for one, other in zip(whole, Synthesizer(vocoder)(utterances), strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-6)


def test_what_lies_behind_a_row_changes_nothing() -> None:
    vocoder = random_vocoder({})
    rows = torch.randint(30, (3, 20), generator=torch.Generator().manual_seed(0))
    num_frames = torch.tensor([20, 5, 1])
    first = vocoder(rows, num_frames)
    for row, count in enumerate(num_frames.tolist()):
        rows[row, count:] = (rows[row, count:] + 11) % 30
    assert torch.equal(first, vocoder(rows, num_frames))
    for row, count in enumerate(num_frames.tolist()):
        assert not first[row, count * 40 :].any(), "there is sound behind the end"
        torch.testing.assert_close(first[row, : count * 40], vocoder(rows[row : row + 1, :count])[0], rtol=0, atol=1e-6)


def test_bfloat16_changes_the_sound_little_and_durations_not_at_all() -> None:
    whole, half = random_vocoder({}), random_vocoder({})
    whole.for_inference(torch.float32, torch.device("cpu"))
    half.for_inference(torch.bfloat16, torch.device("cpu"))
    units = torch.randint(30, (2, 40), generator=torch.Generator().manual_seed(0))
    assert torch.equal(whole.durations(units), half.durations(units))
    wav, other = whole(units), half(units)
    assert other.dtype == torch.bfloat16
    assert not torch.equal(wav, other.float())
    assert (wav - other.float()).abs().max() < 0.05 * wav.abs().max()


@pytest.mark.parametrize("sizes", [(1,), (2, 5, 1), (7,), (60,)])
@pytest.mark.parametrize("with_durations", [False, True])
@pytest.mark.parametrize("name", ["plain", "speaker and style"])
def test_streamed_equals_in_one_piece(name: str, sizes: tuple[int, ...], with_durations: bool) -> None:
    settings = CONDITIONED[name]
    vocoder = random_vocoder(settings).for_inference(torch.float32, torch.device("cpu"))
    generator = np.random.default_rng(2)
    units = generator.integers(30, size=60).astype(np.uint16)
    durations = generator.integers(1, 4, size=60).astype(np.uint16) if with_durations else None
    ours, _ = conditions_of(settings, 0)
    frames = np.repeat(units, vocoder.durations(torch.from_numpy(units.astype(np.int64))[None])[0])
    if durations is not None:
        frames = np.repeat(units, durations)
    whole = vocoder(torch.from_numpy(frames.astype(np.int64))[None], **ours)[0].numpy()

    stream = VocoderStream(vocoder, **{condition: value[0] for condition, value in ours.items()})
    pieces, start, number = [], 0, 0
    while start < len(units):
        stop = start + sizes[number % len(sizes)]
        pieces.append(stream.push(units[start:stop], None if durations is None else durations[start:stop]))
        start, number = stop, number + 1
    if max(sizes) < 60:
        assert sum(map(len, pieces)) > 0.5 * len(whole), "audio comes before the last unit is known"
    pieces.append(stream.finish())
    streamed = np.concatenate(pieces)
    assert len(streamed) == len(whole)
    np.testing.assert_allclose(streamed, whole, rtol=0, atol=1e-6)


def test_a_stream_lags_behind_by_what_it_looks_ahead() -> None:
    vocoder = random_vocoder({}).for_inference(torch.float32, torch.device("cpu"))
    lag, one = look_ahead_frames(vocoder.config), np.ones(1, np.uint16)
    stream = VocoderStream(vocoder)
    made = [len(stream.push(one, one)) for _ in range(lag + 3)]
    assert sum(made[:lag]) < 40 <= sum(made[: lag + 1]), (
        "the first frame is known once its look-ahead is, and not before"
    )
    assert made[lag + 2] == 40


def test_an_empty_stream_says_nothing() -> None:
    vocoder = random_vocoder({}).for_inference(torch.float32, torch.device("cpu"))
    stream = VocoderStream(vocoder)
    assert len(stream.push(np.zeros(0, np.uint16))) == len(stream.finish()) == 0


@pytest.mark.parametrize("normed", [False, True])
def test_own_folder_is_read_back(tmp_path: Path, normed: bool) -> None:
    vocoder = random_vocoder(CONDITIONED["speaker and style"])
    expected = {name: tensor.clone() for name, tensor in vocoder.state_dict().items()}
    if normed:
        vocoder.add_weight_norm()
    save_vocoder(vocoder, tmp_path, "the codebook's")
    loaded, fingerprint = load_vocoder(tmp_path)
    assert fingerprint == "the codebook's"
    assert loaded.config == vocoder.config
    for name, tensor in loaded.state_dict().items():
        torch.testing.assert_close(tensor, expected[name], rtol=0, atol=1e-6, msg=name)


def test_broken_files_are_refused_in_a_sentence(tmp_path: Path) -> None:
    torch.save({"generator": random_vocoder({}).state_dict()}, tmp_path / "v.pt")

    def config(**settings: Any) -> None:
        (tmp_path / "config.json").write_text(json.dumps({**PUBLISHED, **settings}))

    config(upsample_initial_channel=32)
    with pytest.raises(TwistError, match="not of the shape"):
        load_vocoder(tmp_path / "v.pt")
    config(multispkr="_", model_in_dim=16)
    with pytest.raises(TwistError, match=r"not of the shape|lacks"):
        load_vocoder(tmp_path / "v.pt")
    config(dur_predictor_params=None)
    with pytest.raises(TwistError, match=r"has dur_predictor.*does not ask for"):
        load_vocoder(tmp_path / "v.pt")
    config(model_in_dim=80)
    with pytest.raises(TwistError, match="model_in_dim is 80; it must be 8"):
        load_vocoder(tmp_path / "v.pt")
    config(f0_vq_params={"l_bins": 20})
    with pytest.raises(TwistError, match="f0_vq_params"):
        load_vocoder(tmp_path / "v.pt")
    config(dur_predictor_params={**PUBLISHED["dur_predictor_params"], "var_pred_kernel_size": 5})
    with pytest.raises(TwistError, match="var_pred_kernel_size is 5"):
        load_vocoder(tmp_path / "v.pt")
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(TwistError, match="no vocoder's config"):
        load_vocoder(tmp_path / "v.pt")
    (tmp_path / "config.json").write_text('{"sampling_rate": 16000}')
    with pytest.raises(TwistError, match="no unit HiFi-GAN's config"):
        load_vocoder(tmp_path / "v.pt")
    config()
    torch.save({"model": {}}, tmp_path / "v.pt")
    with pytest.raises(TwistError, match="no state named generator"):
        load_vocoder(tmp_path / "v.pt")
    state = Vocoder(VocoderConfig.read(tmp_path / "config.json")).state_dict()
    next(iter(state.values())).view(-1)[0] = float("nan")
    torch.save({"generator": state}, tmp_path / "v.pt")
    with pytest.raises(TwistError, match=r"v\.pt holds values in .* that are not finite"):
        load_vocoder(tmp_path / "v.pt")
    with pytest.raises(TwistError, match="holds no vocoder"):
        load_vocoder(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"broken")
    with pytest.raises(TwistError, match="is damaged"):
        load_vocoder(tmp_path)
    with pytest.raises(TwistError, match=r"cannot read .*nowhere"):
        load_vocoder(tmp_path / "nowhere")


def test_what_cannot_be_said_is_refused_in_a_sentence() -> None:
    vocoder = random_vocoder({"dur_predictor_params": None, **CONDITIONED["speaker"]})
    vocoder.for_inference(torch.float32, torch.device("cpu"))
    ones = np.ones(3, np.uint16)
    for utterance, words in (
        (Utterance(np.array([30], np.uint16), ones[:1], speaker=0), "unit 30 is not one of the 30"),
        (Utterance(ones, ones), "needs a speaker"),
        (Utterance(ones, ones, speaker=5), "no speaker 5"),
        (Utterance(ones, ones, speaker=1, style=1), "takes no style"),
        (Utterance(ones, speaker=1), "predicts no durations"),
    ):
        with pytest.raises(TwistError, match=words):
            Synthesizer(vocoder)([utterance])
    with pytest.raises(TwistError, match="2 durations for 3 units"):
        Utterance(ones, ones[:2])
    with pytest.raises(TwistError, match="at least one frame"):
        Utterance(ones, np.zeros(3, np.uint16))
    with pytest.raises(TwistError, match="takes f0 cannot be streamed"):
        VocoderStream(random_vocoder(CONDITIONED["real f0"]))
    with_codes = VocoderStream(random_vocoder(CONDITIONED["codes and speaker"]), speaker=torch.tensor(0))
    with pytest.raises(TwistError, match="codes are streamed beside units with durations"):
        with_codes.push(ones)
    with pytest.raises(TwistError, match="needs a style_codes"):
        with_codes.push(ones, ones, {"pitch_codes": torch.ones(3, dtype=torch.int64)})


def test_codes_that_are_not_the_clips_are_refused_in_a_sentence() -> None:
    vocoder = random_vocoder(CONDITIONED["codes and speaker"]).for_inference(torch.float32, torch.device("cpu"))
    units, durations = np.ones(3, np.uint16), np.full(3, 4, np.uint16)
    pitch, style = np.zeros(6, np.uint16), np.zeros(1, np.uint16)
    for pitch_codes, style_codes, words in (
        (None, style, "needs a pitch_codes"),
        (pitch, None, "needs a style_codes"),
        (pitch + 9, style, "code 9 of pitch is not one of the 9"),
        (pitch[:3], style, "3 codes of pitch last 6 frames, but the units 12"),
        (pitch, np.zeros(9, np.uint16), "9 codes of style last 225 frames"),
    ):
        with pytest.raises(TwistError, match=words):
            Synthesizer(vocoder)([Utterance(units, durations, 1, pitch_codes=pitch_codes, style_codes=style_codes)])
    with pytest.raises(TwistError, match="takes no pitch_codes"):
        Synthesizer(random_vocoder({}))([Utterance(units, durations, pitch_codes=pitch)])
    with pytest.raises(TwistError, match="6 codes of pitch for 3 units without durations"):
        Utterance(units, pitch_codes=pitch)
    with pytest.raises(TwistError, match="f0 is True; it must be null where pitch comes as codes"):
        VocoderConfig(f0=True, num_f0_tokens=4)


@pytest.mark.parametrize(
    "absurd",
    [{"num_embeddings": 2**40}, {"resblock_kernel_sizes": [3] * 1000, "resblock_dilation_sizes": [[1]] * 1000}],
)
def test_absurd_sizes_are_refused_before_anything_is_allocated(absurd: dict[str, Any]) -> None:
    with pytest.raises(TwistError, match=rf"vocoder {next(iter(absurd))} is "):
        VocoderConfig.from_json({**VocoderConfig().to_json(), **absurd})
