"""Read a recipe from a file or from standard input, and build what it stands for.

The recipe itself is all that is opened.
"""

from __future__ import annotations

import os

from zpipe.errors import UsageError, reason
from zpipe.recipe.build import Built, build
from zpipe.recipe.document import MOST_BYTES, parse

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

STANDARD_INPUT = "-"


def load(
    path: str, given: Mapping[str, str] | None = None, environ: Mapping[str, str] | None = None
) -> Built:
    """Return what the recipe at `path` stands for; `-` is standard input.

    `given` are the values of parameters; `environ` is for ${env:NAME}, None: that of the process.

    Raises: RecipeError  it is invalid; with all findings.
            UsageError   it cannot be read.
    """
    return loads(_read(path), path, given, environ)


def loads(
    data: bytes,
    name: str,
    given: Mapping[str, str] | None = None,
    environ: Mapping[str, str] | None = None,
) -> Built:
    """Return what the text of a recipe stands for; `name` is what messages call its file.

    Raises: RecipeError  it is invalid; with all findings.
    """
    return build(parse(data, name), given or {}, os.environ if environ is None else environ)


def _read(path: str) -> bytes:
    """Return the bytes of a file, no more than show that they are too many. Raises: UsageError."""
    try:
        if path == STANDARD_INPUT:
            return _all_of(0)
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOCTTY)
        try:
            return _all_of(fd)
        finally:
            os.close(fd)
    except (OSError, ValueError) as error:
        # Python puts a NUL in other words from version to version
        why = reason(error) if isinstance(error, OSError) else "a NUL cannot be in a path"
        raise UsageError(f"{path}: open: {why}") from None


def _all_of(fd: int) -> bytes:
    pieces = []
    room = MOST_BYTES + 1
    while room and (piece := os.read(fd, min(room, 1 << 16))):
        pieces.append(piece)
        room -= len(piece)
    return b"".join(pieces)


load_recipe = load  # as `zpipe` calls it
