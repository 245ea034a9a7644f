"""Calls that move nothing themselves, and that parts of zpipe rest on."""

from __future__ import annotations

import mmap
import os
import select
import signal
import socket

from zpipe.doctor.findings import Answer, Probe, Refused, Trying
from zpipe.doctor.scratch import DATA, Scratch, received, same
from zpipe.kernel import memory
from zpipe.kernel.mapping import Mapping

OK = Answer("ok")


def probes(folder: str | None) -> list[Probe]:
    """Return the questions; files are made in `folder` (None: in memory)."""
    return [
        Probe(
            "memfd-seals",
            "memfd and its seals",
            memfd_seals,
            "SharedBuffer of the library cannot be used",
        ),
        Probe(
            "scm-rights",
            "fds over UNIX sockets",
            scm_rights,
            "SharedBuffer cannot be handed to another process",
        ),
        Probe(
            "mapped-write",
            "mmap and write",
            lambda: mapped_write(folder),
            "--via mapped falls back to read and write",
        ),
        Probe(
            "mincore",
            "mincore",
            lambda: mincore(folder),
            "MappedBuffer.is_loaded() of the library cannot tell",
        ),
        Probe(
            "eventfd",
            "eventfd",
            eventfd,
            "copies with several outputs, spilling and executors cannot start",
        ),
        Probe(
            "pidfd",
            "pidfd",
            pidfd,
            "exec: ends, and proxies with --workers, cannot wait for their processes",
        ),
        Probe(
            "msg-peek",
            "MSG_PEEK",
            msg_peek,
            "an end of input on a socket cannot be told from an urgent mark",
        ),
        Probe(
            "epoll-exclusive",
            "EPOLLEXCLUSIVE",
            epoll_exclusive,
            "proxies with --workers and a shared listener cannot serve it",
        ),
        Probe(
            "reuse-port",
            "SO_REUSEPORT",
            reuse_port,
            "proxies with --workers cannot listen on TCP",
        ),
    ]


def memfd_seals() -> Answer:
    """Seal a file in memory, and check that the seal holds."""
    with Scratch() as scratch:
        with Trying("memfd_create"):
            fd = scratch.keep(memory.memfd("zpipe-doctor"))
        os.truncate(fd, mmap.PAGESIZE)
        with Trying("fcntl(F_ADD_SEALS)"):
            memory.add_seals(fd, memory.F_SEAL_SHRINK | memory.F_SEAL_GROW)
        try:
            os.truncate(fd, 0)
        except PermissionError:
            return OK
    raise Refused("fcntl(F_ADD_SEALS)", 0, "the file could be cut all the same")


def scm_rights() -> Answer:
    with Scratch() as scratch:
        near, far = scratch.unix()
        pipe = scratch.pipe()
        with Trying("sendmsg(SCM_RIGHTS)"):
            socket.send_fds(near, [b"x"], [pipe.writer])
            _, fds, _, _ = socket.recv_fds(far, 1, 1)
        if not fds:
            raise Refused("recvmsg(SCM_RIGHTS)", 0, "no fd arrived")
        os.write(scratch.keep(fds[0]), DATA)
        same("write", bytes(pipe.take_out(len(DATA))))
    return OK


def mapped_write(folder: str | None) -> Answer:
    with Scratch() as scratch:
        source, pipe = scratch.file(folder), scratch.pipe()
        with Trying("mmap"):
            mapping = Mapping(source, 0, len(DATA), writable=False, private=False)
        with Trying("write"):
            os.write(pipe.writer, mapping.view)
        mapping.close()
        same("write", bytes(pipe.take_out(len(DATA))))
    return OK


def mincore(folder: str | None) -> Answer:
    """Ask of pages that were written just now, and so are in memory."""
    with Scratch() as scratch:
        source = scratch.file(folder)
        with Trying("mmap"):
            mapping = Mapping(source, 0, len(DATA), writable=False, private=False)
        with Trying("mincore"):
            resident = mapping.resident(0, len(DATA))
        mapping.close()
    if not resident:
        return Answer("limited", "it calls pages absent that were written just now")
    return OK


def eventfd() -> Answer:
    with Scratch() as scratch:
        with Trying("eventfd2"):
            fd = scratch.keep(os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK))
        os.eventfd_write(fd, 3)
        if os.eventfd_read(fd) != 3:
            raise Refused("eventfd2", 0, "it does not count")
    return OK


def pidfd() -> Answer:
    with Scratch() as scratch:
        with Trying("pidfd_open"):
            fd = scratch.keep(os.pidfd_open(os.getpid()))
        with Trying("pidfd_send_signal"):
            signal.pidfd_send_signal(fd, signal.Signals.SIGURG)
    return OK


def msg_peek() -> Answer:
    with Scratch() as scratch:
        near, far = scratch.tcp()
        near.sendall(DATA)
        with Trying("recv(MSG_PEEK)"):
            peeked = far.recv(len(DATA), socket.MSG_PEEK)
        if not peeked or not DATA.startswith(peeked):
            raise Refused("recv(MSG_PEEK)", 0, "other bytes were seen than were sent")
        same("recv", received(far, len(DATA)))
    return OK


def epoll_exclusive() -> Answer:
    with Scratch() as scratch:
        listener = scratch.listener()
        with Trying("epoll_create1"):
            poll = select.epoll()
        with poll, Trying("epoll_ctl(EPOLLEXCLUSIVE)"):
            poll.register(listener, select.EPOLLIN | select.EPOLLEXCLUSIVE)
    return OK


def reuse_port() -> Answer:
    with Scratch() as scratch:
        with Trying("socket"):
            one = scratch.close(socket.socket(socket.AF_INET, socket.SOCK_STREAM))
            other = scratch.close(socket.socket(socket.AF_INET, socket.SOCK_STREAM))
        with Trying("setsockopt(SO_REUSEPORT)"):
            for end in (one, other):
                end.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        with Trying("bind"):
            one.bind(("127.0.0.1", 0))
            one.listen(1)
            other.bind(one.getsockname())
            other.listen(1)
    return OK
