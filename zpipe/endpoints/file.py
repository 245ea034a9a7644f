"""Files by path: regular files, devices, and FIFOs and terminals that a path names.

A regular sink is complete or not there: see replace.py. The facts of the path decide what else it
is; nothing here knows the other end.
"""

from __future__ import annotations

import errno
import os
import stat

from zpipe.endpoints.contract import End, EndpointKind, Opening, flag, mode, option, size_option
from zpipe.endpoints.gather import gather, identity, preview_path
from zpipe.endpoints.replace import Replacement
from zpipe.errors import TransferError, UsageError, onto_itself, open_failed
from zpipe.facts import FdFacts

TYPE_CHECKING = False
if TYPE_CHECKING:
    from zpipe.endpoints.contract import Waiter
    from zpipe.graph.model import Endpoint


class FileEnd(End):
    """A file that stays where it is: any source, and a sink that is written in place."""

    sync = False

    def finish(self, waiter: Waiter, *, complete: bool = True) -> None:
        try:
            if self.sync:
                os.fsync(self.fd)
            fd, self.fd = self.fd, -1
            os.close(fd)
        except OSError as error:
            # close reports what delayed writing met: NFS, quotas
            raise open_failed(self.name, "fsync" if self.sync else "close", error) from error


class ReplacedEnd(End):
    """A sink under a temporary name, renamed when it is complete."""

    def __init__(self, replacement: Replacement, name: str, *, sync: bool):
        super().__init__(replacement.fd, name, _renewed(gather(replacement.fd)))
        self._replacement = replacement
        self._sync = sync
        self.provisional = replacement.reason is None
        if replacement.reason is not None and replacement.reason != "--inplace":
            self.notes.append(f"written in place: {replacement.reason}")

    def prepare(self) -> None:
        self._replacement.prepare()

    def finish(self, waiter: Waiter, *, complete: bool = True) -> None:
        self.fd = -1
        self._replacement.commit(sync=self._sync)

    def close(self) -> None:
        self.fd = -1
        self._replacement.discard()

    def abandon(self) -> None:
        self.fd = self._replacement.fd = -1
        self._replacement.discard()


