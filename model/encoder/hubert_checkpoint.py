"""Reads HuBERT checkpoints into HubertModel; one loader per format, each ending in `_build`.

Formats: a Hugging Face folder (`load_huggingface_folder`) and a fairseq file (`load_fairseq_file`). Checkpoints come
from outside, so nothing in them is executed: weights are read as tensors, and configs as plain values.
"""

import ast
import json
import re
import warnings
from collections.abc import Callable, Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, TypeGuard

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from model import weights_file
from model.encoder.hubert import HubertModel
from model.encoder.hubert_config import HubertConfig
from model.encoder.level import LEVEL
from model.torch_file import TorchFile, mapping
from pipeline.errors import TwistError, brief
from pipeline.files import foreign_json
from pipeline.files.inert_pickle import Recorded
from pipeline.records import SAMPLE_RATE_HZ

# Parameters of Hugging Face's HubertModel that only pretraining and fine-tuning read (the embedding of masked frames).
TRAINING_ONLY = {"masked_spec_embed"}
# torch's first weight norm gave its two tensors these names, and transformers wrote them for years.
OLD_WEIGHT_NORM_NAMES = {
    "encoder.pos_conv_embed.conv.weight_g": "encoder.pos_conv_embed.conv.parametrizations.weight.original0",
    "encoder.pos_conv_embed.conv.weight_v": "encoder.pos_conv_embed.conv.parametrizations.weight.original1",
}
# Added to a waveform's variance before the square root: by transformers' Wav2Vec2FeatureExtractor, and by torch's
# layer_norm, which fairseq and textlesslib call on the clip. The difference matters for quiet clips.
HUGGINGFACE_WAVEFORM_NORM_EPS = 1e-7
FAIRSEQ_WAVEFORM_NORM_EPS = 1e-5
# Where transformers says how waveforms are prepared: first what it looks at first.
PREPARING = ("processor_config.json", "preprocessor_config.json")
NUM_NAMES_IN_ERROR = 5
# Far more than any HuBERT has; limits what a hostile config can ask for.
LARGEST_NUM_CONV_LAYERS = 64

# Our names of HubertModel's settings -> fairseq's names and defaults (its HubertConfig).
FAIRSEQ_SETTINGS = {
    "conv_bias": ("conv_bias", False),
    "hidden_size": ("encoder_embed_dim", 768),
    "num_hidden_layers": ("encoder_layers", 12),
    "num_attention_heads": ("encoder_attention_heads", 12),
    "intermediate_size": ("encoder_ffn_embed_dim", 3072),
    "hidden_act": ("activation_fn", "gelu"),
    "do_stable_layer_norm": ("layer_norm_first", False),
    "num_conv_pos_embeddings": ("conv_pos", 128),
    "num_conv_pos_embedding_groups": ("conv_pos_groups", 16),
    "conv_pos_batch_norm": ("conv_pos_batch_norm", False),
}
# fairseq settings that would change features, with the only value that HubertModel supports.
FAIRSEQ_FIXED = {"layer_type": "transformer", "pos_conv_depth": 1}
FAIRSEQ_CONV_LAYERS = "[(512,10,5)] + [(512,3,2)] * 4 + [(512,2,2)] * 2"
FAIRSEQ_NORMS = {"default": "group", "layer_norm": "layer"}
BUILTIN_TYPES = ("object", "dict", "list", "tuple", "set", "frozenset", "bool", "int", "float", "str", "bytes")
# What fairseq stores beside the weights: configs, label dictionaries, training counters.
FAIRSEQ_NAMES = (
    "argparse.Namespace",
    "fairseq",
    "omegaconf",
    "enum",
    "typing",
    "numpy",
    "pathlib",
    "copyreg._reconstructor",
    "copy_reg._reconstructor",
    # The types of settings; torch.save writes pickle protocol 2, which uses Python 2's names.
    *(f"builtins.{name}" for name in BUILTIN_TYPES),
    *(f"__builtin__.{name}" for name in (*BUILTIN_TYPES, "long", "unicode")),
)
SPIRITLM_WEIGHTS = "model_weight"
# Parameters that only pretraining reads.
FAIRSEQ_TRAINING_ONLY = re.compile(r"mask_emb|label_embs_concat|(final_proj|target_glu)\..*")
FAIRSEQ_RENAMED = (
    (r"feature_extractor\.conv_layers\.(\d+)\.0\.", r"feature_extractor.conv_layers.\1.conv."),
    # Module 2 is the norm itself in the first layer ("default"), or a norm between two transpositions in every layer
    # ("layer_norm").
    (r"feature_extractor\.conv_layers\.(\d+)\.2\.(1\.)?", r"feature_extractor.conv_layers.\1.layer_norm."),
    (r"layer_norm\.", r"feature_projection.layer_norm."),
    (r"post_extract_proj\.", r"feature_projection.projection."),
    (r"encoder\.layers\.(\d+)\.self_attn\.", r"encoder.layers.\1.attention."),
    (r"encoder\.layers\.(\d+)\.self_attn_layer_norm\.", r"encoder.layers.\1.layer_norm."),
    (r"encoder\.layers\.(\d+)\.fc1\.", r"encoder.layers.\1.feed_forward.intermediate_dense."),
    (r"encoder\.layers\.(\d+)\.fc2\.", r"encoder.layers.\1.feed_forward.output_dense."),
)
FAIRSEQ_POS_CONV = ((r"encoder\.pos_conv\.0\.", "encoder.pos_conv_embed.conv."),)
FAIRSEQ_POS_CONV_BATCH_NORM = (
    (r"encoder\.pos_conv\.0\.", "encoder.pos_conv_embed.batch_norm."),
    (r"encoder\.pos_conv\.1\.", "encoder.pos_conv_embed.conv."),
)


