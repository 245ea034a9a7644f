"""What is said of a copy of trees, as text: a name, a line of status, the outcome.

Pure, and loaded where one of these is shown.
"""

from __future__ import annotations

import os

from zpipe.units import format_duration, format_size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from zpipe.tree.report import TreeReport

_ESCAPES = {
    "\a": "\\a",
    "\b": "\\b",
    "\f": "\\f",
    "\n": "\\n",
    "\r": "\\r",
    "\t": "\\t",
    "\v": "\\v",
}


def arrow(source: str, target: str) -> str:
    """Return source and target as cp -v prints them."""
    return f"{quoted(source)} -> {quoted(target)}"


def quoted(path: str) -> str:
    """Return a path in quotes so that a shell reads it back, as cp prints it."""
    special = set(path) & set('"$`\\!')
    if path.isprintable() and "'" in path and not special:
        return f'"{path}"'
    pieces = ["'"]
    escaping = False
    for char in path:
        if char.isprintable():
            pieces.append("''" if escaping else "")
            pieces.append("'\\''" if char == "'" else char)
            escaping = False
        else:
            pieces.append("" if escaping else "'$'")
            pieces.append(_ESCAPES.get(char) or "".join(f"\\{b:03o}" for b in os.fsencode(char)))
            escaping = True
    return "".join([*pieces, "'"])


def status_line(report: TreeReport) -> str:
    """Return where a copy stands, in one line."""
    files = f"{report.files} of {report.found}" if report.walked else f"{report.files}"
    parts = [f"{files} files", format_size(report.moved)]
    if report.expected:
        of = format_size(report.expected) + ("" if report.walked else " so far")
        parts[1] += f" of {of} {'on disk' if report.sync else 'written'}"
    if report.seconds > 0:
        parts.append(f"{format_size(report.moved / report.seconds)}/s")
    parts.append(format_duration(report.seconds))
    line = f"{', '.join(parts)}"
    if report.lost:
        line += f"; {report.lost} not copied"
    return f"{report.at_hand}: {line}" if report.at_hand else line


def explained(report: TreeReport) -> str:
    """Return what was done: bytes by mover, and each reason of a fallback once."""
    from zpipe.commands.explain import rows
    from zpipe.engine.report import Fallback

    rate = ""
    if report.moved and report.seconds:
        rate = f", {format_size(report.moved / report.seconds)}/s"
    files = "1 file" if report.files == 1 else f"{report.files} files"
    folders = "1 directory" if report.directories == 1 else f"{report.directories} directories"
    lines = rows(
        "outcome",
        [
            f"{files} and {folders}, {report.moved} bytes ({format_size(report.moved)})"
            f" in {format_duration(report.seconds)}{rate}"
        ],
    )
    if report.kept:
        lines += rows("kept", [f"{report.kept} files were left as they are"])
    lines += rows("bytes", [f"{name}: {size}" for name, size in report.by_mover.most_common()])
    reasons = [
        f"{mover}: {call}: {Fallback(mover, call, number, 0).reason}"
        + (f" ({count} times)" if count > 1 else "")
        for (mover, call, number), count in report.fallbacks.most_common()
    ]
    lines += rows("fallback", reasons)
    workers = "by this process"
    if report.executor != "none":
        workers = f"by {report.workers} {report.executor}"
    lines += rows("workers", [workers])
    if report.lost:
        lines += rows("lost", [f"{report.lost}"])
    return "\n".join(lines)
