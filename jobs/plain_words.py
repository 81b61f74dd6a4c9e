"""A parser's messages in the words of recipes."""

from __future__ import annotations

import re


def in_plain_words(error: Exception) -> str:
    """A parser's message on one line, in the words of recipes in place of Python's."""
    text = " ".join(str(error).split())
    for python, plainly in _IN_PLAIN_WORDS.items():
        text = re.sub(python, plainly, text)
    return text


_IN_PLAIN_WORDS = {
    r"Problem with given class_path '[^']*': ": "",
    r'Parser key "([^"]*)": ': r"\1: ",
    r"Does not validate against any of the Union subtypes Subtypes: .*? Given value type: \S+ \S+ Given value: (.*)$": (
        r"a value of another type is needed. Got value: \1"
    ),
    r"[Ee]xpected an? (?:typing\.)?Literal\[(.*?)\]\.": r"it is one of \1.",
    r"[Ee]xpected a <class 'float'>": "it is a number",
    r"[Ee]xpected a <class 'int'>": "it is a whole number",
    r"[Ee]xpected a <class 'bool'>": "it is true or false",
    r"[Ee]xpected a <class 'str'>": "it is text",
    r"[Ee]xpected a <class '(?:tuple|list)'>": "it is a list",
    r"[Ee]xpected a <class '(?:dict|[\w.]*)'>": "it holds settings",
    r"Expected a dot import path string: (.*)": r"there is no setting \1",
    r"Unable to load config '(.*?)' - .*": r"it holds settings, not \1",
    r" Got value: ": " not ",
    r"\. not ": ", not ",
}
