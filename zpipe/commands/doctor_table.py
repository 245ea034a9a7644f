"""What was found on this machine: for people as a table, for programs as one JSON document."""

from __future__ import annotations

import textwrap

from zpipe.commands.speaking import harmless
from zpipe.doctor.findings import errno_name
from zpipe.values import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import Any

    from zpipe.doctor.findings import Advice, Examination, Finding

VERSION = 1

# in the order in which they are shown; what is found of places is called by their paths
_TITLES = {
    "host": "HOST",
    "moving": "MOVING BYTES",
    "calls": "OTHER CALLS",
    "path": "FILES IN",
    "pipes": "PIPES",
    "limits": "LIMITS",
    "network": "NETWORK",
}
# what a state is called, and its colour (ECMA-48)
_WORDS = {
    "ok": ("ok", "32"),
    "fact": ("", ""),
    "limited": ("limited", "33"),
    "refused": ("no", "31"),
    "absent": ("no", "31"),
    "unknown": ("unknown", "33"),
    "hung": ("hung", "31"),
    "failed": ("failed", "31"),
}
_WORD = max(len(word) for word, _ in _WORDS.values())
_LEAST = 24  # for the text of a finding
_REST = "all others"


class _Row(Value):
    label: str
    state: str
    text: str


def table(found: Examination, width: int, *, colour: bool = False) -> str:
    """Return all that was found in groups, what follows from it, and what is worth doing."""
    blocks: list[list[str]] = []
    wide = max((len(harmless(each.label)) for each in found.findings), default=0)
    for group, title in _TITLES.items():
        findings = [each for each in found.findings if each.group == group]
        parts = _places(findings) if group == "path" else [(title, findings)]
        for head, part in parts:
            if part:
                rows = [line for row in _rows(part) for line in _lines(row, wide, width, colour)]
                blocks.append([_bold(head, colour), *rows])
    if effects := _effects(found.findings):
        lines = [line for each in effects for line in _wrapped(each, width, "  ", "    ")]
        blocks.append([_bold("WHAT FOLLOWS", colour), *lines])
    blocks.append(_advised(found, width, colour))
    return "\n\n".join("\n".join(block) for block in blocks)


def _places(findings: Sequence[Finding]) -> list[tuple[str, list[Finding]]]:
    """Return the findings of each place, once for those of which they are the same."""
    by_path: dict[str, list[Finding]] = {}
    for each in findings:
        by_path.setdefault(each.path or "", []).append(each)
    alike: dict[tuple[tuple[str, str, str], ...], list[str]] = {}
    for path, part in by_path.items():
        alike.setdefault(tuple((each.name, each.state, each.detail) for each in part), []).append(
            path
        )
    return [
        (f"{_TITLES['path']} {' AND '.join(map(harmless, paths))}", by_path[paths[0]])
        for paths in alike.values()
    ]


def _rows(findings: Sequence[Finding]) -> list[_Row]:
    """Return a row for each finding, and one for all of which there is only the same to tell."""
    alike: dict[tuple[str, str], list[Finding]] = {}
    for each in findings:
        if each.state == "unknown" or (each.state == "ok" and not each.detail):
            alike.setdefault((each.state, each.detail), []).append(each)
    alike = {key: some for key, some in alike.items() if len(some) > 1}
    gathered = [each for some in alike.values() for each in some]
    rows = [_Row(each.label, each.state, each.detail) for each in findings if each not in gathered]
    for (state, detail), some in alike.items():
        label = "all" if len(some) == len(findings) else "others" if len(alike) > 1 else _REST
        names = ", ".join(each.label for each in some)
        rows.append(_Row(label, state, f"{detail}: {names}" if detail else names))
    return rows


def _lines(row: _Row, wide: int, width: int, colour: bool) -> list[str]:
    word, code = _WORDS[row.state]
    label = harmless(row.label)
    # a blank after the word even where it is coloured
    shown = f"\033[{code}m{word}\033[0m" if colour and code else word
    start = f"  {label:<{wide}}  "
    gap = " " * (_WORD - len(word) + 2)
    inset = len(start) + _WORD + 2
    room = max(_LEAST, width - inset)
    first, *more = _wrap(harmless(row.text), room) or [""]
    return [f"{start}{shown}{gap}{first}".rstrip(), *(" " * inset + line for line in more)]


def _effects(findings: Iterable[Finding]) -> list[str]:
    """Return what each lack means for zpipe; once for places that lack the same."""
    found: dict[tuple[str, str], list[str]] = {}
    for each in findings:
        if each.effect:
            places = found.setdefault((each.label, each.effect), [])
            places += [each.path] if each.path is not None else []
    return [
        f"{label}{' in ' + ' and '.join(map(harmless, places)) if places else ''}: {effect}"
        for (label, effect), places in found.items()
    ]


def _advised(found: Examination, width: int, colour: bool) -> list[str]:
    if not found.advice:
        return [_bold("WORTH DOING", colour), "  nothing"]
    inside = any(each.name == "container" and each.value for each in found.findings)
    title = f"WORTH DOING, as root{', perhaps outside the container' if inside else ''}"
    lines = [_bold(title, colour)]
    for each in found.advice:
        lines += _wrapped(f"{each.why}:", width, "  ", "  ")
        lines.append(f"      {each.command}")
    return lines


def _bold(text: str, colour: bool) -> str:
    return f"\033[1m{text}\033[0m" if colour else text


def _wrap(text: str, room: int) -> list[str]:
    return textwrap.wrap(text, room, break_long_words=False, break_on_hyphens=False)


def _wrapped(text: str, width: int, first: str, rest: str) -> list[str]:
    return textwrap.wrap(
        text,
        width,
        initial_indent=first,
        subsequent_indent=rest,
        break_long_words=False,
        break_on_hyphens=False,
    )


# For programs


def document(found: Examination) -> dict[str, Any]:
    """Return all that was found as what JSON has words for."""
    return {
        "v": VERSION,
        "findings": [_finding(each) for each in found.findings],
        "advice": [_advice(each) for each in found.advice],
    }


def _finding(each: Finding) -> dict[str, Any]:
    return {
        "group": each.group,
        "name": each.name,
        "path": each.path,
        "state": each.state,
        "value": each.value,
        "errno": errno_name(each.errno) if each.errno else None,
        "detail": each.detail,
        "effect": each.effect or None,
    }


def _advice(each: Advice) -> dict[str, Any]:
    return {"name": each.name, "why": each.why, "command": each.command}
