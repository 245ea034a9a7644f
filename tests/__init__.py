"""Tests of zpipe: real files, pipes, sockets and processes; `tests/` mirrors `zpipe/`."""
