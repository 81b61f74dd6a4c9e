"""A copy of any open file that lies on this machine's disk."""

from __future__ import annotations

import shutil
import tempfile
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import BinaryIO

COPIED_AT_ONCE = 2**22


def unnamed_copy(file: BinaryIO) -> BinaryIO:
    """Copies a file from its beginning to a local one without a name, which disappears when it is closed."""
    copy = tempfile.TemporaryFile()  # noqa: SIM115
    try:
        file.seek(0)
        shutil.copyfileobj(file, copy, COPIED_AT_ONCE)
        copy.flush()
    except BaseException:
        copy.close()
        raise
    return copy
