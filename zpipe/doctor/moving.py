"""The calls that move bytes inside the kernel, each tried on two pages and looked at afterwards."""

from __future__ import annotations

import errno
import os
import socket

from zpipe.doctor.findings import Answer, Probe, Refused, Trying
from zpipe.doctor.scratch import DATA, Scratch, moved, received, same
from zpipe.kernel import transfer

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from zpipe.kernel.pipes import Pipe

OK = Answer("ok")


def probes(folder: str | None, other: str | None = None) -> list[Probe]:
    """Return the questions; files are made in `folder` (None: in memory).

    `other` is a folder of another filesystem, where there is one; else a file in memory is taken.
    """

    def of_file(ask: Callable[[str | None], Answer]) -> Callable[[], Answer]:
        return lambda: ask(folder)

    return [
        Probe(
            "splice-file-to-pipe",
            "splice file to pipe",
            of_file(splice_file_to_pipe),
            "files go into pipes by sendfile, or are read and written: two copies more",
        ),
        Probe(
            "splice-pipe-to-file",
            "splice pipe to file",
            of_file(splice_pipe_to_file),
            "what comes from pipes and sockets is read and written into files: one copy more",
        ),
        Probe(
            "splice-pipe-to-pipe",
            "splice pipe to pipe",
            splice_pipe_to_pipe,
            "cat and tee read and write what goes from pipe to pipe: two copies more",
        ),
        Probe(
            "splice-tcp",
            "splice TCP",
            splice_tcp,
            "zpipe proxy and cp read and write what goes through TCP: about twice the CPU time"
            " for bulk data, nothing for small messages",
        ),
        Probe(
            "splice-unix",
            "splice UNIX stream",
            splice_unix,
            "zpipe proxy and cp read and write what goes through UNIX sockets",
        ),
        Probe(
            "tee",
            "tee pipe to pipe",
            tee,
            "several outputs (tee, cp --to, mirrors, captures) are each written from a buffer:"
            " one copy for each output more",
        ),
        Probe(
            "sendfile-to-tcp",
            "sendfile file to TCP",
            of_file(sendfile_to_tcp),
            "files go into sockets by splice, or are read and written: two copies more",
        ),
        Probe(
            "sendfile-to-file",
            "sendfile file to file",
            of_file(sendfile_to_file),
            "where copy_file_range does not serve, files are copied by splice, or read and written",
        ),
        Probe(
            "copy-range-across",
            "copy_file_range across",
            lambda: copy_range_across(folder, other),
            "cp from one filesystem to another goes by sendfile: one copy, as copy_file_range"
            " would mean here too",
        ),
    ]


def splice_file_to_pipe(folder: str | None) -> Answer:
    with Scratch() as scratch:
        source, pipe = scratch.file(folder), scratch.pipe()
        with Trying("splice"):
            count = transfer.splice(source, pipe.writer, len(DATA))
        moved("splice", count)
        same("splice", bytes(pipe.take_out(count)))
    return OK


def splice_pipe_to_file(folder: str | None) -> Answer:
    with Scratch() as scratch:
        sink, pipe = scratch.file(folder, b""), _filled(scratch)
        with Trying("splice"):
            count = transfer.splice(pipe.reader, sink, len(DATA))
        moved("splice", count)
        same("splice", os.pread(sink, count, 0))
    return OK


def splice_pipe_to_pipe() -> Answer:
    with Scratch() as scratch:
        pipe, other = _filled(scratch), scratch.pipe()
        with Trying("splice"):
            count = transfer.splice(pipe.reader, other.writer, len(DATA))
        moved("splice", count)
        same("splice", bytes(other.take_out(count)))
    return OK


def splice_tcp() -> Answer:
    with Scratch() as scratch:
        return _there_and_back(scratch, scratch.tcp())


def splice_unix() -> Answer:
    with Scratch() as scratch:
        return _there_and_back(scratch, scratch.unix())


def _there_and_back(scratch: Scratch, ends: tuple[socket.socket, socket.socket]) -> Answer:
    """Send bytes to the second end, which splices them into a pipe and back to the first."""
    near, far = ends
    pipe = scratch.pipe()
    near.sendall(DATA)
    count = 0
    while count < len(DATA):
        with Trying("splice from the socket"):
            some = transfer.splice(far.fileno(), pipe.writer, len(DATA) - count)
        if some == 0:
            break
        count += some
    moved("splice from the socket", count)
    with Trying("splice to the socket"):
        back = transfer.splice(pipe.reader, far.fileno(), count)
    moved("splice to the socket", back)
    same("splice", received(near, back))
    return OK


def tee() -> Answer:
    with Scratch() as scratch:
        pipe, other = _filled(scratch), scratch.pipe()
        with Trying("tee"):
            count = transfer.tee(pipe.reader, other.writer, len(DATA))
        moved("tee", count)
        same("tee", bytes(other.take_out(count)))
        same("tee", bytes(pipe.take_out(count)))
    return OK


def sendfile_to_tcp(folder: str | None) -> Answer:
    with Scratch() as scratch:
        source = scratch.file(folder)
        near, far = scratch.tcp()
        with Trying("sendfile"):
            count = transfer.sendfile(source, near.fileno(), len(DATA))
        moved("sendfile", count)
        same("sendfile", received(far, count))
    return OK


def sendfile_to_file(folder: str | None) -> Answer:
    with Scratch() as scratch:
        source, sink = scratch.file(folder), scratch.file(folder, b"")
        with Trying("sendfile"):
            count = transfer.sendfile(source, sink, len(DATA))
        moved("sendfile", count)
        same("sendfile", os.pread(sink, count, 0))
    return OK


def copy_range_across(folder: str | None, other: str | None) -> Answer:
    """Copy to another filesystem; that it is refused there is how Linux is since 5.19."""
    with Scratch() as scratch:
        source, sink = scratch.file(folder), scratch.file(other, b"")
        try:
            return copied_by_range(source, sink)
        except Refused as error:
            if error.errno != errno.EXDEV:
                raise
            detail = "EXDEV: refused between filesystems of two kinds, as by every Linux from 5.19"
            return Answer("fact", detail, errno=errno.EXDEV)


def copied_by_range(source: int, sink: int) -> Answer:
    """Copy one file into another by copy_file_range. Raises: Refused."""
    with Trying("copy_file_range"):
        count = transfer.copy_file_range(source, sink, len(DATA))
    moved("copy_file_range", count)
    same("copy_file_range", os.pread(sink, count, 0))
    return OK


def _filled(scratch: Scratch) -> Pipe:
    pipe = scratch.pipe()
    moved("write", os.write(pipe.writer, DATA))
    return pipe
