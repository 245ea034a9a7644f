"""The one structure that is enforced: imports point down, and the pure stages stay pure."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import zpipe

PACKAGE = Path(zpipe.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))

# From the top to the bottom; what shares a row does not meet.
LAYERS = (
    {"__main__"},
    {"cli"},
    {"commands"},
    {"recipe"},
    {"tree", "proxy", "bench", "doctor"},
    {"engine", "channel"},
    {"plan"},
    {"endpoints", "movers"},
    {"graph"},
    {"kernel"},
    {"facts"},
    {"units"},
    {"spelling"},
    {"errors", "values"},
)
PURE = ("graph", "plan")
IMPURE = {"os", "socket", "select", "subprocess", "fcntl", "ctypes", "signal", "zpipe.kernel"}
ONLY_KERNEL = {"ctypes", "fcntl"}


def imported(path: Path) -> set[str]:
    """Return the modules that a file imports at run time, relative ones never being used."""
    found: set[str] = set()

    def visit(node: ast.AST) -> None:
        if isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING":
            for branch in node.orelse:
                visit(branch)
            return
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
        for child in ast.iter_child_nodes(node):
            visit(child)

    visit(ast.parse(path.read_text()))
    return found


def layer(name: str) -> int | None:
    return next((place for place, row in enumerate(LAYERS) if name in row), None)


@pytest.mark.parametrize("path", FILES, ids=[str(path.relative_to(PACKAGE)) for path in FILES])
def test_imports_point_down(path: Path) -> None:
    own = path.relative_to(PACKAGE).with_suffix("").parts[0]
    mine = layer(own)
    if own == "__init__":
        return
    assert mine is not None, f"{own} has no place in the layers"
    for module in imported(path):
        parts = module.split(".")
        if parts[0] != "zpipe" or len(parts) < 2 or parts[1] == own:
            continue
        theirs = layer(parts[1])
        if theirs is not None:
            assert theirs > mine, f"{own} imports {module}, which is not below it"


@pytest.mark.parametrize("path", FILES, ids=[str(path.relative_to(PACKAGE)) for path in FILES])
def test_pure_stages_and_kernel_calls(path: Path) -> None:
    own = path.relative_to(PACKAGE).parts[0]
    modules = imported(path)
    if own in PURE:
        assert not modules & IMPURE
    if own != "kernel":
        assert not modules & ONLY_KERNEL
