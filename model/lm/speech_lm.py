"""The speech LM of TWIST: the body of a text LM, with unit embeddings in place of its token embeddings.

Models are plain transformers models, and are saved as folders that AutoModelForCausalLM loads.
"""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    ImageGPTConfig,
    ImageGPTForCausalImageModeling,
    PreTrainedModel,
)

from model.artefacts import local_path
from model.foreign_config import read_content, refuse_hostile
from model.lm import slamkit, spiritlm
from model.lm.document_attention import Documents, attention_within_documents, set_documents
from model.lm.fused_gelu import fuse_gelu
from model.lm.vocab import Vocabulary
from model.training import checkpoint
from model.weights_file import refuse_not_finite
from pipeline.errors import TwistError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from transformers import PretrainedConfig

IGNORED_LABEL = -100

# transformers classes ImageGPT (in the paper's Table 8) as an image generator, not as a causal LM.
AutoModelForCausalLM.register(ImageGPTConfig, ImageGPTForCausalImageModeling, exist_ok=True)


def warm_start(folder: str, vocabulary: Vocabulary, seed: int) -> PreTrainedModel:
    """Turns a text LM into a speech LM, as in section 2.2 of the paper.

    The embedding table and output head for text are replaced by newly initialized ones for units (a single table if the
    text LM ties the two). All other tensors are the text LM's, bit for bit, in float32, including OPT-350M's
    projections around the table and BLOOM's norm after it.

    Args:
        folder: A transformers folder of a causal LM, local or s3://.
        vocabulary: The units to speak.
        seed: Seed of the new table.

    Raises:
        TwistError: there is no such folder, or it holds no complete causal LM.
        RunError: it cannot be fetched.
    """
    text_model = load_text_lm(folder)
    settings = text_model.config.to_dict()
    settings["tie_word_embeddings"] = is_tied(text_model)
    model = initialize(settings, vocabulary, seed)

    tables = table_names(text_model)
    body = {name: tensor for name, tensor in text_model.state_dict().items() if name not in tables}
    missing, unexpected = model.load_state_dict(body, strict=False)
    assert set(missing) == tables and not unexpected, f"the new model's body differs: {missing}, {unexpected}"
    return model


def load_text_lm(folder: str) -> PreTrainedModel:
    """Loads a text LM in float32, from a transformers folder, local or s3://.

    Raises:
        TwistError: there is no such folder, or it holds no complete causal LM.
        RunError: it cannot be fetched.
    """
    return _load(str(checkpoint.checked(local_path(folder))))


def cold_start(architecture: dict[str, Any], vocabulary: Vocabulary, seed: int) -> PreTrainedModel:
    """A randomly initialized speech LM, the paper's COLD-INIT.

    Args:
        architecture: `model_type` (a transformers causal LM family) and settings of its config class.
        vocabulary: The units to speak.
        seed: Seed of all weights.

    Raises:
        TwistError: the family or a setting is unknown.
    """
    _refuse_unknown_settings(architecture)
    return initialize(architecture, vocabulary, seed)


def _refuse_unknown_settings(architecture: dict[str, Any]) -> None:
    model_type = architecture.get("model_type")
    try:
        known = AutoConfig.for_model(model_type)
    except ValueError as error:
        raise TwistError(f"architecture.model_type {model_type!r} is no model of transformers; try opt") from error
    # transformers accepts any setting, so a misspelled one would go unnoticed.
    unknown = [name for name in architecture if not hasattr(known, name)]
    if unknown:
        raise TwistError(
            f"architecture: {', '.join(unknown)} is no setting of {model_type}; see {type(known).__name__}"
        )


def load_speech_lm(folder: str) -> tuple[PreTrainedModel, Vocabulary]:
    """Loads a speech LM in float32 and its vocabulary: a checkpoint of ours, Meta's (TWIST, SpiRit-LM) or slamkit's.

    Raises:
        TwistError: there is no such folder, it holds no complete causal LM, or the LM does not speak units.
    """
    model = _load(folder)
    try:
        named = None if hasattr(model.config, "offset") else spiritlm.vocabulary_of(folder, model.config)
        return model, named or Vocabulary.from_config(model.config)
    except TwistError as error:
        raise TwistError(f"{folder}: {error}") from error


