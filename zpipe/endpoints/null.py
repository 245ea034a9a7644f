"""Nothing: an empty source, and a sink that discards."""

from __future__ import annotations

import os

from zpipe.endpoints.contract import End, EndpointKind, Opening
from zpipe.endpoints.gather import gather, preview_path
from zpipe.errors import UsageError, open_failed
from zpipe.facts import FdFacts

TYPE_CHECKING = False
if TYPE_CHECKING:
    from zpipe.graph.model import Endpoint


def open_device(path: str, endpoint: Endpoint, flags: int, limit: int | None = None) -> End:
    """Open one of the memory devices. Raises: TransferError  it is missing or forbidden."""
    try:
        fd = os.open(path, flags | os.O_CLOEXEC)
    except OSError as error:
        raise open_failed(endpoint.text, f"open {path}", error) from error
    return End(fd, endpoint.text, gather(fd), limit=limit)


def likely_device(path: str) -> FdFacts:
    """Return the facts of a memory device."""
    return preview_path(path) or FdFacts("character", generated=True)


class Null(EndpointKind):
    """`null:`."""

    name = "null"
    form = "null:"
    summary = "As a source: ends at once. As a sink: discards everything."

    def check(self, endpoint: Endpoint, *, sink: bool) -> None:
        if endpoint.address:
            raise UsageError(f"{endpoint.text}: takes no address; a path: ./{endpoint.text}")

    def open_source(self, endpoint: Endpoint, opening: Opening) -> End:
        return open_device("/dev/null", endpoint, os.O_RDONLY)

    def open_sink(self, endpoint: Endpoint, opening: Opening) -> End:
        return open_device("/dev/null", endpoint, os.O_WRONLY)

    def preview(self, endpoint: Endpoint, *, sink: bool) -> FdFacts:
        return likely_device("/dev/null")


KIND: EndpointKind = Null()
