"""Files by position, moved by the kernel: what `open(..., "rb")` does not offer.

Nothing is buffered here. Calls with a position leave the file position alone, and threads may
make them at the same time on one channel; that nobody is inside a call while the channel is
closed is for the caller to see to.
"""

from __future__ import annotations

import os
import stat
import warnings
from typing import overload

from zpipe.channel.lock import FileLock, Locks
from zpipe.channel.mapped import MapMode, MappedBuffer
from zpipe.channel.place import Place
from zpipe.channel.transfer import Transferred, move
from zpipe.kernel.direct import aligned_buffer
from zpipe.kernel.inspect import status_flags

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from typing_extensions import Buffer, Self

    from zpipe.channel.place import HasFileno

MODES = {
    "r": os.O_RDONLY,
    "r+": os.O_RDWR,
    "w": os.O_WRONLY | os.O_CREAT | os.O_TRUNC,
    "w+": os.O_RDWR | os.O_CREAT | os.O_TRUNC,
    "a": os.O_WRONLY | os.O_CREAT | os.O_APPEND,
    "a+": os.O_RDWR | os.O_CREAT | os.O_APPEND,
    "x": os.O_WRONLY | os.O_CREAT | os.O_EXCL,
    "x+": os.O_RDWR | os.O_CREAT | os.O_EXCL,
}
IOV_MAX = os.sysconf("SC_IOV_MAX")
ONE_CALL = 0x7FFFF000  # bytes: MAX_RW_COUNT


