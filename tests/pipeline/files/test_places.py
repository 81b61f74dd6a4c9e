"""Errors of the system: which are the place's, which may be, and which say something about the file."""

from __future__ import annotations

import errno
import os

import pytest

from pipeline.files.places import FILE_ERRNOS, PLACE_ERRNOS, PlaceError, reason_of

NAMED = {errno.ENOENT: "missing", errno.EACCES: "forbidden", errno.EPERM: "forbidden"}
CONNECTIONS = {errno.EPIPE, errno.ESHUTDOWN, errno.ECONNABORTED, errno.ECONNREFUSED, errno.ECONNRESET}


def reason(number: int) -> str:
    try:
        return reason_of(OSError(number, os.strerror(number)))
    except PlaceError:
        return "the place"
    except ConnectionError:
        return "a connection"


@pytest.mark.parametrize("number", sorted(errno.errorcode), ids=errno.errorcode.get)
def test_only_what_speaks_of_the_file_is_booked_on_it_for_good(number: int) -> None:
    told = reason(number)
    assert (told == "unreadable") == (number in FILE_ERRNOS)
    if number in CONNECTIONS:
        assert told in ("a connection", "the place")
    elif number in PLACE_ERRNOS:
        assert told == "the place"
    elif number not in FILE_ERRNOS:
        assert told == NAMED.get(number, "io_error")


def test_what_file_systems_say_of_damage_in_themselves() -> None:
    assert {reason(number) for number in (errno.EIO, errno.EUCLEAN, errno.EBADMSG, errno.ENOKEY)} == {"io_error"}


def test_a_librarys_word_is_about_the_file() -> None:
    assert reason_of(OSError("not a Parquet file")) == "unreadable"
