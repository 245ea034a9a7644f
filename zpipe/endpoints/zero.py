"""A source of zero bytes: `zero:`, endless, or `zero:?size=1G`."""

from __future__ import annotations

import os

from zpipe.endpoints.contract import End, EndpointKind, Opening, size_option
from zpipe.endpoints.null import likely_device, open_device
from zpipe.errors import UsageError
from zpipe.facts import FdFacts

TYPE_CHECKING = False
if TYPE_CHECKING:
    from zpipe.graph.model import Endpoint


class Zero(EndpointKind):
    """`zero:?size=SIZE`."""

    name = "zero"
    form = "zero:"
    summary = "A source of zero bytes; endless without a size."
    options = {"size": "how many bytes"}
    sink = False

    def check(self, endpoint: Endpoint, *, sink: bool) -> None:
        if endpoint.address:
            raise UsageError(f"{endpoint.text}: takes no address; a path: ./{endpoint.text}")
        size_option(endpoint, "size")

    def open_source(self, endpoint: Endpoint, opening: Opening) -> End:
        size = size_option(endpoint, "size")
        limit = None if size is None else max(0, size - opening.offset)
        return open_device("/dev/zero", endpoint, os.O_RDONLY, limit)

    def open_sink(self, endpoint: Endpoint, opening: Opening) -> End:
        raise UsageError(f"{endpoint.text}: cannot be a sink")

    def preview(self, endpoint: Endpoint, *, sink: bool) -> FdFacts:
        return likely_device("/dev/zero")


KIND: EndpointKind = Zero()