class FileChannel:
    """An open file. Positions, counts and sizes are in bytes, of any size that a file can have.

    >>> import os, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with FileChannel.open(f"{folder}/file", "w+") as channel:
    ...         channel.writev([b"one ", b"two ", b"three"])
    ...         channel.read(3, position=4)
    ...         reader, writer = os.pipe()
    ...         sent = channel.transfer_to(8, 1 << 40, writer)
    ...         sent, os.read(reader, 99)
    ...         os.close(reader), os.close(writer)
    13
    b'two'
    (Transferred(5, path='splice'), b'three')
    (None, None)

    `FileChannel(fd)` takes over an fd that is open, and closes it in the end unless `closefd` is
    False. Methods raise ValueError once it is closed; that a file is not open for reading, or for
    writing, is an OSError (EBADF) of the kernel.
    """

    def __init__(self, fd: int, *, closefd: bool = True, name: str | None = None):
        self._fd = -1
        info = os.fstat(fd)
        if stat.S_ISDIR(info.st_mode):
            raise IsADirectoryError(f"{name or f'fd {fd}'}: is a directory")
        flags = status_flags(fd)
        self.name = name or f"fd {fd}"
        self._append = bool(flags & os.O_APPEND)
        self._direct = bool(flags & os.O_DIRECT)
        # what is on a disk comes short at the end of the file only, or where a signal came
        self._regular = stat.S_ISREG(info.st_mode)
        self._block = stat.S_ISBLK(info.st_mode)
        self._on_disk = self._regular or self._block
        self._locks = Locks(self.name)
        self._owned = closefd
        self._fd = fd

    @classmethod
    def open(
        cls,
        path: str | bytes | os.PathLike[str],
        mode: str = "r",
        *,
        direct: bool = False,
        permissions: int = 0o666,
    ) -> FileChannel:
        """Open a file. `mode` is one of r, r+, w, w+, a, a+, x, x+, as for Python's own `open`.

        `direct` is O_DIRECT: past the page cache, and positions, counts and memory must be
        aligned (`DirectBuffer`; `read(count)` sees to the memory). `permissions` are those of a
        file that is made, before the umask.

        Raises: ValueError  no such mode.
                OSError     as the kernel says; EINVAL: the filesystem has no O_DIRECT.
        Source: open(2).
        """
        flags = MODES.get(mode.replace("b", "", 1))
        if flags is None:
            raise ValueError(f"mode {mode!r}: one of {', '.join(MODES)}")
        if direct:
            flags |= os.O_DIRECT
        fd = os.open(path, flags | os.O_CLOEXEC, permissions)
        try:
            return cls(fd, name=os.fsdecode(path))
        except BaseException:
            os.close(fd)
            raise

    @overload
    def read(self, into: int, position: int | None = None) -> bytes: ...
    @overload
    def read(self, into: Buffer, position: int | None = None) -> int: ...
    def read(self, into: int | Buffer, position: int | None = None) -> bytes | int:
        """Read up to so many bytes, and return them; or fill a buffer, and return how many.

        From `position`, or from the file position, which then moves. Fewer come at the end of the
        file only, where none come; of a pipe or device, what one read(2) gives.

        Raises: BlockingIOError  nothing there now, and the fd does not block.
                OSError          EBADF, EIO; EINVAL: O_DIRECT, not aligned; ESPIPE: no positions.
        Source: preadv(2).
        """
        if not isinstance(into, int):
            return self.readv([into], position)
        if into < 0:
            raise ValueError(f"{self.name}: read: a count of {into}")
        fd = self._checked(position)
        if self._direct and into:
            with memoryview(aligned_buffer(into)) as view:
                return bytes(view[: self.readv([view], position)])
        found: list[bytes] = []
        done = 0
        while True:
            wanted = min(into - done, ONE_CALL)
            try:
                if position is None:
                    data = os.read(fd, wanted)
                else:
                    data = os.pread(fd, wanted, position + done)
            except OSError:
                if done:
                    break  # it says so again when it is asked again
                raise
            found.append(data)
            done += len(data)
            if done == into or not data or not self._on_disk:
                break
        return found[0] if len(found) == 1 else b"".join(found)

    def write(self, data: Buffer, position: int | None = None) -> int:
        """Write bytes at `position`, or at the file position, which then moves; return how many.

        All of them to a file, unless the disk or a limit is reached on the way: asked again, it
        raises that. Past the end, the gap reads as zeros and takes no room. A channel that appends
        takes no position.

        Raises: BlockingIOError  no room now, and the fd does not block.
                OSError          EBADF, EIO, ENOSPC, EFBIG; EINVAL: O_DIRECT, not aligned.
        Source: pwritev(2).
        """
        return self.writev([data], position)

    def readv(self, buffers: Iterable[Buffer], position: int | None = None) -> int:
        """Read into buffers, one after the other, as `read` does; any number of them."""
        fd = self._checked(position)
        if position is None:
            return self._vectored(lambda views, _: os.readv(fd, views), buffers, 0)
        return self._vectored(lambda views, at: os.preadv(fd, views, at), buffers, position)

    def writev(self, buffers: Iterable[Buffer], position: int | None = None) -> int:
        """Write buffers, one after the other, as `write` does; any number of them.

        1024 of them (IOV_MAX) reach the file in one call, and stay together also where several
        processes append; more do not.
        """
        fd = self._checked(position)
        if position is None:
            return self._vectored(lambda views, _: os.writev(fd, views), buffers, 0)
        if self._append:
            # pwrite(2) would append all the same, wherever it was told to write
            raise ValueError(f"{self.name}: write: it appends, and takes no position")
        return self._vectored(lambda views, at: os.pwritev(fd, views, at), buffers, position)

    def _vectored(
        self,
        call: Callable[[list[memoryview], int], int],
        buffers: Iterable[Buffer],
        position: int,
    ) -> int:
        views = [memoryview(buffer).cast("B") for buffer in buffers]
        done = first = 0
        while first < len(views):
            group = views[first : first + IOV_MAX]
            asked = sum(map(len, group))
            if not asked:
                first += len(group)
                continue
            try:
                moved = call(group, position + done)
            except OSError:
                if done:
                    break  # it says so again when it is asked again
                raise
            done += moved
            if not moved or (moved < asked and not self._on_disk):
                break
            while first < len(views) and moved >= len(views[first]):
                moved -= len(views[first])
                first += 1
            if moved:
                views[first] = views[first][moved:]
        return done

    def tell(self) -> int:
        """Return the file position. Raises: OSError  ESPIPE: it has none."""
        return os.lseek(self.fileno(), 0, os.SEEK_CUR)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Set the file position, and return it. Source: lseek(2)."""
        return os.lseek(self.fileno(), offset, whence)

    def size(self) -> int:
        """Return the size of the file; of a block device, too. Moves no position of a file."""
        if not self._block:
            return os.fstat(self.fileno()).st_size
        here = self.tell()
        try:
            return self.seek(0, os.SEEK_END)
        finally:
            self.seek(here)

    def truncate(self, size: int) -> None:
        """Cut the file, or make it longer: what is new reads as zeros and takes no room.

        Raises: OSError  EINVAL: not open for writing, or no file; EFBIG.
        Source: ftruncate(2).
        """
        os.ftruncate(self.fileno(), size)

    def force(self, metadata: bool = True) -> None:
        """Wait until what was written is on the disk, with times and owner unless told otherwise.

        The size is made durable in any case: without it the data could not be found.

        Raises: OSError  EIO, ENOSPC, EDQUOT: something was lost, said once; EINVAL: no file.
        Source: fsync(2), fdatasync(2).
        """
        (os.fsync if metadata else os.fdatasync)(self.fileno())

    def lock(
        self,
        position: int = 0,
        count: int | None = None,
        *,
        shared: bool = False,
        blocking: bool = True,
    ) -> FileLock:
        """Lock a range, at least a byte; a count of None reaches beyond any end of the file.

        Others are held back that ask for a lock, be it another channel of this process, if the
        ranges overlap and one of the two is not `shared`. It ends by `release`, by the `with`
        block, when the channel is closed, and with the process; a child that is forked shares it.

        Raises: BlockingIOError  somebody else has it, and `blocking` is False.
                ValueError       it overlaps with a lock that this channel holds or waits for.
                OSError          EBADF: shared needs reading, exclusive needs writing; ENOLCK;
                                 EDEADLK.
        Source: fcntl(2), "Open file description locks".
        """
        fd = self._checked(position)
        if count is not None and count < 1:
            raise ValueError(f"{self.name}: lock: a count of {count}")
        return self._locks.take(fd, FileLock(self._locks, position, count, shared), blocking)

    def transfer_to(self, position: int, count: int, target: int | HasFileno) -> Transferred:
        """Send up to `count` bytes from `position` on to a file, pipe, socket or other fd.

        To a file they go at its file position, or its end where it appends. Past the end there is
        nothing to send: 0. Of a file that grows meanwhile, what was there at the start is sent. A
        Python file is flushed first. Call it again with what is left where fewer were sent.

        To sockets and pipes the pages of the file go by reference: what is written to that part of
        the file before the reader has taken it may show through, see sendfile(2), NOTES.

        Returns: how many bytes, with `path`: which way they went. Fewer than asked for where the
                 file ends or is cut, where a target that does not block takes no more (a socket
                 with a timeout does not), and where an error came after a part.
        Raises: BlockingIOError  a target that does not block takes nothing now.
                OSError          EPIPE, ENOSPC, EBADF and so on; nothing was sent.
                ValueError       the target is in the same file, and the ranges overlap; or it is a
                                 socket that keeps message boundaries.
                TypeError        a TLS socket.
                SourceTruncated  the file was cut against a lease; the target has NUL bytes.
        Source: copy_file_range(2), sendfile(2), splice(2).
        """
        self._checked(position, count)
        flush = getattr(target, "flush", None)
        if flush is not None:
            flush()  # what was written before comes before
        return move(Place(self, position), Place(target, None), count)

    def transfer_from(
        self, source: int | HasFileno, position: int | None, count: int
    ) -> Transferred:
        """Write up to `count` bytes of a file, pipe, socket or other fd from `position` on.

        A file is read from its file position on, which moves by what was written; a stream until
        there are `count` bytes, or its end. What Python has read ahead of a buffered file is not
        seen: open it with `buffering=0`. Past the end of this file a gap is left, as by `write`. A
        channel that appends takes None for a position, no other does.

        Returns: how many bytes, with `path`: which way they went. Fewer than asked for where the
                 source ends, where one that does not block has no more now, and where an error
                 came after a part.
        Raises: BlockingIOError  a source that does not block has nothing now.
                OSError          EBADF, EIO, ENOSPC, ECONNRESET and so on; nothing was written.
                TransferError    what was taken from a stream could not be written, and is lost.
                ValueError       both are in one file, and the ranges overlap; or the source is a
                                 socket that keeps message boundaries.
                TypeError        a TLS socket.
        Source: copy_file_range(2), splice(2).
        """
        if self._append != (position is None):
            act = (
                "it appends: the position must be None" if self._append else "a position is needed"
            )
            raise ValueError(f"{self.name}: transfer from: {act}")
        self._checked(position, count)
        src = Place(source, None)
        if not src.on_disk:
            return move(src, Place(self, position), count)
        src.offset = os.lseek(src.fd, 0, os.SEEK_CUR)
        try:
            return move(src, Place(self, position), count)
        finally:
            os.lseek(src.fd, src.offset, os.SEEK_SET)

    def map(
        self, mode: MapMode = MapMode.READ_ONLY, position: int = 0, size: int | None = None
    ) -> MappedBuffer:
        """Map a part of the file into memory, from any position; a size of None: to the end.

        READ_WRITE needs a channel open for both, and makes the file longer where it ends before
        the mapping; the others refuse that. PRIVATE needs no right to write.

        Raises: ValueError  the file ends before, and may not be made longer.
                OSError     EACCES: not open for it; ENODEV: cannot be mapped; ENOMEM.
        Source: mmap(2).
        """
        fd = self._checked(position, size)
        end = self.size()
        if size is None:
            size = max(0, end - position)
        if position + size > end and self._regular:
            if mode is not MapMode.READ_WRITE:
                raise ValueError(
                    f"{self.name}: map {size} bytes from {position}: the file has {end}"
                )
            os.ftruncate(fd, position + size)
        return MappedBuffer(fd, self.name, mode, position, size)

    def fileno(self) -> int:
        """Return the fd, which stays the channel's."""
        if self._fd < 0:
            raise ValueError(f"{self.name}: the channel is closed")
        return self._fd

    @property
    def closed(self) -> bool:
        return self._fd < 0

    def close(self) -> None:
        """Give up all locks and close the file; may be called twice.

        Raises: OSError  EIO, ENOSPC, EDQUOT: an earlier write failed, see close(2); it is closed.
        """
        if self._fd < 0:
            return
        # a mapping or a child may have the file open still, and the locks with it
        self._locks.drop_all()
        fd, self._fd = self._fd, -1
        if self._owned:
            os.close(fd)

    def __enter__(self) -> Self:
        self.fileno()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        if getattr(self, "_fd", -1) >= 0 and self._owned:
            warnings.warn(f"unclosed {self!r}", ResourceWarning, source=self, stacklevel=2)
            self.close()

    def __repr__(self) -> str:
        return f"<FileChannel {self.name}{': closed' if self._fd < 0 else ''}>"

    def _checked(self, *amounts: int | None) -> int:
        """Return the fd. Raises: ValueError  closed, or one of these is negative."""
        for amount in amounts:
            if amount is not None and amount < 0:
                raise ValueError(f"{self.name}: {amount} is negative")
        return self.fileno()
