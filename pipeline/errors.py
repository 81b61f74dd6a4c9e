"""Errors that end a command with a sentence instead of a traceback: the user's mistakes, and failures from outside."""

import reprlib

_BRIEF = reprlib.Repr()
_BRIEF.maxstring = _BRIEF.maxother = 200
_BRIEF.maxlist = _BRIEF.maxtuple = _BRIEF.maxdict = 10


class TwistError(ValueError):
    """Something the user can fix: a missing input, an invalid setting, a run made with other settings.

    The message says what is wrong, where, and what to do; it is shown without a traceback.
    """


class RunError(RuntimeError):
    """The settings are right, but a disk, a store or a machine failed; commands print it and exit with status 1.

    Once that is fixed, the same command continues from where it stopped.
    """


def brief(value: object) -> str:
    """The repr of a value from a file, cut where it is long or deep."""
    return _BRIEF.repr(value)
