"""What ends a command with a sentence instead of a traceback: a user's mistake, or a failure from outside."""


class TwistError(ValueError):
    """Something the user can mend: a missing input, a setting that does not fit, a run made with other settings.

    The message says what is wrong, where, and what to do; it is shown without a traceback.
    """


class RunError(RuntimeError):
    """The settings are right, but a disk, a store or the machines are not; commands print it and exit with status 1.

    The same command, run again when that is mended, goes on from where it was.
    """
