"""Lines on standard error, for people. Loads nothing: errors of the quickest ways end here too."""

from __future__ import annotations

import os
import sys

_CONTROLS = {code: repr(chr(code))[1:-1] for code in (*range(32), *range(127, 160))}


def tell(text: str) -> None:
    """Write one line of zpipe's own; a name in it keeps its bytes, save for those that would steer
    the terminal.
    """
    show(f"zpipe: {text.translate(_CONTROLS)}")


def show(text: str) -> None:
    """Write to stderr as it is; where it is closed or nobody reads it, the bytes go on anyway.

    Not by print: without sys.stderr that would write to standard output, which is data.
    """
    try:
        os.write(2, encoded(text))
    except OSError:
        pass


def encoded(text: str) -> bytes:
    """Return a line with names as the bytes that they are, in a locale that may lack our arrows."""
    try:
        return os.fsencode(text + "\n")
    except UnicodeEncodeError:
        return (text + "\n").encode(sys.getfilesystemencoding(), "backslashreplace")
