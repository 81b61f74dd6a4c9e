"""What is wrong with a piece of audio."""


class AudioError(Exception):
    """Audio that cannot be used: `reason` is one word for the tables of drops, `detail` a phrase that explains it."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(reason, detail)  # unchanged, so that the error survives pickling between processes
        self.reason = reason
        self.detail = detail

    def __str__(self) -> str:
        return f"{self.reason}: {self.detail}"


def not_finite() -> AudioError:
    """The error of samples that are no numbers."""
    return AudioError("not_finite", "the file holds NaN or infinite samples")


def silent() -> AudioError:
    """The error of audio without a sound."""
    return AudioError("silent", "digital silence")