def next_unit_nll(model: nn.Module, token_ids: Tensor, lengths: Sequence[int], *, num_ids: int | None = None) -> Tensor:
    """Negative log-likelihood of each token given those before it in its document, in nats and float32.

    Args:
        model: A causal LM, bare or wrapped (for data parallelism, in bfloat16, compiled).
        token_ids: [N], the documents concatenated; best left on the CPU.
        lengths: Number of tokens in each document; they add up to N.
        num_ids: Choose among the first so many ids alone; None: among all.

    Returns:
        [num_documents, longest - 1], on the model's device; 0 after the end of a document.
    """
    if not lengths:  # compute all the same: the other processes wait for this one's share of the gradient
        token_ids, lengths = token_ids.new_zeros(1), [1]
    targets = token_ids.roll(-1)
    targets[torch.tensor(lengths).cumsum(0) - 1] = IGNORED_LABEL
    logits = document_logits(model, token_ids, lengths)
    nll = F.cross_entropy(
        logits[:, :num_ids].float(), targets.to(logits.device), reduction="none", ignore_index=IGNORED_LABEL
    )
    return pad_sequence(list(torch.split(nll, list(lengths))), batch_first=True)[:, :-1]


def document_logits(
    model: nn.Module, token_ids: Tensor, lengths: Sequence[int], prefixes: Sequence[Tensor | None] | None = None
) -> Tensor:
    """The logits after each token of each document, [N, V]; takes what `next_unit_nll` and `Documents` do."""
    bare = bare_model(model)
    device = next(model.parameters()).device
    documents = Documents.of_lengths(lengths, device, prefixes)
    # BLOOM takes no position ids: ALiBi only uses distances.
    positions = {} if bare.config.model_type == "bloom" else {"position_ids": documents.position_ids}
    with attention_within_documents(bare):
        set_documents(bare, documents)
        logits: Tensor = model(input_ids=token_ids[None].to(device), use_cache=False, **positions).logits[0]
    return logits


def bare_model(model: nn.Module) -> PreTrainedModel:
    """The model inside its wrappers (DistributedDataParallel, BFloat16, torch.compile) that does the computing."""
    while not isinstance(model, PreTrainedModel):
        inner = next(getattr(model, name) for name in ("compute", "module", "_orig_mod") if hasattr(model, name))
        model = inner
    return model


def layers(model: PreTrainedModel) -> list[nn.Module]:
    """The model's layers in order: the longest list of modules in it."""
    lists = [list(module) for module in model.modules() if isinstance(module, nn.ModuleList)]
    return max(lists, key=len)


def weights_on_cpu(model: PreTrainedModel, *, keep: bool) -> dict[str, Tensor]:
    """Copies of a model's weights on the CPU, by their names in the state dict; a table tied to the head is one tensor.

    If the weights are sharded, every process must call this; only those with `keep` get the copies.
    """
    copies: dict[int, Tensor] = {}
    weights = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        if id(tensor) not in copies:
            whole = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
            copies[id(tensor)] = whole.detach().to("cpu", copy=True) if keep else whole.new_empty(0)
        weights[name] = copies[id(tensor)]
    return weights if keep else {}


def require_model(init: str | None, architecture: dict[str, Any] | None, max_units: int, num_specials: int = 0) -> None:
    """Refuses a model that cannot be made, before anything is packed or trained.

    Raises:
        TwistError: there is no such folder, family or setting, its config cannot be read or is not a causal LM's, or it
            has no positions for samples of `max_units` and `num_specials` around them.
    """
    if init is not None:
        config = read_config(str(local_path(init)))
    else:
        assert architecture is not None
        _refuse_unknown_settings(architecture)
        config = AutoConfig.for_model(**architecture)
    require_positions(config, max_units, num_specials)


