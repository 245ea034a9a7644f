"""What a network device does in the kernel's stead, and whether it is in use (SIOCETHTOOL)."""

from __future__ import annotations

import fcntl
import os
import socket
import struct

_SIOCGIFFLAGS, _SIOCETHTOOL = 0x8913, 0x8946
_IFF_UP = 1

# linux/ethtool.h: the commands that get one feature each
_GETS = {"scatter-gather": 0x18, "tso": 0x1E, "gso": 0x23}
# as ethtool(8) calls them
SHORT = {"scatter-gather": "sg", "tso": "tso", "gso": "gso"}


def offloads(device: str) -> dict[str, bool | None]:
    """Return which of scatter-gather, TSO and GSO are on; None: the device does not say."""
    return {name: _asked(device, command) for name, command in _GETS.items()}


def is_up(device: str) -> bool:
    """Tell whether a device is in use. Raises: OSError  ENODEV. Source: netdevice(7)."""
    request = struct.pack("16s16x", os.fsencode(device))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as query:
        answer = fcntl.ioctl(query, _SIOCGIFFLAGS, request)
    (flags,) = struct.unpack_from("H", answer, 16)
    return bool(flags & _IFF_UP)


def _asked(device: str, command: int) -> bool | None:
    import ctypes

    value = (ctypes.c_uint32 * 2)(command, 0)
    request = struct.pack("16sP8x", os.fsencode(device), ctypes.addressof(value))
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as query:
            fcntl.ioctl(query, _SIOCETHTOOL, request)
    except OSError:
        return None
    return bool(value[1])
