from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

from model.lm.document_attention import attend_within_documents
from model.lm.speech_lm import (
    cold_start,
    load_speech_lm,
    next_unit_nll,
    require_model,
    require_positions,
    warm_start,
)
from model.lm.vocab import Vocabulary
from pipeline.errors import TwistError

if TYPE_CHECKING:
    from pathlib import Path

VOCABULARY = Vocabulary(50, codebook_fingerprint="codebook-1")
TEXT_VOCAB_SIZE = 99
HEADS = {"num_hidden_layers": 2, "num_attention_heads": 4, "hidden_size": 32}

ARCHITECTURES: dict[str, dict[str, Any]] = {
    "opt": {"model_type": "opt", "ffn_dim": 64, **HEADS},
    "opt_350m": {
        "model_type": "opt",
        "ffn_dim": 64,
        "word_embed_proj_dim": 16,
        "do_layer_norm_before": False,
        **HEADS,
    },
    "pythia": {"model_type": "gpt_neox", "intermediate_size": 64, **HEADS},
    "bloom": {"model_type": "bloom", "n_layer": 2, "n_head": 4, "hidden_size": 32},
    "llama": {"model_type": "llama", "intermediate_size": 64, "num_key_value_heads": 2, **HEADS},
    "qwen2": {
        "model_type": "qwen2",
        "intermediate_size": 64,
        "num_key_value_heads": 2,
        "tie_word_embeddings": True,
        **HEADS,
    },
    "gpt2": {"model_type": "gpt2", "n_embd": 32, "n_layer": 2, "n_head": 4},
    "imagegpt": {"model_type": "imagegpt", "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64},
}
# The tables that replace the text's, by parameter name, with the width of a row.
TABLES = {
    "opt": ({"model.decoder.embed_tokens.weight"}, 32),
    "opt_350m": ({"model.decoder.embed_tokens.weight"}, 16),
    "pythia": ({"gpt_neox.embed_in.weight", "embed_out.weight", "lm_head.weight"}, 32),
    "bloom": ({"transformer.word_embeddings.weight"}, 32),
    "llama": ({"model.embed_tokens.weight", "lm_head.weight"}, 32),
    "qwen2": ({"model.embed_tokens.weight"}, 32),
    "gpt2": ({"transformer.wte.weight"}, 32),
    "imagegpt": ({"transformer.wte.weight", "lm_head.weight"}, 32),
}
# Parameters next to the table that the paper counts as part of the body.
BESIDE_TABLES = {
    "opt_350m": {"model.decoder.project_in.weight", "model.decoder.project_out.weight"},
    "bloom": {"transformer.word_embeddings_layernorm.weight", "transformer.word_embeddings_layernorm.bias"},
}


def save_text_lm(architecture: dict[str, Any], folder: Path, dtype: torch.dtype = torch.float32) -> dict[str, Any]:
    """A text LM with weights far from any initialization; returns its parameters."""
    torch.manual_seed(1)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(vocab_size=TEXT_VOCAB_SIZE, **architecture)).to(dtype)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape) + 3)
    model.save_pretrained(folder)
    return dict(model.named_parameters())


@pytest.mark.parametrize("family", ARCHITECTURES)
def test_body_is_kept_and_tables_are_new(family: str, tmp_path: Path) -> None:
    text = save_text_lm(ARCHITECTURES[family], tmp_path)
    speech = dict(warm_start(str(tmp_path), VOCABULARY, seed=0).named_parameters())
    tables, width = TABLES[family]
    assert speech.keys() == text.keys(), (
        "the speech LM has other parameters than the text LM (is its head tied as before?)"
    )
    assert BESIDE_TABLES.get(family, set()) <= text.keys() - tables
    for name in text.keys() - tables:
        assert torch.equal(speech[name], text[name]), f"{name} is part of the body and must be kept bit by bit"
    for name in text.keys() & tables:
        table = speech[name]
        # ImageGPT's input table ends with a row for its start of sequence, which has no logit.
        num_rows = VOCABULARY.vocab_size + (name == "transformer.wte.weight" and family == "imagegpt")
        assert table.shape == (num_rows, width), f"{name} must have a row per special and unit"
        units = table[VOCABULARY.offset :]
        assert abs(units.mean()) < 0.004, f"{name} must be drawn around 0; text rows here have mean 3"
        assert 0.015 < units.std() < 0.025, f"{name} must have the config's standard deviation, 0.02"


