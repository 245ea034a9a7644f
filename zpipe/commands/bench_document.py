"""What was measured, for programs: one JSON document, or a CSV row for each cell."""

from __future__ import annotations

from dataclasses import asdict

from zpipe.bench.suites import Bench
from zpipe.bench.textbook import differences

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from zpipe.bench.cells import Cell
    from zpipe.bench.figures import Crossing, Figure, Result

VERSION = 1

COLUMNS = (
    "suite",
    "route",
    "technique",
    "size",
    "rounds",
    "model_cpu_copies",
    "model_dma_copies",
    "model_syscalls_per_mib",
    "syscalls_per_mib",
    "voluntary_per_gib",
    "involuntary_per_gib",
    "user_seconds_per_gib",
    "system_seconds_per_gib",
    "cpu_seconds_per_gib",
    "cpu_low",
    "cpu_high",
    "bytes_per_second",
    "rate_low",
    "rate_high",
    "faults_per_mib",
    "from_disk",
    "doubt",
    "ratio",
)


def document(bench: Bench) -> dict[str, Any]:
    """Return all that was found as what JSON has words for."""
    found: dict[str, Any] = {
        "v": VERSION,
        "suite": bench.request.suite,
        "seconds": bench.seconds,
        "rounds": bench.outcome.rounds,
        "machine": bench.machine,
        "noise": {**asdict(bench.noise), "reasons": bench.noise.reasons},
        "cells": [_cell(bench, result) for result in bench.results],
        "refused": _others(bench.outcome.refused),
        "left_out": _others(bench.outcome.left_out),
        "failed": _others(bench.outcome.failed),
    }
    if bench.request.suite == "techniques":
        found["textbook"] = _textbook(bench)
    if bench.request.suite == "broker":
        found["crossings"] = {
            name: {"size": each.size, "between": each.between, "winner": winner(each)}
            for name, each in bench.crossings().items()
        }
    return found


def csv(bench: Bench) -> str:
    """Return a line of names, and a row for each cell; what is not known is empty."""
    import csv as writer
    import io

    text = io.StringIO()
    table = writer.writer(text, lineterminator="\n")
    table.writerow(COLUMNS)
    for result in bench.results:
        row = _row(bench, result)
        table.writerow(["" if row[name] is None else row[name] for name in COLUMNS])
    return text.getvalue().removesuffix("\n")


def winner(found: Crossing) -> str | None:
    """Return who is better at all sizes; None: that depends on the size."""
    if found.size is not None:
        return None
    return "mmap+write" if found.first else "sendfile"


def _row(bench: Bench, result: Result) -> dict[str, Any]:
    cost, calls, ratio = result.cost, result.calls, bench.ratio(result)
    return {
        "suite": bench.request.suite,
        "route": result.cell.route.name,
        "technique": result.cell.technique,
        "size": result.cell.size,
        "rounds": len(result.samples),
        "model_cpu_copies": cost and cost.cpu_copies,
        "model_dma_copies": cost and cost.dma_copies,
        "model_syscalls_per_mib": cost and cost.syscalls_per_mib,
        "syscalls_per_mib": calls and calls.median,
        "voluntary_per_gib": result.voluntary.median,
        "involuntary_per_gib": result.involuntary.median,
        "user_seconds_per_gib": result.user,
        "system_seconds_per_gib": result.system,
        "cpu_seconds_per_gib": result.cpu.median,
        "cpu_low": result.cpu.low,
        "cpu_high": result.cpu.high,
        "bytes_per_second": result.rate.median,
        "rate_low": result.rate.low,
        "rate_high": result.rate.high,
        "faults_per_mib": result.faults.median,
        "from_disk": result.from_disk,
        "doubt": result.doubt,
        "ratio": ratio and ratio.median,
    }


def _cell(bench: Bench, result: Result) -> dict[str, Any]:
    cost = result.cost
    found = {
        "route": result.cell.route.name,
        "technique": result.cell.technique,
        "size": result.cell.size,
        "rounds": len(result.samples),
        "model": None
        if cost is None
        else {
            "cpu_copies": cost.cpu_copies,
            "dma_copies": cost.dma_copies,
            "syscalls_per_mib": cost.syscalls_per_mib,
            "switches_per_mib": cost.switches_per_mib,
        },
        "bytes_per_second": asdict(result.rate),
        "cpu_seconds_per_gib": asdict(result.cpu),
        "user_seconds_per_gib": result.user,
        "system_seconds_per_gib": result.system,
        "voluntary_per_gib": asdict(result.voluntary),
        "involuntary_per_gib": asdict(result.involuntary),
        "syscalls_per_mib": _figure(result.calls),
        "calls": result.calls_by_name,
        "faults_per_mib": asdict(result.faults),
        "from_disk": result.from_disk,
        "doubt": result.doubt,
        "samples": [asdict(sample) for sample in result.samples],
    }
    if bench.request.suite == "peers":
        found["ratio"] = _figure(bench.ratio(result))
        found["cpu_ratio"] = _figure(bench.ratio(result, cpu=True))
    return found


def _figure(found: Figure | None) -> dict[str, float] | None:
    return None if found is None else asdict(found)


def _others(cells: Mapping[Cell, str]) -> list[dict[str, Any]]:
    return [
        {"route": cell.route.name, "technique": cell.technique, "size": cell.size, "why": why}
        for cell, why in cells.items()
    ]


def _textbook(bench: Bench) -> list[dict[str, Any]]:
    rows = []
    for entry, found in bench.by_the_book():
        here = None
        if found is not None:
            here = {
                "route": found.route,
                "size": found.size,
                "cpu_copies": found.cost.cpu_copies,
                "dma_copies": found.cost.dma_copies,
                "switches": found.switches,
                "differences": differences(entry, found),
            }
        rows.append(
            {
                "title": entry.title,
                "technique": entry.technique,
                "cpu_copies": entry.cpu,
                "dma_copies": entry.dma,
                "switches": entry.switches,
                "here": here,
            }
        )
    return rows
