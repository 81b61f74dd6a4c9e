"""The one error type that a user's mistake raises; commands print its message and exit with status 2."""


class TwistError(ValueError):
    """Something the user can mend: a missing input, a setting that does not fit, a run made with other settings.

    The message says what is wrong, where, and what to do; it is shown without a traceback.
    """