class File(EndpointKind):
    """`PATH`, or `file:PATH?option=value`."""

    name = "file"
    form = "PATH, file:PATH"
    summary = "A regular file, a device, or what else the path names."
    options = {
        "offset": "begin at this byte; as a sink: write there, in place, without truncating",
        "length": "as a source: stop after this many bytes",
        "append": "1: as a sink, add at the end (O_APPEND)",
        "direct": "1: move by O_DIRECT, past the page cache",
        "split_size": "as a sink, with %04d or such in its name: bytes in each file",
        "mode": "as a sink, permission bits of a new file, in octal; the umask applies",
    }

    def check(self, endpoint: Endpoint, *, sink: bool) -> None:
        if not endpoint.address:
            raise UsageError(f"{endpoint.text}: the path is empty")
        size_option(endpoint, "offset")
        size_option(endpoint, "length")
        option(endpoint, "mode", mode, 0)
        option(endpoint, "direct", flag, False)
        append = option(endpoint, "append", flag, False)
        given = endpoint.options
        wrong = {"length"} if sink else {"append", "mode", "split_size"}
        wrong &= set(given)
        if wrong:
            side = "sink" if not sink else "source"
            raise UsageError(f"{endpoint.text}: option {min(wrong)}: is for a {side}")
        if append and "offset" in given:
            raise UsageError(f"{endpoint.text}: append and offset exclude each other")
        if "split_size" in given:
            from zpipe.endpoints import split

            split.judge(endpoint.address, size_option(endpoint, "split_size"), endpoint.text)
            if "offset" in given:
                raise UsageError(f"{endpoint.text}: offset and split_size exclude each other")

    def open_source(self, endpoint: Endpoint, opening: Opening) -> End:
        path = endpoint.address
        offset = opening.offset + (size_option(endpoint, "offset") or 0)
        try:
            kind = os.stat(path).st_mode
            if stat.S_ISFIFO(kind):
                from zpipe.endpoints import fifo

                return fifo.open_source(path, endpoint.text, opening, offset)
            if stat.S_ISSOCK(kind):
                raise _is_socket(path)
            if stat.S_ISDIR(kind):
                raise OSError(errno.EISDIR, "")
            # a terminal is waited for by poll; a regular file must not be: an open with
            # O_NONBLOCK fails at once where somebody holds a lease
            wait = os.O_NONBLOCK if stat.S_ISCHR(kind) else 0
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOCTTY | wait)
        except OSError as error:
            raise open_failed(endpoint.text, "open", error) from error
        try:
            if offset:
                seek(fd, offset, endpoint.text)
            facts = gather(fd)
        except BaseException:
            os.close(fd)
            raise
        if option(endpoint, "direct", flag, False):
            facts = asked_direct(facts)
        return FileEnd(fd, endpoint.text, facts, limit=size_option(endpoint, "length"))

    def open_sink(self, endpoint: Endpoint, opening: Opening) -> End:
        size = size_option(endpoint, "split_size")
        if size is None:
            return self._open_sink(endpoint, opening)
        from zpipe.endpoints import split
        from zpipe.values import replace

        options = {key: value for key, value in endpoint.options.items() if key != "split_size"}

        def open_part(number: int) -> End:
            name = split.part_name(endpoint.address, number)
            part = replace(endpoint, text=name, address=name, options=options)
            return self._open_sink(part, opening)

        return split.SplitEnd(open_part, size, endpoint.text)

    def _open_sink(self, endpoint: Endpoint, opening: Opening) -> End:
        path = endpoint.address
        append = opening.append or option(endpoint, "append", flag, False)
        offset = size_option(endpoint, "offset")
        try:
            kind = os.stat(path).st_mode
        except OSError:
            kind = 0
        if stat.S_ISFIFO(kind):
            from zpipe.endpoints import fifo

            return fifo.open_sink(path, endpoint.text, opening, offset or 0)
        if stat.S_ISSOCK(kind):
            raise _is_socket(path)
        bits = option(endpoint, "mode", mode, opening.mode)
        if append or offset is not None or stat.S_ISBLK(kind) or stat.S_ISCHR(kind):
            end = self._open_as_it_is(endpoint, opening, kind, append, offset or 0, bits)
        else:
            replacement = Replacement(
                path, mode=bits, inplace=opening.inplace, refuse=opening.refuse
            )
            try:
                end = ReplacedEnd(replacement, endpoint.text, sync=opening.sync)
            except BaseException:
                replacement.discard()
                raise
        if option(endpoint, "direct", flag, False):
            end.facts = asked_direct(end.facts)
        return end

    def preview(self, endpoint: Endpoint, *, sink: bool) -> FdFacts:
        path = endpoint.address
        try:
            facts = preview_path(path)
            if facts is None and not sink:
                raise FileNotFoundError(errno.ENOENT, "")
            if facts is None:
                above = preview_path(os.path.dirname(path) or ".")
                if above is None:
                    raise FileNotFoundError(errno.ENOENT, "")
                facts = _like_directory(os.path.dirname(path) or ".")
        except OSError as error:
            raise open_failed(endpoint.text, "open", error) from error
        if facts.type == "directory" or not os.path.basename(path):
            raise open_failed(endpoint.text, "open", OSError(errno.EISDIR, ""))
        if facts.type == "unix":
            raise _is_socket(path)
        return _as_asked(facts, endpoint, sink=sink)

    def _open_as_it_is(
        self, endpoint: Endpoint, opening: Opening, kind: int, append: bool, offset: int, bits: int
    ) -> End:
        """Open a target without truncating it: devices, `append`, `offset`."""
        flags = os.O_WRONLY | os.O_CLOEXEC | os.O_NOCTTY
        if append:
            flags |= os.O_APPEND
        if stat.S_ISCHR(kind):
            flags |= os.O_NONBLOCK
        elif not stat.S_ISBLK(kind):
            flags |= os.O_CREAT
        try:
            fd = os.open(endpoint.address, flags, bits)
        except OSError as error:
            raise open_failed(endpoint.text, "open", error) from error
        try:
            info = os.fstat(fd)
            if stat.S_ISREG(info.st_mode) or stat.S_ISBLK(info.st_mode):
                refuse_same(identity(info), opening, endpoint.text)
            if offset:
                seek(fd, offset, endpoint.text)
            end = FileEnd(fd, endpoint.text, gather(fd))
        except BaseException:
            os.close(fd)
            raise
        end.sync = opening.sync and end.facts.on_disk
        return end


def _is_socket(path: str) -> TransferError:
    return TransferError(f"{path}: open: is a socket; to connect, write unix:{path}")


def refuse_same(own: tuple[int, int], opening: Opening, name: str) -> None:
    """Refuse a sink that is the source. Raises: UsageError."""
    if opening.refuse == own:
        raise onto_itself(name)


def seek(fd: int, offset: int, name: str) -> None:
    """Begin at an offset. Raises: TransferError  the fd is a stream, or the offset is too large."""
    try:
        os.lseek(fd, offset, os.SEEK_SET)
    except OSError as error:
        raise open_failed(name, f"seek to {offset}", error) from error


def asked_direct(facts: FdFacts) -> FdFacts:
    """Return the facts of an end for which O_DIRECT was asked."""
    from zpipe.values import replace

    return replace(facts, direct=True)


def _renewed(facts: FdFacts) -> FdFacts:
    from zpipe.values import replace

    return replace(facts, fresh=True, size=0, allocated=0)


def _as_asked(facts: FdFacts, endpoint: Endpoint, *, sink: bool) -> FdFacts:
    """Return the likely facts of a path once it is opened with its options."""
    from zpipe.values import replace

    append = option(endpoint, "append", flag, False)
    offset = size_option(endpoint, "offset")
    if facts.position is not None:
        if not sink or append or offset is not None:
            start = offset or 0
            size = max(0, facts.size - start) if facts.size is not None else None
            facts = replace(facts, position=start, size=size, append=append, fresh=False)
        elif facts.type == "regular":
            facts = _renewed(facts)
    return asked_direct(facts) if option(endpoint, "direct", flag, False) else facts


def _like_directory(path: str) -> FdFacts:
    """Return the likely facts of a file that would be created in a directory."""
    from zpipe.kernel.inspect import filesystem

    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        info = os.fstat(fd)
        return FdFacts(
            "regular",
            position=0,
            size=0,
            identity=(info.st_dev, 0),
            allocated=0,
            fresh=True,
            filesystem=filesystem(fd),
        )
    finally:
        os.close(fd)


KIND: EndpointKind = File()
