"""The `twist` command: `twist COMMAND ...` is the same as `python -m jobs.COMMAND ...`."""

from __future__ import annotations

import importlib
import importlib.metadata
import sys
from collections.abc import Sequence

from pipeline.runs import STAGES

USERS_MISTAKE = 2  # the same in jobs/command.py, which takes longer to import

COMMANDS = {
    "run": "all stages of a recipe in order, from audio to an evaluated model; finished ones are skipped",
    **{stage.command: stage.purpose for stage in STAGES},
    "train": "train a speech language model on shards",
    "evaluate": "measure a speech language model, and set results side by side",
    "generate": "continue a spoken prompt with a speech language model",
    "resynthesize": "turn audio into units and speak these",
    "speak": "speak units",
    "inspect": "show, and verify, a run or any part of one",
    "export": "write the units of shards in another project's files",
    "make-speech": "make speech for the demo, to pretrain a tokenizer on, or to train a vocoder on",
    "make-text": "make a text for the demo of speech and text, or train a tokenizer of one's own",
    "make-benchmark": "make a spoken benchmark: a small one for the demo, or StoryCloze from your copy of the stories",
    "train-vocoder": "train a vocoder on the audio and units of a run",
    "pretrain-tokenizer": "pretrain a HuBERT on the audio and units of a run",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command that the first argument names with the other arguments; returns the exit status."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_usage())
        return 0 if arguments else USERS_MISTAKE
    if arguments[0] == "--version":
        print(f"twist {importlib.metadata.version('twist-pipeline')}")
        return 0
    if arguments[0] not in COMMANDS:
        print(f"twist: there is no command {arguments[0]!r}; commands are {', '.join(COMMANDS)}", file=sys.stderr)
        return USERS_MISTAKE
    status: int = importlib.import_module(f"jobs.{arguments[0].replace('-', '_')}").main(arguments[1:])
    return status


def _usage() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}} {what}" for name, what in COMMANDS.items()]
    return "\n".join(["usage: twist COMMAND [--help] ...", "", *lines])


if __name__ == "__main__":
    sys.exit(main())
