"""Nothing and zeros."""

from __future__ import annotations

import os

import pytest

from tests.endpoints.meeting import Meeting, read_all, sink, source, write_all
from zpipe.endpoints import parse
from zpipe.errors import UsageError


def test_null_ends_at_once_and_takes_everything() -> None:
    with source("null:") as end:
        assert end.facts.device == (1, 3)
        assert read_all(end) == b""
        end.finish(Meeting())
    with sink("null:") as end:
        write_all(end, bytes(1 << 20))
        end.finish(Meeting())


@pytest.mark.parametrize(
    ("text", "offset", "limit"),
    [
        ("zero:", 0, None),
        ("zero:", 5, None),
        ("zero:?size=100K", 0, 102_400),
        ("zero:?size=100K", 1024, 101_376),
        ("zero:?size=1K", 1024, 0),
        ("zero:?size=1K", 5000, 0),
        ("zero:?size=0", 0, 0),
    ],
)
def test_zero_has_as_many_bytes_as_were_asked_for(
    text: str, offset: int, limit: int | None
) -> None:
    with source(text, offset=offset) as end:
        assert end.limit == limit
        assert end.facts.device == (1, 5)
        if limit is None:
            assert os.read(end.fd, 1000) == bytes(1000)
        else:
            assert read_all(end) == bytes(limit)


def test_zero_is_no_sink() -> None:
    with pytest.raises(UsageError, match="zero:: cannot be a sink"):
        sink("zero:")
    endpoint = parse("zero:", sink=False)
    from zpipe.endpoints import kind_of
    from zpipe.endpoints.contract import Opening

    with pytest.raises(UsageError, match="zero:: cannot be a sink"):
        kind_of("zero").open_sink(endpoint, Opening(Meeting()))