def load_hubert(path: Path) -> tuple[HubertModel, bool, float]:
    """Loads a checkpoint of either format: a file is fairseq's, a folder is Hugging Face's.

    Returns:
        The model; whether waveforms are to be normalized; and the epsilon that the format's reference implementation
        adds to the variance when it normalizes.

    Raises:
        TwistError: see the format's loader.
    """
    if path.is_file():
        return *load_fairseq_file(path), FAIRSEQ_WAVEFORM_NORM_EPS
    return *load_huggingface_folder(path), HUGGINGFACE_WAVEFORM_NORM_EPS


def load_huggingface_folder(folder: Path) -> tuple[HubertModel, bool]:
    """Loads a folder that transformers' `save_pretrained` wrote: a HubertModel, or a model with one under `hubert.`.

    Reads `config.json`; the weights from `model.safetensors` or else `pytorch_model.bin`, or from the shards that
    `model.safetensors.index.json` or `pytorch_model.bin.index.json` lists; and what says how waveforms are prepared:
    `processor_config.json` (which transformers 5 writes) or else `preprocessor_config.json`.

    Returns:
        The model, in float32, on the CPU, in eval mode; and whether waveforms are to be normalized to zero mean and
        unit variance: the feature extractor's `do_normalize`, or False if neither file has one, with a warning if the
        model is of the kind that was trained on normalized waveforms.

    Raises:
        TwistError: a missing, unreadable or truncated file; a config of another architecture or with a setting that
            HubertModel does not have; missing, unexpected, mis-shaped or non-finite weights.
    """
    if not folder.is_dir():
        what = "is a file" if folder.exists() else "does not exist"
        raise TwistError(f"HuBERT folder {folder} {what}; give a folder with config.json and model.safetensors")
    config = _huggingface_config(folder / "config.json")
    weights_path, weights = _huggingface_weights(folder)
    if any(name.startswith("hubert.") for name in weights):
        # The rest is a head (CTC, classification), which features do not pass through.
        weights = {
            name.removeprefix("hubert."): tensor for name, tensor in weights.items() if name.startswith("hubert.")
        }
    weights = {
        OLD_WEIGHT_NORM_NAMES.get(name, name): tensor for name, tensor in weights.items() if name not in TRAINING_ONLY
    }
    do_normalize = _huggingface_do_normalize(folder)
    if do_normalize is None and config.feat_extract_norm == "layer":
        warnings.warn(
            f"{folder} has neither {' nor '.join(PREPARING)}, so its waveforms are not normalized; models like it "
            f"(feat_extract_norm: layer) were mostly trained on normalized ones: set encoder.normalize to say which",
            stacklevel=2,
        )
    return _build(config, weights, weights_path), do_normalize or False


def write_huggingface_folder(
    config: HubertConfig,
    weights: Mapping[str, Tensor],
    folder: Path,
    mask_embedding: Tensor,
    level_dbfs: float | None = None,
) -> None:
    """Writes a model that takes unnormalized waveforms, as a folder that both transformers' HubertModel and ours load.

    Args:
        config: shape of the model.
        weights: HubertModel's state dict on the CPU, weight norm not folded in.
        folder: an existing folder.
        mask_embedding: [D] the vector that replaces masked frames in pretraining.
        level_dbfs: the level that clips are to be scaled to (level.py); None: none.
    """
    content = {"model_type": "hubert", "architectures": ["HubertModel"], **asdict(config)}
    preprocessor = {
        "feature_extractor_type": "Wav2Vec2FeatureExtractor",
        "feature_size": 1,
        "sampling_rate": SAMPLE_RATE_HZ,
        "padding_value": 0.0,
        "do_normalize": False,
        "return_attention_mask": False,
        **({} if level_dbfs is None else {LEVEL: level_dbfs}),
    }
    (folder / "config.json").write_text(json.dumps(content, indent=2) + "\n")
    (folder / "preprocessor_config.json").write_text(json.dumps(preprocessor, indent=2) + "\n")
    tensors = {name: tensor.contiguous() for name, tensor in weights.items()}
    tensors["masked_spec_embed"] = mask_embedding.contiguous()
    weights_file.save(tensors, folder / "model.safetensors", {"format": "pt"})


