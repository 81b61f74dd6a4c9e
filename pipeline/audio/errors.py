"""What is wrong with a piece of audio."""


class AudioError(Exception):
    """Audio that cannot be used: `reason` is one word for the tables of drops, `detail` a phrase that explains it."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(reason, detail)  # unchanged, so that the error survives pickling between processes
        self.reason = reason
        self.detail = detail

    def __str__(self) -> str:
        return f"{self.reason}: {self.detail}"
