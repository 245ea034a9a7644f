"""The PROXY protocol, versions 1 and 2, as functions over bytes (HAProxy's proxy-protocol.txt).

Knows nothing of sockets: whoever calls has peeked some bytes, and takes `length` of them off the
stream once they are judged. What is read is held to the letter, since a header that two programs
read differently is a way around what one of them allows. Text that comes out is safe to print.
"""

from __future__ import annotations

from dataclasses import dataclass
from socket import AF_INET, AF_INET6, inet_ntop, inet_pton
from struct import Struct
from struct import error as struct_error
from typing import Literal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

Ends = tuple[str, int] | str | None  # (ip, port), a UNIX path, or not known

# bytes of a header that are taken. The format goes to 64 KiB, but HAProxy takes 16 and nginx 4: who
# sends more does it to keep the proxy busy with checksums
LONGEST = 16 << 10

_V1 = b"PROXY "
_V1_LONGEST = 107
_V1_KINDS = (b"TCP4 ", b"TCP6 ", b"UNKNOWN ", b"UNKNOWN\r")
_V2 = b"\r\n\r\n\0\r\nQUIT\n"
_SHORTEST = {_V1: len(b"PROXY UNKNOWN\r\n"), _V2: 16}

_START = Struct("!12sBBH")
_TCP4 = Struct("!4s4sHH")
_TCP6 = Struct("!16s16sHH")
_UNIX = Struct("!108s108s")
_ALL4 = Struct("!12sBBH4s4sHH")  # both at once, for the most frequent case
_LOCAL, _PROXY = 0x20, 0x21
_STREAMS = {0x11: _TCP4, 0x21: _TCP6, 0x31: _UNIX}
_CRC32C = 3
_MAPPED = b"\0" * 10 + b"\xff\xff"  # before an IPv4 address that is written as an IPv6 one


# what a proxy says of a connection of its own, or of a client that no address family can name:
# AF_UNIX and UNSPEC are reset by HAProxy 2.6, which sends this for its own UNIX clients
LOCAL = _V2 + b"\x20\0\0\0"


class Incomplete(Exception):
    """There may be a header, and no judgement before `wanted` bytes in all are there."""

    def __init__(self, wanted: int):
        super().__init__(wanted)
        self.wanted = wanted


class Malformed(Exception):
    """This is not a header, or one that nobody should send."""


@dataclass(frozen=True, slots=True)
class ProxyHeader:
    """What a header says. Without addresses, those of the connection itself hold."""

    version: Literal[1, 2]
    local: bool  # LOCAL of version 2, UNKNOWN of version 1: there are no addresses
    family: Literal["tcp4", "tcp6", "unix", "unspec"]
    source: Ends  # a UNIX path may be empty (unnamed), or abstract: then it begins with @
    destination: Ends
    tlvs: bytes  # as they came, whole
    length: int  # bytes on the wire


def starts(data: bytes) -> bool | None:
    """Say whether a stream that begins so begins with a header. None: too few bytes to tell."""
    for magic in (_V1, _V2):
        if data.startswith(magic):
            return True
        if magic.startswith(data):
            return None
    return False


def parse(data: bytes) -> ProxyHeader:
    """Read the header at the beginning of `data`; what follows it is not looked at.

    Raises: Incomplete  no header is whole before `wanted` bytes are there, `LONGEST` at the most.
            Malformed   whatever follows, this will be no header.
    """
    if data.startswith(_V2):
        return _parse_v2(data)
    if data.startswith(_V1):
        return _parse_v1(data)
    for magic, shortest in _SHORTEST.items():
        if magic.startswith(data):
            raise Incomplete(shortest)
    raise Malformed("no PROXY header")


def build(
    version: Literal["v1", "v2"], source: Ends, destination: Ends, tlvs: bytes = b""
) -> bytes:
    """Return a header of a relayed connection.

    Addresses are IPv4 if both are (also as ::ffff:1.2.3.4, as a socket for both families calls
    them), else IPv6. What cannot be said is UNKNOWN in version 1 and UNSPEC in version 2. `tlvs`
    go into version 2 only, with a checksum among them made anew; they are left out where a header
    is too short for them and the addresses.
    Raises: ValueError  no such address, port or path, or `tlvs` that `parse` would not take.
    """
    try:
        if isinstance(source, tuple) and isinstance(destination, tuple):
            src, dst = _packed(source[0]), _packed(destination[0])
            ports = source[1], destination[1]
            if version == "v1":
                return _line(src, dst, ports)
            if len(src) == len(dst) == 4:
                if not tlvs:  # the bulk of all headers
                    return _ALL4.pack(_V2, _PROXY, 0x11, _TCP4.size, src, dst, *ports)
                return _block(0x11, _TCP4.pack(src, dst, *ports), tlvs)
            return _block(0x21, _TCP6.pack(_as_v6(src), _as_v6(dst), *ports), tlvs)
        if version == "v1":
            return b"PROXY UNKNOWN\r\n"
        if isinstance(source, str) and isinstance(destination, str):
            return _block(0x31, _sun_path(source) + _sun_path(destination), tlvs)
        return _block(0, b"", tlvs)
    except (OSError, struct_error) as error:
        raise ValueError(f"no PROXY header of {source} and {destination}: {error}") from error


