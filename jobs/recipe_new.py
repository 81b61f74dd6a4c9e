"""Writes a commented recipe for a kind of corpus and a text LM: `twist recipe new --for mls --lm opt-350m > mine.yaml`.

Settings that were chosen are in force; all others of their sections are there as comments, with their defaults.
"""

from __future__ import annotations

import sys
import textwrap
from argparse import ArgumentError
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, is_dataclass
from typing import Any, Literal

import yaml
from jsonargparse import ArgumentParser, Namespace

from jobs.command import add_option, guard
from jobs.recipe import SECTIONS, plain, usage_error
from jobs.settings import MISSING, Setting, settings_of, summary_of
from pipeline.corpora.source import CorpusConfig, Kind

WIDTH = 100
# In the order in which a run needs them.
SHOWN = ("language", "segments", "encoder", "codebook", "pack", "train", "cluster")

OF_HOURS = {
    "segments": {"min_s": 2.0, "max_s": 25.0, "detect_speech": "long"},
    "encoder": {"name": "hubert", "path": "mhubert-base-25hz", "layer": 11},
    "codebook": {"num_units": 500, "path": "mhubert-base-25hz-km500"},
    "pack": {"units_per_shard": 10_000_000},
}
# For minutes of speech: the tokenizer that comes with this package, and shares of so little that are not empty.
OF_MINUTES = {
    "segments": {"max_s": 12.0, "detect_speech": "all", "work_unit_minutes": 2.0},
    "encoder": {"name": "hubert", "path": "hubert-tiny-25hz", "layer": 3},
    "codebook": {"num_units": 100, "path": "hubert-tiny-25hz-km100"},
    "pack": {"min_shards": 2, "split": {"corpus_splits": "ignore", "validation": 0.15, "test": 0.0}},
}
PAPERS_WARM_START = {
    "batch_size": 64,
    "max_units": 704,
    "num_steps": 400_000,
    "peak_lr": 4e-4,
    "final_lr": 8e-5,
    "warmup_steps": 100,
    "schedule": "inverse_sqrt",
    "precision": "bfloat16",
}
LLAMA = {
    "batch_size": 1024,
    "gradient_accumulation": 8,
    "max_units": 704,
    "num_steps": 75_000,
    "peak_lr": 1e-4,
    "final_lr": 1e-5,
    "warmup_steps": 500,
    "schedule": "cosine",
    "precision": "bfloat16",
    "sharded": True,
    "activation_checkpointing": True,
}
# A cold start that minutes of speech and two cores are enough for.
SMALL = {
    "architecture": {
        "model_type": "bloom",
        "hidden_size": 144,
        "n_layer": 6,
        "n_head": 6,
        "hidden_dropout": 0.3,
        "attention_dropout": 0.2,
    },
    "batch_size": 16,
    "num_steps": 240,
    "peak_lr": 5e-3,
    "final_lr": 2e-4,
    "warmup_steps": 20,
    "weight_decay": 1.0,
    "schedule": "cosine",
    "validate_every": 20,
    "checkpoint_every": 40,
    "log_every": 5,
}


@dataclass(frozen=True)
class TextLM:
    """A text LM to start from.

    Attributes:
        repository: Where the Hugging Face hub has it; None for a cold start.
        train: How it is trained, as in the recipe of its name in recipes/.
        data: The sections before `train`, but for `language`.
    """

    repository: str | None
    train: Mapping[str, Any] = field(default_factory=lambda: PAPERS_WARM_START)
    data: Mapping[str, Any] = field(default_factory=lambda: OF_HOURS)

    @property
    def folder(self) -> str | None:
        """Where a recipe expects it."""
        return self.repository and f"models/{self.repository.rpartition('/')[2]}"


LmName = Literal["small", "opt-125m", "opt-350m", "opt-1.3b", "bloom", "pythia", "imagegpt", "llama-7b"]
LMS: dict[LmName, TextLM] = {
    "small": TextLM(None, SMALL, OF_MINUTES),
    "opt-125m": TextLM("facebook/opt-125m"),
    "opt-350m": TextLM("facebook/opt-350m"),
    "opt-1.3b": TextLM("facebook/opt-1.3b"),
    "bloom": TextLM("bigscience/bloom-560m"),
    "pythia": TextLM("EleutherAI/pythia-410m"),
    "imagegpt": TextLM("openai/imagegpt-medium"),
    "llama-7b": TextLM("huggyllama/llama-7b", LLAMA),
}
# Their recordings need not say what is spoken in them.
WITHOUT_LANGUAGE = ("auto", "folder", "lhotse", "fairseq", "webdataset", "hf_parquet", "nemo")