@pytest.mark.parametrize("family", ARCHITECTURES)
def test_saved_model_is_a_plain_transformers_folder(family: str, tmp_path: Path) -> None:
    save_text_lm(ARCHITECTURES[family], tmp_path / "text")
    model = warm_start(str(tmp_path / "text"), VOCABULARY, seed=0).eval()
    model.save_pretrained(tmp_path / "speech")
    token_ids = torch.tensor([[3, 1, 4, 1, 5]])
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "speech").eval()
    ours, vocabulary = load_speech_lm(str(tmp_path / "speech"))
    assert vocabulary == VOCABULARY
    with torch.no_grad():
        expected = model(input_ids=token_ids).logits
        assert torch.equal(plain(input_ids=token_ids).logits, expected), "AutoModelForCausalLM gives another model"
        assert torch.equal(ours.eval()(input_ids=token_ids).logits, expected), "load_speech_lm gives another model"


@pytest.mark.parametrize("family", ARCHITECTURES)
def test_loss_and_gradients_are_those_of_transformers_padded_rows(family: str) -> None:
    torch.manual_seed(0)
    model = cold_start(ARCHITECTURES[family], VOCABULARY, seed=0)
    if family == "llama":  # in force throughout, as in training
        attend_within_documents(model)
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    model.eval()
    lengths = [5, 3, 9, 2]
    documents = [torch.randint(1, VOCABULARY.vocab_size, (length,)) for length in lengths]
    nll = next_unit_nll(model, torch.cat(documents), lengths)
    assert nll.shape == (4, 8)
    for row, document in enumerate(documents):
        alone = next_unit_nll(model, document, [len(document)])
        torch.testing.assert_close(nll[row, : len(document) - 1], alone[0], rtol=1e-5, atol=1e-5)
        assert torch.all(nll[row, len(document) - 1 :] == 0), "there is nothing to score behind a document's end"
    model.zero_grad()
    (nll.sum() / (sum(lengths) - len(lengths))).backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}

    plain = cold_start(ARCHITECTURES[family], VOCABULARY, seed=0).eval()
    padded = nn.utils.rnn.pad_sequence(documents, batch_first=True)
    reference = plain(
        input_ids=padded, attention_mask=(padded != 0).long(), labels=padded.masked_fill(padded == 0, -100)
    ).loss
    reference.backward()
    torch.testing.assert_close(nll.sum() / (sum(lengths) - len(lengths)), reference)
    for name, parameter in plain.named_parameters():
        if parameter.grad is not None:
            torch.testing.assert_close(
                gradients[name], parameter.grad, rtol=1e-4, atol=1e-5, msg=f"{name}'s gradient differs"
            )


def test_no_samples_have_no_loss_and_no_gradient() -> None:
    """This happens if all samples of a process are in damaged shards; the others wait for its gradients."""
    model = cold_start(ARCHITECTURES["opt"], VOCABULARY, seed=0)
    loss = next_unit_nll(model, torch.empty(0, dtype=torch.int64), []).sum()
    loss.backward()
    assert loss == 0
    assert all(p.grad is not None and not p.grad.any() for p in model.parameters())


@pytest.mark.parametrize("family", ARCHITECTURES)
def test_model_generates_as_before_after_it_was_scored(family: str) -> None:
    model = cold_start(ARCHITECTURES[family], VOCABULARY, seed=0).eval()
    token_ids = torch.tensor([[3, 1, 4, 1, 5]])
    with torch.no_grad():
        before = model(input_ids=token_ids).logits
        next_unit_nll(model, token_ids[0], [3, 2])
        assert torch.equal(model(input_ids=token_ids).logits, before), "scoring left its attention behind"


def test_attention_that_is_more_than_causal_is_refused() -> None:
    config = {**ARCHITECTURES["qwen2"], "use_sliding_window": True, "sliding_window": 4, "max_window_layers": 0}
    model = cold_start(config, VOCABULARY, seed=0)
    with pytest.raises(TwistError, match="attention with sliding_window is not supported"):
        next_unit_nll(model, torch.tensor([3, 1, 4]), [3])


def test_folder_as_meta_published_it_is_read(tmp_path: Path) -> None:
    """config.json has only what transformers writes, and `offset`; there are more specials than in our models."""
    config = AutoConfig.for_model(
        vocab_size=53, offset=3, pad_token_id=1, bos_token_id=2, eos_token_id=2, **ARCHITECTURES["opt_350m"]
    )
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    _, vocabulary = load_speech_lm(str(tmp_path))
    assert vocabulary == Vocabulary(50, offset=3, pad_id=1), "Meta's sequences begin with a unit, whatever config says"
    assert vocabulary.encode(np.array([0, 49], dtype=np.uint16)).tolist() == [3, 52]


