"""The page on which raters hear and rate clips: one HTML file that asks nothing of the network."""

from __future__ import annotations

import html
import json
from importlib import resources
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


def make_page(study: str, parts: Sequence[Sequence[str]], prompt_s: float) -> str:
    """The page of a study, which looks for its clips in `audio/` beside it.

    Args:
        study: The study's fingerprint, which answers name.
        parts: The clips of each part. A rater does one part at a time; on MTurk, a task is one part.
        prompt_s: Seconds of each clip that are the prompt, as the instructions say.
    """
    template = resources.files(__package__).joinpath("page.html").read_text(encoding="utf-8")
    content = json.dumps({"study": study, "parts": parts}, separators=(",", ":"))
    filled = {"__STUDY__": content.replace("<", "\\u003c"), "__PROMPT_S__": html.escape(f"{prompt_s:g}")}
    for mark, text in filled.items():
        assert template.count(mark) == 1, f"{mark} comes {template.count(mark)} times in page.html"
        template = template.replace(mark, text)
    return template
