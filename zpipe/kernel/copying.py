"""Memory copied by the kernel: a page that is not there ends in a short count, not in SIGBUS.

A page of a mapping is not there once its file was cut. Touched by the program itself, that ends
the process; the kernel, when it copies for a system call, stops and says EFAULT.
"""

from __future__ import annotations

import errno
import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

_CHUNK = 256 << 20  # one call cannot be interrupted
_PIPED = 64 << 10  # what every pipe takes at once
_UNAVAILABLE = frozenset({errno.EPERM, errno.ENOSYS})  # containers may forbid it

_between: Callable[[int, int, int], int] | None = None
_forbidden = False
_view: Any = None


def place_of(buffer: object) -> int:
    """Return where the bytes of a contiguous buffer are; also of one that is read-only.

    It stays there only as long as somebody holds a view of the buffer.
    """
    import ctypes

    global _view
    if _view is None:
        _view = _view_type()
    found = _view()
    ctypes.pythonapi.PyObject_GetBuffer(ctypes.py_object(buffer), ctypes.byref(found), 0)
    place: int = found.place or 0
    ctypes.pythonapi.PyBuffer_Release(ctypes.byref(found))
    return place


def copy_memory(dst: memoryview, src: memoryview) -> int:
    """Copy `src` into `dst`, which is as long, and either of which may be a mapping.

    Returns: bytes copied; fewer where a page of one of them cannot be reached.
    Source: process_vm_readv(2), with the process itself as the other one.
    """
    global _forbidden
    if not _forbidden:
        try:
            return _by_call(dst, src)
        except OSError as error:
            if error.errno not in _UNAVAILABLE:
                raise
            _forbidden = True
    return copy_through_pipe(dst, src)


def copy_through_pipe(dst: memoryview, src: memoryview) -> int:
    """Do the same as `copy_memory` with read(2) and write(2) alone, at twice the copies."""
    copied = 0
    while copied < len(src):
        # a new one each time: what a fault has left in it must not come out later; and it does not
        # block, since past the user's quota it has two slots only
        reader, writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            count = os.write(writer, src[copied : copied + _PIPED])
            taken = os.readv(reader, [dst[copied : copied + count]])
        except OSError as error:
            if error.errno != errno.EFAULT:
                raise
            break
        finally:
            os.close(reader)
            os.close(writer)
        copied += taken
        if taken < count:
            break
    return copied


def _by_call(dst: memoryview, src: memoryview) -> int:
    global _between
    if _between is None:
        _between = _load()
    to, start = place_of(dst), place_of(src)
    copied = 0
    while copied < len(src):
        wanted = min(_CHUNK, len(src) - copied)
        try:
            count = _between(to + copied, start + copied, wanted)
        except OSError as error:
            if error.errno != errno.EFAULT:
                raise
            break
        copied += count
        if count < wanted:
            break
    return copied


def _load() -> Callable[[int, int, int], int]:
    import ctypes

    from zpipe.kernel.libc import checked, signed

    call = signed("process_vm_readv")
    one, none = ctypes.c_ulong(1), ctypes.c_ulong(0)
    pair = ctypes.c_size_t * 2

    def copy(dst: int, src: int, count: int) -> int:
        # the side that is written to is "local": the kernel stores there as read(2) does, page
        # faults of a shared mapping and all
        local, remote = pair(dst, count), pair(src, count)
        return checked(call(os.getpid(), local, one, remote, one, none))

    return copy


def _view_type() -> Any:
    """Return CPython's Py_buffer; through from_buffer() ctypes takes writable buffers only."""
    import ctypes

    class View(ctypes.Structure):
        _fields_ = (
            ("place", ctypes.c_void_p),
            ("owner", ctypes.py_object),
            ("length", ctypes.c_ssize_t),
            ("item_size", ctypes.c_ssize_t),
            ("read_only", ctypes.c_int),
            ("dimensions", ctypes.c_int),
            ("format", ctypes.c_char_p),
            ("shape", ctypes.c_void_p),
            ("strides", ctypes.c_void_p),
            ("suboffsets", ctypes.c_void_p),
            ("internal", ctypes.c_void_p),
        )

    return View
