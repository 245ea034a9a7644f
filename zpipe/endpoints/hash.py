"""A digest of what arrives: a thread on our side of a pipe reads and hashes.

Bytes are copied once into user memory for it; hashing inside the kernel (AF_ALG) is not used: it
took part in a page-cache write of 2026 (CVE-2026-31431), and is on its way out.
"""

from __future__ import annotations

import hashlib
import os
import threading

from zpipe.endpoints import kind_of
from zpipe.endpoints.contract import End, EndpointKind, Opening, refuse_offset
from zpipe.endpoints.gather import gather
from zpipe.errors import TransferError, UsageError, open_failed
from zpipe.facts import FdFacts
from zpipe.graph.model import Endpoint
from zpipe.kernel import pipes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from zpipe.endpoints.contract import Waiter

BUFFER = 256 * 1024


class HashEnd(End):
    """The writing end of a pipe that a thread empties and hashes."""

    def __init__(self, endpoint: Endpoint):
        self._algorithm = endpoint.address
        self._digest = hashlib.new(endpoint.address)
        self._target = endpoint.options.get("file")
        self._label = endpoint.options.get("name", "-")
        pipe = pipes.Pipe()
        os.set_blocking(pipe.reader, True)
        super().__init__(pipe.writer, endpoint.text, gather(pipe.writer))
        self.provisional = True  # of half the bytes it would be a lie
        self._thread = threading.Thread(target=self._read, args=(pipe.reader,), daemon=True)
        try:
            self._thread.start()
        except RuntimeError as error:
            os.close(pipe.reader)
            os.close(pipe.writer)
            raise TransferError(f"{endpoint.text}: start a thread: {error}") from error

    def finish(self, waiter: Waiter, *, complete: bool = True) -> None:
        self.close()
        line = _line(self._digest.hexdigest(), self._label)
        self.notes.append(f"{self._algorithm} {self._digest.hexdigest()}")
        if self._target is None:
            waiter.answer(line)
            return
        place = Endpoint(self._target, "file", self._target)
        with kind_of("file").open_sink(place, Opening(waiter)) as target:
            target.prepare()
            rest = memoryview(os.fsencode(line + "\n"))
            try:
                while rest:
                    rest = rest[os.write(target.fd, rest) :]
            except OSError as error:
                raise open_failed(self._target, "write", error) from error
            target.finish(waiter)

    def close(self) -> None:
        super().close()
        if self._thread.is_alive():
            self._thread.join()

    def _read(self, reader: int) -> None:
        buffer = bytearray(BUFFER)
        view = memoryview(buffer)
        while got := os.readv(reader, [buffer]):
            self._digest.update(view[:got])
        os.close(reader)


def _line(digest: str, name: str) -> str:
    """Return the line that sha256sum writes: a name that would break it is escaped."""
    plain = name
    for character, escape in (("\\", "\\\\"), ("\n", "\\n"), ("\r", "\\r")):
        name = name.replace(character, escape)
    return f"{'' if name == plain else chr(92)}{digest}  {name}"


class Hash(EndpointKind):
    """`hash:ALGORITHM`."""

    name = "hash"
    form = "hash:ALGORITHM"
    summary = "The digest of what arrives, in the format of sha256sum, on standard error."
    options = {
        "file": "write the digest there instead",
        "name": "the name beside the digest; - unless given",
    }
    source = False

    def check(self, endpoint: Endpoint, *, sink: bool) -> None:
        # those with a length of their own choosing would need one
        known = sorted(each for each in hashlib.algorithms_guaranteed if "shake" not in each)
        if endpoint.address not in known:
            from zpipe.spelling import known_are

            name = endpoint.address
            raise UsageError(
                f"{endpoint.text}: unknown algorithm {name or '(empty)'}: {known_are(name, known)}"
            )

    def open_source(self, endpoint: Endpoint, opening: Opening) -> End:
        raise UsageError(f"{endpoint.text}: cannot be a source")

    def open_sink(self, endpoint: Endpoint, opening: Opening) -> End:
        refuse_offset(endpoint, opening)
        return HashEnd(endpoint)

    def preview(self, endpoint: Endpoint, *, sink: bool) -> FdFacts:
        return FdFacts("pipe", nonblocking=True)


KIND: EndpointKind = Hash()
