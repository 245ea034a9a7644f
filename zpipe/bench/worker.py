"""One measurement, in the process that does it and nothing else.

Counted is what this process uses (getrusage(2), all of its threads), from the first byte to the
last one that the sinks took; the time goes on until the readers have them.
"""

from __future__ import annotations

import os
import resource
import select
import time
from collections import Counter

from zpipe.bench.carry import Carrier, cost_of, milliseconds
from zpipe.bench.cells import MIB, WARM_UP, Cell
from zpipe.bench.ends import Ends, batch
from zpipe.bench.figures import Sample
from zpipe.bench.schedule import Failed, TooLong
from zpipe.errors import reason
from zpipe.kernel.mapping import Window
from zpipe.kernel.transfer import sendfile_at
from zpipe.movers.contract import Cost

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import TypeAlias

    from zpipe.bench.scratch import Scratch

    Used: TypeAlias = tuple[float, float, float, int, int, int, int]


class Meter:
    """Adds up what is used between `start` and `pause`."""

    def __init__(self) -> None:
        self._sums = [0.0] * 7
        self._before: Used = _used()

    def start(self) -> None:
        self._before = _used()

    def pause(self) -> None:
        for place, (now, before) in enumerate(zip(_used(), self._before, strict=True)):
            self._sums[place] += now - before

    @property
    def seconds(self) -> float:
        return self._sums[0]

    def sample(self, transfers: int, count: int, calls: Iterable[Counter[str]]) -> Sample:
        """Return the sum of so many transfers, and of all of their calls."""
        total: Counter[str] = Counter()
        for each in calls:
            total.update(each)
        seconds, user, system = self._sums[:3]
        voluntary, involuntary, faults, blocks = map(int, self._sums[3:])
        return Sample(
            transfers=transfers,
            bytes=count,
            seconds=seconds,
            user=user,
            system=system,
            voluntary=voluntary,
            involuntary=involuntary,
            faults=faults,
            blocks_in=blocks,
            calls=dict(total),
        )


def _used() -> Used:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return (
        time.monotonic(),
        used.ru_utime,
        used.ru_stime,
        used.ru_nvcsw,
        used.ru_nivcsw,
        used.ru_minflt,
        used.ru_inblock,
    )


def measure(
    cell: Cell, source: str, scratch: Scratch, outputs: int, span: float, end: float
) -> tuple[Sample, Cost]:
    """Carry for `span` seconds, at least once and until `end`; return also what the model says.

    `source` is the path of a file of the cell's size, where the route begins at a file.

    Raises: Refused, TooLong, Failed
    """
    route, size = cell.route, cell.size
    sinks = [scratch.sink(number) for number in range(batch(size))]
    try:
        with Ends(route, source, sinks, outputs) as ends:
            facts = [sink.facts for sink in ends.sinks]
            cost = cost_of(cell.technique, route, ends.source.facts, facts)
            carrier = Carrier(cell.technique, ends.source, ends.sinks, several=route.several)
            carrier.until(end)
            if ends.streams:
                sample = _to_streams(carrier, ends, size, span)
            else:
                sample = _to_files(carrier, ends, size, span)
    except OSError as error:
        raise Failed(reason(error)) from error
    return sample, cost


def _to_files(carrier: Carrier, ends: Ends, size: int, span: float) -> Sample:
    """Write batches of new files; emptying them again does not count."""
    kept: list[Counter[str]] = []
    fd = ends.source.fd
    carrier.carry(ends.sinks[0], min(size, WARM_UP))
    os.lseek(fd, 0, os.SEEK_SET)
    meter = Meter()
    while True:
        ends.rewind()
        meter.start()
        for sink in ends.sinks:
            kept.append(carrier.carry(sink, size))
            os.lseek(fd, 0, os.SEEK_SET)
        meter.pause()
        if meter.seconds >= span:
            break
    return meter.sample(len(kept), len(kept) * size, kept)


