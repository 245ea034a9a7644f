"""One format per module: a picture becomes text, Mermaid, Graphviz or SVG. [add here]

A format is a module with `draw(picture, page) -> str`, and its name in `FORMATS`. Modules load by
name on first use. No format knows anything but the picture, and the page that it is for.
"""

from __future__ import annotations

from zpipe.values import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from zpipe.graph.picture import Picture

# name, as on the command line -> module
FORMATS = {"text": "text", "mermaid": "mermaid", "dot": "dot", "svg": "svg"}


class Page(Value):
    """What text is drawn on: a terminal of so many columns, and the characters that it shows."""

    width: int = 100
    encoding: str = "utf-8"


PAGE = Page()


def draw(picture: Picture, name: str, page: Page = PAGE) -> str:
    """Return the picture in the format of that name, with a line feed at the end.

    Raises: KeyError  there is no such format.
    """
    from importlib import import_module

    drawn: str = import_module(f"zpipe.graph.drawings.{FORMATS[name]}").draw(picture, page)
    return drawn