def load_fairseq_file(path: Path) -> tuple[HubertModel, bool]:
    """Loads a `.pt` file of fairseq's HuBERT pretraining, such as mhubert_base_25hz_cp_mls_cv_sp_fisher.pt.

    Reads the settings from `cfg` (or, before fairseq 0.10, `args`) and the weights from `model`, in either format
    of torch.save. Meta's SpiRit-LM has the same under other names: `model_cfg`, `task_cfg` and `model_weight`.

    Returns:
        The model, in float32, on the CPU, in eval mode; and whether waveforms are to be normalized: the task's
        `normalize`.

    Raises:
        TwistError: a missing, truncated or damaged file, or one naming things that no such checkpoint holds; another
            architecture, or a setting that HubertModel does not have; missing, unexpected, mis-shaped or non-finite
            weights.
    """
    with TorchFile(path, FAIRSEQ_NAMES) as file:
        try:
            checkpoint = mapping(file.content)
            weights_by_name = mapping(checkpoint[SPIRITLM_WEIGHTS if SPIRITLM_WEIGHTS in checkpoint else "model"])
            model_settings, task_settings = _fairseq_settings(checkpoint)
        except (ValueError, KeyError, TypeError) as error:
            raise TwistError(f"{path} is no checkpoint of fairseq ({error}): it has no settings and weights") from None
        architecture = model_settings.get("_name", model_settings.get("arch"))
        if architecture not in ("hubert", None):
            raise TwistError(f"{path} is of fairseq's architecture {brief(architecture)}; only 'hubert' can be loaded")
        config, do_normalize = _fairseq_config(model_settings, task_settings, path)
        weights = {
            _fairseq_renamed(name, config): file.tensor(tensor)
            for name, tensor in ((str(name), tensor) for name, tensor in weights_by_name.items())
            if not FAIRSEQ_TRAINING_ONLY.fullmatch(name)
        }
    if config.conv_dim[-1] == config.hidden_size and "feature_projection.projection.weight" not in weights:
        # fairseq projects only where the two sizes differ.
        weights["feature_projection.projection.weight"] = torch.eye(config.hidden_size)
        weights["feature_projection.projection.bias"] = torch.zeros(config.hidden_size)
    return _build(config, weights, path), do_normalize


