"""Scores a file of predictions on a manifest of STSP, as the benchmark's own scorer does: the share that is right."""

from __future__ import annotations

import json
import sys

from jsonargparse import ArgumentParser, Namespace

from jobs.command import command
from jobs.recipe import Recipe
from pipeline.evaluation.sentiment.predictions import Label


def work(_: Recipe, given: Namespace) -> None:
    """Prints the accuracy.

    Raises:
        TwistError: a file cannot be read, or the predictions are not those of the manifest's records.
    """
    from pipeline.evaluation.sentiment.predictions import score_predictions

    accuracy = score_predictions(given.references, given.predictions, given.label)
    if given.json:
        told = {"accuracy": accuracy.share, "num_right": accuracy.num_right, "num_records": accuracy.num_records}
        print(json.dumps({"label": given.label, **told}))
    else:
        counts = f"{accuracy.num_right:,} of {accuracy.num_records:,} right by {given.label}"
        print(f"stsp-score {accuracy.share:.2%}: {counts}")


def _add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("references", type=str, help="The manifest: JSON lines with id, and emotion or sentiment.")
    parser.add_argument("predictions", type=str, help="The predictions: JSON lines with id and pred, of the same ids.")
    parser.add_argument("--label", type=Label, default="sentiment", help="What of a record the prediction must equal.")
    parser.add_argument("--json", action="store_true", help="Print a JSON object.")


main = command("evaluate stsp-score", __doc__, work, add_arguments=_add_arguments, needs_run=lambda _: False)


if __name__ == "__main__":
    sys.exit(main())
