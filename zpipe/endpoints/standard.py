"""Standard input and standard output: `-`, by its place."""

from __future__ import annotations

from zpipe.endpoints.contract import End, EndpointKind, Opening
from zpipe.endpoints.fd import open_inherited, preview_inherited
from zpipe.facts import FdFacts

TYPE_CHECKING = False
if TYPE_CHECKING:
    from zpipe.graph.model import Endpoint

STANDARD_INPUT = "standard input"
STANDARD_OUTPUT = "standard output"


class Standard(EndpointKind):
    """`-`."""

    name = "-"
    form = "-"
    summary = "Standard input as a source, standard output as a sink."

    def open_source(self, endpoint: Endpoint, opening: Opening) -> End:
        return open_inherited(0, STANDARD_INPUT, opening, sink=False)

    def open_sink(self, endpoint: Endpoint, opening: Opening) -> End:
        end = open_inherited(1, STANDARD_OUTPUT, opening, sink=True)
        end.quiet_pipe = True
        # whoever shares it may have more to say: a script's next command
        end.keeps_open = True
        return end

    def preview(self, endpoint: Endpoint, *, sink: bool) -> FdFacts:
        if sink:
            return preview_inherited(1, STANDARD_OUTPUT, sink=True)
        return preview_inherited(0, STANDARD_INPUT, sink=False)


KIND: EndpointKind = Standard()