def _fairseq_settings(checkpoint: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The settings of the model and of the task; settings from a command line are one flat set for both."""
    if SPIRITLM_WEIGHTS in checkpoint:
        return _fairseq_values(checkpoint["model_cfg"]), _fairseq_values(checkpoint["task_cfg"])
    if checkpoint.get("cfg") is not None:
        config = _fairseq_values(checkpoint["cfg"])
        return _fairseq_values(config["model"]), _fairseq_values(config["task"])
    settings = _fairseq_values(checkpoint["args"])
    return settings, settings


def _fairseq_values(node: Any) -> dict[str, Any]:
    """The items of a dict, a Namespace or an omegaconf DictConfig, with omegaconf's values unwrapped."""
    if isinstance(node, Recorded) and node.name == "argparse.Namespace":
        node = node.state
    elif isinstance(node, Recorded) and node.name.startswith("omegaconf."):
        node = node.state["_content"]
    return {name: value.state["_val"] if _is_omegaconf_value(value) else value for name, value in mapping(node).items()}


def _is_omegaconf_value(node: object) -> TypeGuard[Recorded]:
    return isinstance(node, Recorded) and node.name.startswith("omegaconf.nodes.")


def _fairseq_config(model: dict[str, Any], task: dict[str, Any], path: Path) -> tuple[HubertConfig, bool]:
    for name, supported in FAIRSEQ_FIXED.items():
        if model.get(name, supported) != supported:
            raise TwistError(f"{path} has {name} {brief(model[name])}; only {supported!r} can be loaded")
    if task.get("sample_rate", SAMPLE_RATE_HZ) != SAMPLE_RATE_HZ:
        raise TwistError(f"{path} has sample_rate {brief(task['sample_rate'])}; only {SAMPLE_RATE_HZ} Hz is supported")
    do_normalize = task.get("normalize", False)
    if not isinstance(do_normalize, bool):
        raise TwistError(f"{path} has normalize {brief(do_normalize)}; it must be true or false")
    extractor_mode = model.get("extractor_mode", "default")
    if extractor_mode not in tuple(FAIRSEQ_NORMS):  # a tuple, since a file may hold a list, which is not hashable
        raise TwistError(f"{path} has extractor_mode {brief(extractor_mode)}; it must be default or layer_norm")
    settings = {ours: model.get(theirs, default) for ours, (theirs, default) in FAIRSEQ_SETTINGS.items()}
    try:
        conv_dim, conv_kernel, conv_stride = zip(
            *_conv_layers(model.get("conv_feature_layers", FAIRSEQ_CONV_LAYERS)), strict=True
        )
        config = HubertConfig(
            **settings,
            conv_dim=conv_dim,
            conv_kernel=conv_kernel,
            conv_stride=conv_stride,
            feat_extract_norm=FAIRSEQ_NORMS[extractor_mode],
        )
    except TwistError as error:
        raise TwistError(f"{path}: {error}") from error
    return config, do_normalize


def _conv_layers(expression: object) -> list[tuple[int, int, int]]:
    """Width, kernel and stride of each convolution, from text such as "[(512,10,5)] + [(512,3,2)] * 4".

    fairseq evaluates this text as Python. Here it is only parsed, and may hold lists of integer triples, sums of
    lists, and products of a list and an integer.

    Raises:
        TwistError: it holds anything else, or more convolutions than any HuBERT has.
    """

    def layers(node: ast.expr) -> list[tuple[int, int, int]]:
        match node:
            case ast.List(elts=elements):
                found = [layer(element) for element in elements]
            case ast.BinOp(op=ast.Add(), left=left, right=right):
                found = layers(left) + layers(right)
            case ast.BinOp(op=ast.Mult(), left=repeated, right=ast.Constant(value=int(times))):
                found = layers(repeated) * min(times, LARGEST_NUM_CONV_LAYERS + 1)
            case _:
                raise ValueError
        if not 1 <= len(found) <= LARGEST_NUM_CONV_LAYERS:
            raise ValueError
        return found

    def layer(node: ast.expr) -> tuple[int, int, int]:
        match node:
            case ast.Tuple(
                elts=[ast.Constant(value=int(width)), ast.Constant(value=int(kernel)), ast.Constant(value=int(stride))]
            ):
                return width, kernel, stride
        raise ValueError

    try:
        if not isinstance(expression, str):
            raise ValueError
        parsed = layers(ast.parse(expression.strip(), mode="eval").body)
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        raise TwistError(
            f"conv_feature_layers is {brief(expression)}; it must list the convolutions (at most "
            f"{LARGEST_NUM_CONV_LAYERS}) as in {FAIRSEQ_CONV_LAYERS!r}"
        ) from None
    return parsed


def _fairseq_renamed(name: str, config: HubertConfig) -> str:
    positional = FAIRSEQ_POS_CONV_BATCH_NORM if config.conv_pos_batch_norm else FAIRSEQ_POS_CONV
    for pattern, ours in (*FAIRSEQ_RENAMED, *positional):
        renamed, count = re.subn(rf"^{pattern}", ours, name)
        if count:
            return OLD_WEIGHT_NORM_NAMES.get(renamed, renamed)
    return name


def _huggingface_config(path: Path) -> HubertConfig:
    raw = _read_json(path)
    if raw.get("model_type") != "hubert":
        raise TwistError(f"{path} has model_type {brief(raw.get('model_type'))}; only 'hubert' can be loaded")
    if raw.get("adapter_attn_dim") is not None:
        raise TwistError(
            f"{path} has adapter_attn_dim {brief(raw['adapter_attn_dim'])}; adapter layers are not supported"
        )
    known = {field.name for field in fields(HubertConfig)}
    settings: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in raw.items() if name in known
    }
    try:
        return HubertConfig(**settings)
    except TwistError as error:
        raise TwistError(f"{path}: {error}") from error


def _huggingface_weights(folder: Path) -> tuple[Path, dict[str, Tensor]]:
    """The folder's weights, and the file that they are in, or that lists their shards."""
    for name, read in (("model.safetensors", _read_safetensors), ("pytorch_model.bin", _read_torch)):
        if (folder / name).is_file():
            return folder / name, read(folder / name)
        index = folder / f"{name}.index.json"
        if index.is_file():
            return index, _read_shards(index, read)
    raise TwistError(f"HuBERT folder {folder} has neither model.safetensors nor pytorch_model.bin, nor an index of one")


