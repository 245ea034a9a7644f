"""The server name that a TLS client asks for, read from its first bytes.

OpenSSL reads the ClientHello, as a server that gives up as soon as it knows the name: no key is
made, no certificate needed, and its answer is thrown away. ssl is loaded with the first one.
"""

from __future__ import annotations

import sys

from zpipe.proxy.header import Incomplete

TYPE_CHECKING = False
if TYPE_CHECKING:
    import ssl

__all__ = ["MOST", "Incomplete", "NotTls", "matches", "server_name"]

# bytes that are waited for. A ClientHello has some 500, with post-quantum keys 1,800; a record
# carries up to 16 KiB of it, and several may
MOST = (16 << 10) + 1024

_RECORD = 5  # bytes before the content of a record: type, version, length
_CONTENT = 16 << 10  # bytes that a record may carry before there are keys
_LABEL = frozenset("abcdefghijklmnopqrstuvwxyz0123456789-_")

_context: ssl.SSLContext | None = None


class NotTls(Exception):
    """No ClientHello that OpenSSL understands, whatever follows."""


def server_name(data: bytes) -> str | None:
    """Return the name in the ClientHello at the beginning of `data`, lower case, no dot at its end.

    None: it asks for no name, or for one that cannot be that of a host. What is returned is made of
    letters, digits, `-`, `_` and dots only.
    Raises: Incomplete  there must be `wanted` bytes, `MOST` at the most, to know more.
            NotTls      this is something else.
    """
    if not b"\x16\x03".startswith(data[:2]):
        raise NotTls("not a TLS handshake")
    # the first record must be whole before OpenSSL looks into it: it is not asked in vain
    content = int.from_bytes(data[3:5], "big") if len(data) >= _RECORD else 0
    if content > _CONTENT:
        raise NotTls("a record is too long")
    if len(data) < _RECORD + content:
        raise Incomplete(_RECORD + content)
    return _asked(data)


def matches(pattern: str, name: str) -> bool:
    """Say whether a name is the one of a pattern: the same, or `*.` and the same.

    As in certificates `*` stands for exactly one label: `*.example.org` is neither `example.org`
    nor `a.b.example.org`. Case and a dot at the end do not matter. Other alphabets come as A-labels
    (`xn--`), and must be written so in the pattern.
    """
    pattern, name = pattern.lower().removesuffix("."), name.lower().removesuffix(".")
    if not pattern.startswith("*."):
        return bool(name) and pattern == name
    label, dot, rest = name.partition(".")
    return bool(label and dot) and rest == pattern[2:]


def _asked(data: bytes) -> str | None:
    import ssl

    global _context
    if _context is None:
        _context = _made()
    incoming = ssl.MemoryBIO()
    incoming.write(data)
    server = _context.wrap_bio(incoming, ssl.MemoryBIO(), server_side=True)
    told = vars(server)  # where _note leaves the name

    before = sys.unraisablehook

    def hook(failure: sys.UnraisableHookArgs) -> None:
        # a name that is not ASCII never comes to _note: Python complains on standard error, which
        # every client could fill so
        if isinstance(failure.exc_value, UnicodeDecodeError):
            told["asked"] = None
        else:
            before(failure)

    sys.unraisablehook = hook
    try:
        server.do_handshake()
    except ssl.SSLWantReadError:
        if len(data) >= MOST:
            raise NotTls("the ClientHello is too long") from None
        raise Incomplete(len(data) + 1) from None
    except ssl.SSLError as error:
        if "asked" not in told:
            raise NotTls((error.reason or "refused").lower().replace("_", " ")) from None
    finally:
        sys.unraisablehook = before
    return _host(told.get("asked"))


def _made() -> ssl.SSLContext:
    """Return a server that refuses as little as OpenSSL can: what is behind may allow more."""
    import ssl

    def note(server: ssl.SSLObject, name: str | None, _: ssl.SSLContext) -> int:
        vars(server)["asked"] = name
        return ssl.ALERT_DESCRIPTION_UNRECOGNIZED_NAME  # ends the handshake

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
    context.set_ciphers("ALL:COMPLEMENTOFALL:@SECLEVEL=0")
    context.options |= ssl.OP_NO_TICKET  # a ticket of the server behind says nothing here
    context.sni_callback = note
    return context


def _host(name: str | None) -> str | None:
    if name is None:
        return None
    name = name.lower().removesuffix(".")
    if len(name) > 253 or not all(map(_is_label, name.split("."))):
        return None
    return name


def _is_label(text: str) -> bool:
    return 0 < len(text) < 64 and text[0] != "-" != text[-1] and _LABEL.issuperset(text)
