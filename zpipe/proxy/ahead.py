"""What serving loads when it first needs it, loaded at once: the user that it is about to become
may not be able to read the files of Python, as where they are in a home directory.
"""

from __future__ import annotations

import os
from importlib import import_module
from pkgutil import iter_modules

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

PACKAGES = ("kernel", "graph", "endpoints", "movers", "plan", "engine", "proxy")
# of other libraries, what functions of those packages load; and of those libraries in turn
LATER = (
    *("ctypes", "difflib", "encodings.idna", "grp", "hashlib", "ipaddress", "json.encoder"),
    *("pwd", "queue", "resource", "ssl", "struct", "tempfile", "threading", "traceback"),
)
METRICS = tuple(f"prometheus_client.{name}" for name in ("core", "exposition", "registry"))
_DISPLAY = ("rich.console", "rich.live", "rich.table", "rich.text")


def load_ahead(*, metrics: bool) -> None:
    """Load all of it that there is."""
    for package in PACKAGES:
        path = import_module(f"zpipe.{package}").__path__
        _load(f"zpipe.{package}.{module.name}" for module in iter_modules(path))
    _load(LATER)
    if metrics:
        _load(METRICS)
    if os.isatty(2):
        _load(_DISPLAY)


def _load(names: Iterable[str]) -> None:
    for name in names:
        try:
            import_module(name)
        except ImportError:
            continue  # whoever needs it will say so