def _read_shards(index: Path, read: Callable[[Path], dict[str, Tensor]]) -> dict[str, Tensor]:
    """The tensors that an index names, each from the shard that it says."""
    shard_of = _read_json(index).get("weight_map")
    if not isinstance(shard_of, dict) or not shard_of:
        raise TwistError(f"{index} has no weight_map, which says in which file each tensor is")
    weights: dict[str, Tensor] = {}
    for shard in sorted({str(shard) for shard in shard_of.values()}):
        if shard in ("", ".", "..") or {"/", "\\", "\0"} & set(shard):
            raise TwistError(f"{index} names {brief(shard)}, which is no file beside it")
        path = index.with_name(shard)
        if not path.is_file():
            raise TwistError(f"{path} does not exist, but {index.name} names it: fetch it too")
        found = read(path)
        wanted = [name for name, place in shard_of.items() if place == shard]
        lacking = [name for name in wanted if name not in found]
        if lacking:
            raise TwistError(f"{path} lacks {lacking[0]}, which {index.name} says is in it")
        weights |= {name: found[name] for name in wanted}
    return weights


def _huggingface_do_normalize(folder: Path) -> bool | None:
    """Whether waveforms are to be normalized; None if no file says how they are prepared."""
    for name in PREPARING:
        path = folder / name
        if path.is_file():
            content = _read_json(path)
            raw = content.get("feature_extractor") if name == PREPARING[0] else content
            if isinstance(raw, dict):  # else the processor of transformers 4, which leaves that to the other file
                return _do_normalize(raw, path)
    return None


def _do_normalize(raw: dict[str, object], path: Path) -> bool:
    if raw.get("sampling_rate", SAMPLE_RATE_HZ) != SAMPLE_RATE_HZ:
        raise TwistError(
            f"{path} has sampling_rate {brief(raw['sampling_rate'])}; only {SAMPLE_RATE_HZ} Hz is supported"
        )
    do_normalize = raw.get("do_normalize", True)  # transformers' own default
    if not isinstance(do_normalize, bool):
        raise TwistError(f"{path} has do_normalize {brief(do_normalize)}; it must be true or false")
    return do_normalize


def _read_json(path: Path) -> dict[str, object]:
    if not path.is_file():
        raise TwistError(f"{path} does not exist; a Hugging Face folder has one")
    try:
        content = foreign_json.parse(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise TwistError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(content, dict):
        raise TwistError(f"{path} holds no JSON object")
    return content


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    """The tensors of one file by name."""
    try:
        return safetensors.torch.load_file(path)
    except safetensors.SafetensorError as error:
        raise TwistError(f"{path} cannot be read ({error}); it may be truncated: fetch it again") from error


def _read_torch(path: Path) -> dict[str, Tensor]:
    with TorchFile(path) as file:
        try:
            tensors = mapping(file.content)
        except ValueError:
            tensors = {"": None}
        if not all(isinstance(tensor, Recorded) for tensor in tensors.values()):
            raise TwistError(f"{path} is not a state dict: it must hold tensors by name")
        return {name: file.tensor(tensor) for name, tensor in tensors.items()}


def _build(config: HubertConfig, weights: dict[str, Tensor], source: Path) -> HubertModel:
    """A float32 model with exactly these weights, which have HubertModel's own names."""
    # Shapes are compared before memory is allocated, since a config may ask for any amount.
    with torch.device("meta"):
        model = HubertModel(config)
    expected = model.state_dict()
    for problem, names in (
        ("lacks", [name for name in expected if name not in weights]),
        ("has unexpected", [name for name in weights if name not in expected]),
        (
            "has tensors whose shape its config does not give:",
            [
                f"{name} {list(weights[name].shape)} (config: {list(tensor.shape)})"
                for name, tensor in expected.items()
                if name in weights and weights[name].shape != tensor.shape
            ],
        ),
        (
            "has NaN or infinite values in",
            [name for name, tensor in weights.items() if name in expected and not tensor.float().isfinite().all()],
        ),
    ):
        if names:
            shown = ", ".join(names[:NUM_NAMES_IN_ERROR])
            more = f" and {len(names) - NUM_NAMES_IN_ERROR} more" if len(names) > NUM_NAMES_IN_ERROR else ""
            raise TwistError(f"{source} {problem} {shown}{more}: it is not the checkpoint its config describes")
    model.load_state_dict({name: weights[name].to(tensor.dtype) for name, tensor in expected.items()}, assign=True)
    return model.eval()