def crc32c(data: bytes) -> int:
    """Return the checksum of Castagnoli's polynomial (RFC 4960, appendix B)."""
    global _table
    if not _table:
        _table = tuple(_row(byte) for byte in range(256))
    table, crc = _table, 0xFFFFFFFF
    for byte in data:
        crc = table[(crc ^ byte) & 0xFF] ^ crc >> 8
    return crc ^ 0xFFFFFFFF


_table: tuple[int, ...] = ()  # made when it is first wanted: few headers have a checksum


def _row(crc: int) -> int:
    for _ in range(8):
        crc = crc >> 1 ^ 0x82F63B78 * (crc & 1)
    return crc


# Version 1: a line of text


def _parse_v1(data: bytes) -> ProxyHeader:
    end = data.find(b"\r\n", 0, _V1_LONGEST)
    line = data[:end] if end >= 0 else data[:_V1_LONGEST].removesuffix(b"\r")
    if b"\r" in line or b"\n" in line:
        raise Malformed("v1: a lone CR or LF")
    kind = data[len(_V1) :]
    if not any(kind.startswith(word) or word.startswith(kind) for word in _V1_KINDS):
        raise Malformed("v1: neither TCP4, TCP6 nor UNKNOWN")
    if end < 0:
        if len(line) + 2 > _V1_LONGEST:
            raise Malformed("v1: the line is too long")
        raise Incomplete(max(len(line) + 2, _SHORTEST[_V1]))
    if kind.startswith(b"UNKNOWN"):  # whatever else the line says is to be ignored
        return ProxyHeader(1, True, "unspec", None, None, b"", end + 2)
    words = line.split(b" ")
    if len(words) != 6:
        raise Malformed("v1: not two addresses and two ports")
    family = AF_INET if words[1] == b"TCP4" else AF_INET6
    return ProxyHeader(
        1,
        False,
        "tcp4" if family == AF_INET else "tcp6",
        (_address(family, words[2]), _port(words[4])),
        (_address(family, words[3]), _port(words[5])),
        b"",
        end + 2,
    )


def _address(family: int, word: bytes) -> str:
    """Return an address in its canonical form, so that two writings of it are the same client."""
    try:
        return inet_ntop(family, inet_pton(family, word.decode("ascii")))
    except (OSError, ValueError):  # ValueError: a byte that is not ASCII, or NUL
        raise Malformed("v1: not an address of its family") from None


def _port(word: bytes) -> int:
    if not word.isdigit() or len(word) > 5 or (word[0] == ord("0") and len(word) > 1):
        raise Malformed("v1: not a port")
    port = int(word)
    if port > 0xFFFF:
        raise Malformed("v1: not a port")
    return port


def _line(src: bytes, dst: bytes, ports: tuple[int, int]) -> bytes:
    if not all(0 <= port <= 0xFFFF for port in ports):
        raise ValueError(f"no ports: {ports}")
    if len(src) == len(dst) == 4:
        family, word = AF_INET, "TCP4"
    else:
        family, word, src, dst = AF_INET6, "TCP6", _as_v6(src), _as_v6(dst)
    ends = f"{inet_ntop(family, src)} {inet_ntop(family, dst)} {ports[0]} {ports[1]}"
    return f"PROXY {word} {ends}\r\n".encode()


# Version 2: a block of known length