@pytest.mark.parametrize("family", ["opt_350m", "qwen2"])
def test_slamkits_folder_is_read(family: str, tmp_path: Path) -> None:
    """A UnitLM: the LM's config is in `base_config`, with the text's vocab_size; names of weights begin with `lm.`."""
    torch.manual_seed(0)
    lm = AutoModelForCausalLM.from_config(AutoConfig.for_model(vocab_size=52, **ARCHITECTURES[family])).eval()
    base = {**lm.config.to_dict(), "vocab_size": TEXT_VOCAB_SIZE, "pad_token_id": 0, "bos_token_id": 1}
    content = {
        "architectures": ["UnitLM"],
        "model_type": "speech_language_model",
        "base_config": base,
        "vocab_size": 52,
    }
    (tmp_path / "config.json").write_text(json.dumps(content))
    tied = {"lm_head.weight"} if lm.config.tie_word_embeddings else set()
    weights = {f"lm.{name}": tensor for name, tensor in lm.state_dict().items() if name not in tied}
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})

    model, vocabulary = load_speech_lm(str(tmp_path))
    assert vocabulary == Vocabulary(50, offset=2, pad_id=0, bos_id=1)
    token_ids = torch.tensor([[1, 3, 14, 15]])
    with torch.no_grad():
        assert torch.equal(model.eval()(input_ids=token_ids).logits, lm(input_ids=token_ids).logits)
    require_model(str(tmp_path), None, 20)
    assert warm_start(str(tmp_path), VOCABULARY, seed=0).config.vocab_size == VOCABULARY.vocab_size
    model.save_pretrained(tmp_path / "again")
    assert load_speech_lm(str(tmp_path / "again"))[1] == vocabulary, "a plain folder must keep the map of units"

    del content["base_config"]
    (tmp_path / "config.json").write_text(json.dumps(content))
    with pytest.raises(TwistError, match="no base_config"):
        load_speech_lm(str(tmp_path))
    with pytest.raises(TwistError, match="no base_config"):
        require_model(str(tmp_path), None, 20)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ("", "is not valid JSON"),
        ("{", "is not valid JSON"),
        ("[]", "holds no JSON object"),
        ("3", "holds no JSON object"),
        ("{}", "cannot be loaded as a causal LM: "),
        ('{"model_type": "no_such_model"}', "no_such_model"),
        ('{"model_type": "opt", "hidden_size": "wide"}', "cannot be loaded as a causal LM: "),
        ('{"model_type": "hubert"}', "its model_type is hubert"),
        ("[" * 200_000, "is not valid JSON"),
        ('{"a": ' * 150 + "1" + "}" * 150, "nested more than 100 deep"),
        ('{"model_type": "mine", "auto_map": {"AutoConfig": "evil.Config"}}', "needs code that comes with it"),
        (
            '{"model_type": "qwen2", "num_hidden_layers": 1099511627776}',
            "at most 1024 can be",
        ),
        ('{"model_type": "opt", "ffn_dim": 1099511627776}', "ffn_dim 1099511627776; at most"),
        ('{"model_type": "speech_language_model"}', "no base_config"),
        (
            '{"model_type": "speech_language_model", "vocab_size": 52, "base_config": {"model_type": "x"}}',
            "causal LM: ",
        ),
    ],
)
def test_configs_that_cannot_be_read_are_refused_in_a_sentence(config: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(config)
    for refused in (
        lambda: require_model(str(tmp_path), None, 20),
        lambda: load_speech_lm(str(tmp_path)),
        lambda: warm_start(str(tmp_path), VOCABULARY, seed=0),
    ):
        with pytest.raises(TwistError, match=words) as error:
            refused()
        assert str(error.value).startswith(str(tmp_path)) and "\n" not in str(error.value)


def test_half_precision_text_lm_is_trained_in_float32(tmp_path: Path) -> None:
    text = save_text_lm(ARCHITECTURES["opt"], tmp_path, torch.float16)
    model = warm_start(str(tmp_path), VOCABULARY, seed=0)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    name = "model.decoder.layers.0.fc1.weight"
    assert torch.equal(dict(model.named_parameters())[name], text[name].float())
    table = model.get_input_embeddings().weight
    assert not torch.equal(table, table.half().float()), "the new table was drawn in half precision"


def test_seed_decides_the_new_table_and_nothing_else_does(tmp_path: Path) -> None:
    save_text_lm(ARCHITECTURES["opt"], tmp_path)
    torch.manual_seed(5)
    state = torch.get_rng_state()
    tables = [warm_start(str(tmp_path), VOCABULARY, seed).get_input_embeddings().weight for seed in (0, 0, 1)]
    assert torch.equal(tables[0], tables[1]), "the same seed must give the same table"
    assert not torch.equal(tables[0], tables[2]), "another seed must give another table"
    assert torch.equal(torch.get_rng_state(), state), "the caller's random state must be left alone"


def test_weights_lie_at_even_addresses(tmp_path: Path) -> None:
    cold_start(ARCHITECTURES["gpt2"], VOCABULARY, seed=0).save_pretrained(tmp_path)
    model, _ = load_speech_lm(str(tmp_path))
    assert all(p.data_ptr() % 64 == 0 for p in model.parameters()), "CPU kernels may round differently than in training"


def test_config_holds_the_vocabulary_and_no_text_specials(tmp_path: Path) -> None:
    save_text_lm(ARCHITECTURES["opt"], tmp_path)
    config = warm_start(str(tmp_path), VOCABULARY, seed=0).config
    assert (config.vocab_size, config.offset, config.pad_token_id) == (51, 1, 0)
    assert config.bos_token_id is None
    assert config.eos_token_id is None


def test_text_lm_is_not_loaded_as_a_speech_lm(tmp_path: Path) -> None:
    save_text_lm(ARCHITECTURES["gpt2"], tmp_path)
    with pytest.raises(TwistError, match="not a speech LM"):
        load_speech_lm(str(tmp_path))


def test_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(TwistError, match="nowhere is no local folder"):
        warm_start(str(tmp_path / "nowhere"), VOCABULARY, seed=0)


def test_folder_without_weights_is_refused(tmp_path: Path) -> None:
    AutoConfig.for_model(vocab_size=TEXT_VOCAB_SIZE, **ARCHITECTURES["opt"]).save_pretrained(tmp_path)
    with pytest.raises(TwistError, match="cannot be loaded as a causal LM"):
        warm_start(str(tmp_path), VOCABULARY, seed=0)


def test_cut_weights_are_refused(tmp_path: Path) -> None:
    save_text_lm(ARCHITECTURES["opt"], tmp_path)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(TwistError, match="cannot be loaded as a causal LM"):
        warm_start(str(tmp_path), VOCABULARY, seed=0)


class RunsCode:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return print, ("it ran",)


def test_weights_that_would_run_code_are_refused_in_a_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_text_lm(ARCHITECTURES["opt"], tmp_path)
    (tmp_path / "model.safetensors").unlink()
    torch.save({"weight": RunsCode()}, tmp_path / "pytorch_model.bin")
    with pytest.raises(TwistError, match=f"{tmp_path} cannot be loaded as a causal LM") as error:
        warm_start(str(tmp_path), VOCABULARY, seed=0)
    assert "weights_only" not in str(error.value), "torch's advice would let the file run its code"
    assert "it ran" not in capsys.readouterr().out


@pytest.mark.parametrize(
    "asked",
    [
        {"attn_implementation": "flash_attention_9"},
        {"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}},
    ],
)
def test_kernels_and_quantizers_that_are_not_there_are_told(asked: dict[str, Any], tmp_path: Path) -> None:
    save_text_lm(ARCHITECTURES["opt"], tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, **asked}))
    with pytest.raises(TwistError, match=f"{tmp_path} cannot be loaded as a causal LM") as error:
        warm_start(str(tmp_path), VOCABULARY, seed=0)
    assert "\n" not in str(error.value)