def work(given: Namespace) -> None:
    """Prints the recipe."""
    print("\n".join(new_recipe(given.kind, given.lm, given.root or f"data/{given.kind}")))


def new_recipe(kind: Kind, lm_name: LmName, root: str) -> Iterator[str]:
    """The lines of a commented recipe.

    Args:
        kind: How the corpus is laid out.
        lm_name: The text LM, one of LMS.
        root: The corpus' folder.
    """
    lm = LMS[lm_name]
    chosen = _chosen(kind, lm)
    corpus = CorpusConfig(root=root, kind=kind)
    yield f"# A speech LM on a corpus of kind {kind}, from {lm_name}. Every command takes --config THIS_FILE;"
    yield "# `twist recipe check` finds mistakes in it, `twist recipe show` prints what is in force."
    if lm.repository:
        yield f"# The text LM: hf download {lm.repository} --local-dir {lm.folder}"
    yield "# Lines that begin with `#   name:` are settings at their defaults: remove the # to change one."
    yield f"run: runs/{corpus.label}-{lm_name}"
    yield ""
    yield from _comment(summary_of(CorpusConfig), "")
    yield "corpora:"
    for number, setting in enumerate(settings_of(CorpusConfig)):
        yield from _comment(setting.help, "    ")
        given = {"root": root, "kind": kind, "name": corpus.label}.get(setting.name)
        start = "  - " if number == 0 else "    "
        yield (
            f"{start}{setting.name}: {_as_yaml(given)}" if given else f"#   {setting.name}: {_as_yaml(setting.default)}"
        )
    for section in SHOWN:
        yield ""
        yield from _comment(summary_of(SECTIONS[section]), "")
        yield f"{section}:" if chosen.get(section) else f"# {section}:"
        yield from _settings(SECTIONS[section], chosen.get(section, {}), "  ")


def _chosen(kind: Kind, lm: TextLM) -> dict[str, Any]:
    """The settings in force."""
    language = {"languages": ["en"], **({"unknown": "keep"} if kind in WITHOUT_LANGUAGE else {})}
    init = {"init": lm.folder} if lm.folder else {}
    return {
        "language": language,
        **lm.data,
        "train": {**init, **lm.train},
    }


def _settings(config: type, chosen: Mapping[str, Any], indent: str) -> Iterator[str]:
    """A comment and a line for each setting; those that were not chosen are commented out."""
    for setting in settings_of(config):
        if setting.name in chosen:
            yield from _comment(setting.help, indent)
            yield from _lines(setting.name, chosen[setting.name], indent)
        elif setting.config is None or not is_dataclass(setting.default):
            yield from _comment(setting.help, indent)
            yield f"#{indent}{setting.name}: {_as_yaml(_default(setting))}"
        else:
            yield from _comment(setting.help, indent)
            yield f"#{indent}{setting.name}:"
            for inner in settings_of(setting.config):
                yield from _comment(inner.help, indent + "  ")
                yield f"#{indent}  {inner.name}: {_as_yaml(_default(inner))}"


def _default(setting: Setting) -> Any:
    return None if setting.default is MISSING else setting.default


def _lines(name: str, value: Any, indent: str) -> Iterator[str]:
    """A setting in force; a mapping has a line for each of its keys."""
    if not isinstance(value, dict):
        yield f"{indent}{name}: {_as_yaml(value)}"
        return
    yield f"{indent}{name}:"
    for key, inner in value.items():
        yield f"{indent}  {key}: {_as_yaml(inner)}"


def _comment(text: str, indent: str) -> list[str]:
    start = f"{indent}# "
    return textwrap.wrap(text, WIDTH, initial_indent=start, subsequent_indent=start, break_on_hyphens=False)


def _as_yaml(value: Any) -> str:
    text = yaml.safe_dump(plain(value), default_flow_style=True, allow_unicode=True, width=10**9)
    return text.removesuffix("\n").removesuffix("\n...")


def main(argv: Sequence[str] | None = None) -> int:
    arguments = sys.argv[1:] if argv is None else argv

    def read_and_work() -> None:
        parser = ArgumentParser(prog="twist recipe new", description=__doc__, exit_on_error=False, allow_abbrev=False)
        add_option(parser, "for", dest="kind", type=Kind, required=True, help="How the corpus is laid out.")
        add_option(parser, "lm", type=LmName, required=True, help="The text LM; small: a cold start of minutes.")
        add_option(parser, "root", type=str | None, help="The corpus' folder, local or s3://; data/KIND unless given.")
        try:
            given = parser.parse_args(list(arguments))
        except ArgumentError as error:
            raise usage_error(error, arguments, parser) from error
        work(given)

    return guard("recipe new", read_and_work)


if __name__ == "__main__":
    sys.exit(main())
