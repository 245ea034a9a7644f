"""What is wrong with a recipe, each with its place in the file."""

from __future__ import annotations

from zpipe.errors import UsageError
from zpipe.values import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    # keys and indices that lead from the top of a document to a value: ("edges", 0, "to", 1)
    Path = tuple[str | int, ...]


class Place(Value):
    """Where something stands; line and column count from 1."""

    line: int
    column: int


class Problem(Value):
    """One thing that is wrong: `text` says what was found, what is allowed, what may be meant."""

    text: str
    path: Path = ()
    of_key: bool = False  # it is the key itself, and not what stands behind it


class Finding(Value):
    """A problem in its place: `file:line:column: text`."""

    file: str
    line: int
    column: int
    text: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}: {self.text}"


class RecipeError(UsageError):
    """A recipe is invalid; one line for each finding, in the order of the file."""

    def __init__(self, findings: Sequence[Finding]):
        self.findings = sorted(dict.fromkeys(findings), key=lambda one: (one.line, one.column))
        super().__init__(*map(str, self.findings))