def _to_streams(carrier: Carrier, ends: Ends, size: int, span: float) -> Sample:
    """Send again and again what a file holds, or what comes."""
    kept: list[Counter[str]] = []
    sink, fd = ends.sinks[0], ends.source.fd
    rewinds = ends.source.facts.on_disk
    before = min(size, WARM_UP)
    carrier.carry(sink, before)
    if rewinds:
        os.lseek(fd, 0, os.SEEK_SET)
    meter = Meter()
    meter.start()
    until = time.monotonic() + span
    while True:
        kept.append(carrier.carry(sink, size))
        if rewinds:
            os.lseek(fd, 0, os.SEEK_SET)
        if time.monotonic() >= until:
            break
    meter.pause()
    began = time.monotonic()
    moved = len(kept) * size
    arrived = ends.arrived()
    late = time.monotonic() - began
    if arrived != (moved + before) * len(ends.sinks):
        raise Failed(f"{arrived} bytes arrived of {(moved + before) * len(ends.sinks)}")
    return _later(meter.sample(len(kept), moved, kept), late)


def _later(sample: Sample, seconds: float) -> Sample:
    """Add the time until the readers had it all; what we used meanwhile was not for the bytes."""
    from dataclasses import replace

    return replace(sample, seconds=sample.seconds + seconds)


# Brokers


def measure_log(cell: Cell, log: str, span: float, end: float) -> tuple[Sample, Cost]:
    """Send records of a log to a consumer, one after the other, each by a call of its own.

    By `mmap+write` the log is mapped once, and each record written from the mapping; by `sendfile`
    each is sent by its place in the file. Nobody cuts the log, so that nothing guards against it.
    Returned is also what the model says: the copies of the movers, and one call for each record.

    Raises: Refused, TooLong, Failed
    """
    try:
        with Ends(cell.route, log, (), 1) as ends:
            source, sink = ends.source, ends.sinks[0]
            copies = cost_of(cell.technique, cell.route, source.facts, [sink.facts])
            cost = Cost(copies.cpu_copies, copies.dma_copies, MIB / cell.size)
            sender = _Sender(sink.fd, end)
            length = source.facts.size or 0
            if cell.technique == "sendfile":
                send = sender.sendfile_of(source.fd)
                return _records(cell.size, length, span, ends, sender, send), cost
            window = Window(source.fd, 0, length)
            try:
                send = sender.write_of(window)
                return _records(cell.size, length, span, ends, sender, send), cost
            finally:
                window.close()
    except OSError as error:
        raise Failed(reason(error)) from error


class _Sender:
    """Sends a record to a socket that does not block, and waits where it is full."""

    def __init__(self, sink: int, end: float):
        self.calls: Counter[str] = Counter()
        self._sink = sink
        self._end = end
        self._poller = select.poll()
        self._poller.register(sink, select.POLLOUT)

    def write_of(self, window: Window) -> Callable[[int, int], None]:
        view, sink, write = window.view, self._sink, os.write

        def send(place: int, count: int) -> None:
            while count:
                try:
                    self.calls["write"] += 1
                    with view[place : place + count] as piece:
                        moved = write(sink, piece)
                except BlockingIOError:
                    self._wait()
                else:
                    place, count = place + moved, count - moved

        return send

    def sendfile_of(self, source: int) -> Callable[[int, int], None]:
        sink = self._sink

        def send(place: int, count: int) -> None:
            while count:
                try:
                    self.calls["sendfile"] += 1
                    moved = sendfile_at(source, place, sink, count)
                except BlockingIOError:
                    self._wait()
                else:
                    place, count = place + moved, count - moved

        return send

    def _wait(self) -> None:
        self.calls["poll"] += 1
        if not self._poller.poll(milliseconds(self._end)):
            raise TooLong


def _records(
    size: int,
    length: int,
    span: float,
    ends: Ends,
    sender: _Sender,
    send: Callable[[int, int], None],
) -> Sample:
    """Send the records of the log from its begin, and again once they are at an end."""
    last = length - size
    send(0, size)
    sender.calls.clear()
    place, transfers = 0, 0
    meter = Meter()
    meter.start()
    until = time.monotonic() + span
    while True:
        send(place, size)
        transfers += 1
        place += size
        if place > last:
            place = 0
        if time.monotonic() >= until:
            break
    meter.pause()
    began = time.monotonic()
    arrived = ends.arrived()
    late = time.monotonic() - began
    if arrived != (transfers + 1) * size:
        raise Failed(f"{arrived} bytes arrived of {(transfers + 1) * size}")
    return _later(meter.sample(transfers, transfers * size, [sender.calls]), late)
