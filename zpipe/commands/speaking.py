"""Lines on standard error, for people, and results on standard output. Loads next to nothing:
errors of the quickest ways end here too.
"""

from __future__ import annotations

import os
import sys

_CONTROLS = {code: repr(chr(code))[1:-1] for code in (*range(32), *range(127, 160))}


def tell(text: str) -> None:
    """Write one line of zpipe's own; a name in it keeps its bytes, save for those that would steer
    the terminal.
    """
    show(f"zpipe: {harmless(text)}")


def harmless(text: str) -> str:
    """Return a text in which what would steer a terminal is written out."""
    return text.translate(_CONTROLS)


def columns(otherwise: int) -> int:
    """Return how wide the terminal at standard output is; of anything else, `otherwise`."""
    try:
        return os.get_terminal_size(1).columns or otherwise
    except OSError:
        return otherwise


def show(text: str) -> None:
    """Write to stderr as it is; where it is closed or nobody reads it, the bytes go on anyway.

    Not by print: without sys.stderr that would write to standard output, which is data.
    """
    try:
        os.write(2, encoded(text))
    except OSError:
        pass


def write_out(text: str) -> None:
    """Write lines to standard output, all of them.

    Raises: ConsumerGone   nobody reads it.
            TransferError  with the kernel's reason.
    """
    rest = memoryview(encoded(text))
    try:
        while rest:
            rest = rest[os.write(1, rest) :]
    except OSError as error:
        from zpipe.errors import ConsumerGone, open_failed

        if isinstance(error, BrokenPipeError):
            raise ConsumerGone("standard output: write: nobody reads it") from None
        raise open_failed("standard output", "write", error) from error


def encoded(text: str) -> bytes:
    """Return a line with names as the bytes that they are, in a locale that may lack our arrows."""
    try:
        return os.fsencode(text + "\n")
    except UnicodeEncodeError:
        return (text + "\n").encode(sys.getfilesystemencoding(), "backslashreplace")