def _parse_v2(data: bytes) -> ProxyHeader:
    # what is wrong is told as soon as it is there
    if len(data) > 12 and data[12] not in {_LOCAL, _PROXY}:
        raise Malformed("v2: neither version 2 LOCAL nor PROXY")
    local = data[12:13] == bytes((_LOCAL,))
    if len(data) > 13 and not local and (data[13] >> 4 > 3 or data[13] & 15 > 1):
        raise Malformed("v2: not a family and protocol of streams")
    if len(data) < _START.size:
        raise Incomplete(_START.size)
    _, _, kind, size = _START.unpack_from(data)
    form = None if local else _STREAMS.get(kind)
    if form is not None and size < form.size:
        raise Malformed("v2: too short for its addresses")
    length = _START.size + size
    if length > LONGEST:
        raise Malformed("v2: the header is too long")
    if len(data) < length:
        raise Incomplete(length)
    if form is None:
        # LOCAL is taken with whatever follows. Only without family and protocol it is known where
        # the TLVs begin
        tlvs = data[_START.size : length] if kind == 0 and not local else b""
        _check(data[:length], tlvs)
        return ProxyHeader(2, local, "unspec", None, None, tlvs, length)
    fields = form.unpack_from(data, _START.size)
    tlvs = data[_START.size + form.size : length]
    _check(data[:length], tlvs)
    if form is _UNIX:
        return ProxyHeader(2, False, "unix", _path(fields[0]), _path(fields[1]), tlvs, length)
    family = AF_INET if form is _TCP4 else AF_INET6
    return ProxyHeader(
        2,
        False,
        "tcp4" if form is _TCP4 else "tcp6",
        (inet_ntop(family, fields[0]), fields[2]),
        (inet_ntop(family, fields[1]), fields[3]),
        tlvs,
        length,
    )


def _check(header: bytes, tlvs: bytes) -> None:
    """See that TLVs fill their block exactly, and that a checksum among them is right."""
    place = _checksum(tlvs)
    if place is None:
        return
    start = len(header) - len(tlvs) + place
    if _summed(header, start) != header:
        raise Malformed("v2: the checksum is wrong")


def _checksum(tlvs: bytes) -> int | None:
    """Return where among TLVs the value of a checksum is. Raises: Malformed."""
    found = None
    for kind, start, size in _each(tlvs):
        if kind == _CRC32C:
            if size != 4 or found is not None:
                raise Malformed("v2: not one checksum of 4 bytes")
            found = start
    return found


def _each(tlvs: bytes) -> Iterator[tuple[int, int, int]]:
    """Yield type, place and size of each value. Raises: Malformed."""
    place, end = 0, len(tlvs)
    while place < end:
        start = place + 3
        size = int.from_bytes(tlvs[place + 1 : start], "big")
        place, kind = start + size, tlvs[place]
        if place > end:
            raise Malformed("v2: a TLV is longer than its header")
        yield kind, start, size


def _summed(header: bytes, start: int) -> bytes:
    """Return a header with its checksum, which is at `start`, made anew."""
    before, after = header[:start], header[start + 4 :]
    return before + crc32c(before + bytes(4) + after).to_bytes(4, "big") + after


def _block(kind: int, addresses: bytes, tlvs: bytes) -> bytes:
    if len(addresses) + len(tlvs) > 0xFFFF:
        tlvs = b""  # that of another family was shorter; nobody can mean so many to be kept
    header = _START.pack(_V2, _PROXY, kind, len(addresses) + len(tlvs)) + addresses + tlvs
    if not tlvs:
        return header
    try:
        place = _checksum(tlvs)
    except Malformed as error:
        raise ValueError(str(error)) from error
    return header if place is None else _summed(header, len(header) - len(tlvs) + place)


def _path(field: bytes) -> str:
    """Return a UNIX path as text; what could harm a terminal or a log is no path here."""
    name = b"@" + field[1:].rstrip(b"\0") if field[0] == 0 else field.partition(b"\0")[0]
    try:
        path = "" if name == b"@" else name.decode()
    except UnicodeDecodeError:
        raise Malformed("v2: a UNIX path that is not UTF-8") from None
    if not path.isprintable():
        raise Malformed("v2: a UNIX path that cannot be printed")
    return path


def _sun_path(path: str) -> bytes:
    """Return the field of a path; an abstract one begins with @, or with NUL as sockets say it."""
    name = path.encode(errors="surrogateescape")  # whatever the locale: what came goes out
    if name.startswith(b"@"):
        name = b"\0" + name[1:]
    if len(name) > 108:
        raise ValueError(f"a UNIX path is longer than 108 bytes: {path}")
    return name.ljust(108, b"\0")


def _packed(ip: str) -> bytes:
    if ":" not in ip:
        return inet_pton(AF_INET, ip)
    packed = inet_pton(AF_INET6, ip.partition("%")[0])  # the scope of a link is for this host only
    return packed[12:] if packed.startswith(_MAPPED) else packed


def _as_v6(packed: bytes) -> bytes:
    return packed if len(packed) == 16 else _MAPPED + packed
