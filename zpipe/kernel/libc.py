"""The C library through ctypes, for the calls that the standard library does not have."""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ctypes import CDLL
    from typing import Any

_library: CDLL | None = None


def libc() -> CDLL:
    """Return the C library, loaded on first use."""
    global _library
    if _library is None:
        import ctypes

        _library = ctypes.CDLL(None, use_errno=True)
    return _library


def checked(result: int) -> int:
    """Return a system call's result, or raise the OSError that errno names."""
    if result < 0:
        import ctypes

        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


def signed(name: str) -> Any:
    """Return a function of the C library whose result is ssize_t."""
    import ctypes

    function = getattr(libc(), name)
    function.restype = ctypes.c_ssize_t
    return function
