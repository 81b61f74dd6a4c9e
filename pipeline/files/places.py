"""Tells a failure of a place (a mount, a store, the machine) from one of a file.

Some errors are always the place's, a few the file's. All others (no such file, access denied, an I/O error) may be
either one's: they are reasons to drop a file only where its neighbours can be read, which audio/places.py finds out.
"""

from __future__ import annotations

import errno

# The machine is out of a resource, or the mount is dead, was replaced or cannot reach its server.
PLACE_ERRNOS = frozenset(
    {
        errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS, errno.EINTR, errno.EAGAIN, errno.EBUSY,
        errno.ENOSPC, errno.EDQUOT, errno.EROFS,
        errno.ENOTCONN, errno.ESTALE, errno.ENODEV, errno.ENXIO, errno.ETIMEDOUT, errno.ENONET, errno.ENOLINK,
        errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.ENETDOWN, errno.ENETUNREACH, errno.ENETRESET, errno.EREMOTEIO,
        errno.ECOMM, errno.EPROTO, errno.ESHUTDOWN, errno.ENOMEDIUM,
    }
)  # fmt: skip
# What is there is no file that could be read as one, or its name cannot be one.
FILE_ERRNOS = frozenset(
    {errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.EINVAL, errno.EILSEQ, errno.EFBIG, errno.EOVERFLOW}
)
# Reasons to drop a file that may turn out to be the place's fault after all.
DOUBTFUL_REASONS = ("missing", "forbidden", "io_error")


class PlaceError(ConnectionError):
    """A mount, a store or the machine fails: no fault of the file that was to be read."""


def reason_of(error: OSError) -> str:
    """The reason to drop a file that could not be opened or read: one of DOUBTFUL_REASONS, or `unreadable`.

    Raises:
        ConnectionError: the place is at fault.
    """
    if isinstance(error, ConnectionError):
        raise error
    if error.errno in PLACE_ERRNOS or isinstance(error, TimeoutError):
        raise PlaceError(str(error)) from error
    if isinstance(error, FileNotFoundError):
        return "missing"
    if isinstance(error, PermissionError):
        return "forbidden"
    # Without a number, it is a library's word on what it has read.
    return "unreadable" if error.errno in FILE_ERRNOS or error.errno is None else "io_error"