def require_positions(config: PretrainedConfig, max_units: int, num_specials: int = 0) -> None:
    """Refuses a model that has too few positions for `max_units` units and `num_specials` around them.

    Raises:
        TwistError: the model's longest sequence is shorter.
    """
    positions = getattr(config, "max_position_embeddings", None)
    if positions is not None and num_specials + max_units > positions:
        of_units = positions - num_specials
        raise TwistError(
            f"max_units is {max_units}, but the model has only {of_units} positions for units; lower max_units"
        )


def read_config(folder: str) -> PretrainedConfig:
    """The config of a folder's causal LM; of slamkit's UnitLM, that of the LM inside.

    Raises:
        TwistError: there is none, or it is not a causal LM's.
    """
    if not Path(folder, "config.json").is_file():
        raise TwistError(f"{folder} is no local folder of a transformers model (there is no config.json in it)")
    try:
        refuse_hostile(read_content(folder))
        if slamkit.is_unit_lm(folder):
            config = slamkit.read_config(folder)
        else:
            config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # config classes raise whatever a value of the wrong type leads to
        raise _unusable(folder, error) from error
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise TwistError(f"{folder} cannot be loaded as a causal LM: its model_type is {config.model_type}")
    return config


def _unusable(folder: str, error: Exception) -> TwistError:
    if isinstance(error, pickle.UnpicklingError):  # torch's own advice is to let the file run its code
        return TwistError(f"{folder} cannot be loaded as a causal LM: its weights are no plain pickle of tensors")
    reason = str(error).strip().partition("\n")[0] or type(error).__name__
    return TwistError(f"{folder} cannot be loaded as a causal LM: {reason}")


def _load(folder: str) -> PreTrainedModel:
    config = read_config(folder)
    try:
        if slamkit.is_unit_lm(folder):
            with torch.device("meta"):
                family = type(AutoModelForCausalLM.from_config(config))
            model, report = family.from_pretrained(
                None, config=config, state_dict=slamkit.read_weights(folder), output_loading_info=True
            )
        else:
            model, report = AutoModelForCausalLM.from_pretrained(
                folder, local_files_only=True, trust_remote_code=False, output_loading_info=True
            )
    except Exception as error:  # kernels and quantizers that are not installed, pickles that would run code, and more
        raise _unusable(folder, error) from error
    if report["missing_keys"] or report["mismatched_keys"]:  # transformers would fill them with random numbers
        lacking = sorted(map(str, [*report["missing_keys"], *report["mismatched_keys"]]))
        raise TwistError(f"{folder} lacks {len(lacking)} of its model's tensors, {lacking[0]} among them")
    # safetensors maps the file into memory, where tensors may be unaligned. CPU kernels may round differently there,
    # so a resumed run would drift from an uninterrupted one. Copies are aligned.
    for name, parameter in model.float().named_parameters():
        parameter.data = parameter.data.clone()
        refuse_not_finite({name: parameter}, folder)
    fuse_gelu(model)
    return model


def initialize(architecture: dict[str, Any], vocabulary: Vocabulary, seed: int) -> PreTrainedModel:
    """A model of random weights, with a table for a vocabulary."""
    settings = {**architecture, **vocabulary.as_config()}
    if vocabulary.text_size:
        # Id 0 is text there. Its row would be zeros and get no gradient, if it padded; nothing does: rows are packed.
        settings["pad_token_id"] = None
    if settings["model_type"] == "imagegpt":  # its start of sequence always takes the last row, which has no logit
        settings["vocab_size"] += 1
    for name in ("dtype", "torch_dtype"):  # else a text LM stored in half precision would be trained in it
        settings.pop(name, None)
    config = AutoConfig.for_model(**settings)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config)
    fuse_gelu(model)
    return model


def is_tied(model: PreTrainedModel) -> bool:
    """Whether a model's table of embeddings is its output head too."""
    head = model.get_output_embeddings()
    return head is not None and head.weight is model.get_input_embeddings().weight


def table_names(model: PreTrainedModel) -> set[str]:
    """Names of the embedding table and the output head in the state dict."""
    tables = (model.get_input_embeddings(), model.get_output_embeddings())
    return {
        f"{prefix}.{name}"
        for prefix, module in model.named_modules()
        if module in tables
        for name, _ in module.named_parameters()
    }