def test_weights_that_are_not_finite_are_named(tmp_path: Path) -> None:
    model = cold_start(ARCHITECTURES["opt"], VOCABULARY, seed=0)
    next(model.parameters()).data[0] = torch.nan
    model.save_pretrained(tmp_path)
    with pytest.raises(TwistError, match=rf"{tmp_path} holds values in .*weight that are not finite"):
        load_speech_lm(str(tmp_path))


def test_tables_of_another_size_than_the_config_are_refused(tmp_path: Path) -> None:
    save_text_lm(ARCHITECTURES["opt"], tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "vocab_size": 77}))
    with pytest.raises(TwistError, match=str(tmp_path)):
        warm_start(str(tmp_path), VOCABULARY, seed=0)


def test_folder_that_lacks_tensors_is_refused(tmp_path: Path) -> None:
    save_text_lm(ARCHITECTURES["opt"], tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 3}))
    with pytest.raises(TwistError, match="lacks 16 of its model's tensors"):
        warm_start(str(tmp_path), VOCABULARY, seed=0)


def test_unknown_settings_are_refused() -> None:
    with pytest.raises(TwistError, match="hidden_sise is no setting of opt"):
        cold_start({"model_type": "opt", "hidden_sise": 32}, VOCABULARY, seed=0)
    with pytest.raises(TwistError, match="'optt' is no model"):
        cold_start({"model_type": "optt"}, VOCABULARY, seed=0)
    with pytest.raises(TwistError, match="model_type None"):
        cold_start({"hidden_size": 32}, VOCABULARY, seed=0)


def test_too_few_positions_are_refused() -> None:
    config = AutoConfig.for_model("gpt2", n_positions=64)
    require_positions(config, 64)
    with pytest.raises(TwistError, match="only 64 positions"):
        require_positions(config, 65)


def test_loss_is_computed_in_float32_under_autocast() -> None:
    model = cold_start(ARCHITECTURES["opt"], VOCABULARY, seed=0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert next_unit_nll(model, torch.tensor([3, 1, 4]), [3]).dtype == torch.float32
    assert isinstance(model, nn.Module)
