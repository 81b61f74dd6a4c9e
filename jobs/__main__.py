"""The `twist` command: `twist COMMAND ...` is the same as `python -m jobs.COMMAND ...`."""

from __future__ import annotations

import difflib
import importlib
import importlib.metadata
import sys
from collections.abc import Mapping, Sequence

from pipeline.runs import AFTER_TRAINING, STAGES

USERS_MISTAKE = 2  # the same in jobs/command.py, which takes longer to import

GROUPS = {
    "start here": {
        "run": "all stages of a recipe in order, from audio to an evaluated model; finished ones are skipped",
        "inspect": "show, and verify, a run or any part of one",
        "report": "write pages to look at and listen to: hours, drops, units, training, clips",
        "status": "say what runs: rate, time left, limiting step, stragglers, quarantine, cost",
        "trace": "say what became of a recording, segment, sample or file",
        "estimate": "say what a corpus will take: hours, machines, storage, money, from a sample of it",
        "doctor": "check this machine, and say what to do where something is missing",
        "recipe new": "write a commented recipe for a corpus and a text LM",
        "recipe check": "say all that is wrong in a recipe, by line",
        "recipe show": "print every setting of a recipe, and where it comes from",
    },
    "from audio to shards, stage by stage": {stage.command: stage.purpose for stage in STAGES},
    "train and measure": {
        "train": "train a speech language model on shards",
        **{stage.command: stage.purpose for stage in AFTER_TRAINING},
        "tune": "tune a speech language model on preference pairs (DPO)",
        "evaluate": "measure a speech language model, and set results side by side",
    },
    "units and speech": {
        "units": "print, or write, the units of audio files",
        "generate": "continue a spoken prompt with a speech language model",
        "resynthesize": "turn audio into units and speak these",
        "speak": "speak units",
        "export": "write the units of shards in another project's files",
    },
    "make data, tokenizers and voices": {
        "make-speech": "make speech for the demo, to pretrain a tokenizer on, or to train a vocoder on",
        "make-text": "make a text for the demo of speech and text, or train a tokenizer of one's own",
        "train-style": "fit a style model on the audio of a run: clusters, or labels",
        "make-benchmark": "make a spoken benchmark: a small one for the demo, or StoryCloze from your copy of the "
        "stories",
        "train-vocoder": "train a vocoder on the audio and units of a run",
        "train-pitch": "train a pitch tokenizer on the segments of a run",
        "train-language": "train a small classifier of spoken languages on the segments of a run",
        "pretrain-tokenizer": "pretrain a HuBERT on the audio and units of a run",
        "tune-tokenizer": "make a HuBERT's units depend less on the speaker (Spin), on the speech of a run",
    },
}
COMMANDS = {name: what for commands in GROUPS.values() for name, what in commands.items()}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command that the first argument names with the other arguments; returns the exit status."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_usage())
        return 0 if arguments else USERS_MISTAKE
    if arguments[0] == "--version":
        print(f"twist {importlib.metadata.version('twist-pipeline')}")
        return 0
    name = next((name for name in COMMANDS if name.split() == arguments[: len(name.split())]), None)
    if name is None:
        return _refuse(arguments[0])
    module = importlib.import_module(f"jobs.{name.replace('-', '_').replace(' ', '_')}")
    status: int = module.main(arguments[len(name.split()) :])
    return status


def _refuse(word: str) -> int:
    """Says that there is no such command, or which ones begin with the word."""
    begun = {name: what for name, what in COMMANDS.items() if name.split()[0] == word}
    if begun:
        print("\n".join([f"usage: twist {word} COMMAND [--help] ...", "", *_lines(begun)]), file=sys.stderr)
    else:
        meant = difflib.get_close_matches(word, COMMANDS, n=1)
        hint = f"did you mean {meant[0]}?" if meant else f"commands are {', '.join(COMMANDS)}"
        print(f"twist: there is no command {word!r}; {hint}", file=sys.stderr)
    return USERS_MISTAKE


def _usage() -> str:
    lines = ["usage: twist COMMAND [--help] ...", "       twist --version"]
    for title, commands in GROUPS.items():
        lines += ["", f"{title}:", *_lines(commands)]
    return "\n".join(lines)


def _lines(commands: Mapping[str, str]) -> list[str]:
    width = max(map(len, COMMANDS))
    return [f"  {name:<{width}} {what}" for name, what in commands.items()]


if __name__ == "__main__":
    sys.exit(main())
