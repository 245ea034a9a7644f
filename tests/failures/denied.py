"""Run a command in which the kernel answers some system calls with an errno, as a sandbox does.

    python denied.py ENOSYS splice,tee,ioctl:1=0x40049409 -- COMMAND...

A rule is a call, or a call with a test of one argument: `:1=N` where argument 1 is N, `:0&N` where
argument 0 has a bit of N. The filter is classic BPF for seccomp(2), made by hand, and passes on to
everything that the command starts.
"""

from __future__ import annotations

import ctypes
import errno
import functools
import os
import platform
import struct
import subprocess
import sys

# audit architecture, and the calls' numbers on it
MACHINES = {
    "x86_64": (
        0xC000003E,
        {
            "mmap": 9,
            "ioctl": 16,
            "sendfile": 40,
            "clone": 56,
            "fcntl": 72,
            "splice": 275,
            "tee": 276,
            "copy_file_range": 326,
            "clone3": 435,
        },
    ),
    "aarch64": (
        0xC00000B7,
        {
            "fcntl": 25,
            "ioctl": 29,
            "sendfile": 71,
            "splice": 76,
            "tee": 77,
            "clone": 220,
            "mmap": 222,
            "copy_file_range": 285,
            "clone3": 435,
        },
    ),
}

_LOAD, _IF_EQUAL, _IF_BIT, _RETURN = 0x20, 0x15, 0x45, 0x06
_NUMBER, _ARCHITECTURE, _ARGUMENTS = 0, 4, 16  # offsets in struct seccomp_data
_ALLOW, _ERRNO = 0x7FFF0000, 0x00050000
_PR_SET_NO_NEW_PRIVS, _PR_SET_SECCOMP, _FILTER = 38, 22, 2


class _Program(ctypes.Structure):
    _fields_ = [("count", ctypes.c_ushort), ("code", ctypes.c_char_p)]


@functools.cache
def allowed() -> None:
    """Skip the test where no filter can be made or installed."""
    from tests.machine import missing

    if platform.machine() not in MACHINES or sys.byteorder != "little":
        missing(f"the numbers of system calls on {platform.machine()} are not known here")
    done = subprocess.run([*denying("ENOSYS", "splice"), "true"], capture_output=True, check=False)
    if done.returncode:
        missing(f"seccomp is not allowed: {done.stderr.decode().strip()}")


def denying(name: str, *rules: str) -> list[str]:
    """Return the words before a command that is to be answered that errno by the rules' calls."""
    # neither site packages nor the environment's Python: what starts first is only in the way
    return [sys.executable, "-IS", __file__, name, ",".join(rules), "--"]


def program(number: int, rules: list[str]) -> bytes:
    """Return the filter that answers `number` where a rule matches, and allows everything else."""
    architecture, numbers = MACHINES[platform.machine()]
    code = [
        _instruction(_LOAD, _ARCHITECTURE),
        _instruction(_IF_EQUAL, architecture, 1, 0),
        _instruction(_RETURN, _ALLOW),
    ]
    for rule in rules:
        call, _, test = rule.partition(":")
        deny = [_instruction(_RETURN, _ERRNO | number)]
        if test:
            sign = "=" if "=" in test else "&"
            place, value = test.split(sign)
            jump = _IF_EQUAL if sign == "=" else _IF_BIT
            # the low half of an argument: flags and commands have no other
            deny = [
                _instruction(_LOAD, _ARGUMENTS + 8 * int(place)),
                _instruction(jump, int(value, 0), 0, 1),
                *deny,
            ]
        code += [
            _instruction(_LOAD, _NUMBER),
            _instruction(_IF_EQUAL, numbers[call], 0, len(deny)),
            *deny,
        ]
    return b"".join([*code, _instruction(_RETURN, _ALLOW)])


def _instruction(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("=HBBI", code, if_true, if_false, value)


def install(code: bytes) -> None:
    """Put a filter on this process for good. Raises: OSError  seccomp is not allowed here."""
    libc = ctypes.CDLL(None, use_errno=True)
    filter_ = _Program(len(code) // 8, code)
    if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) or libc.prctl(
        _PR_SET_SECCOMP, _FILTER, ctypes.byref(filter_)
    ):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def main() -> None:
    """Install the filter and become the command."""
    name, rules = sys.argv[1:3]
    command = sys.argv[sys.argv.index("--") + 1 :]
    install(program(getattr(errno, name), rules.split(",")))
    os.execvp(command[0], command)


if __name__ == "__main__":
    main()
