"""The copying of a tree as JSON Lines: every line parses, and what it counts is integers."""

from __future__ import annotations

import hashlib
import json
import os
import signal
from typing import TYPE_CHECKING, Any

import pytest

from tests.commands.shell import refused
from tests.machine import content, started, until, zpipe

if TYPE_CHECKING:
    from pathlib import Path

TYPES = {"start", "said", "progress", "file", "failed", "error", "end"}
COUNTS = ("bytes", "bytes_found", "files", "files_found", "kept", "directories", "failed")
ODD = b"od\xff\n\xc3\xbc"


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A tree `s` of six files in three directories, one of them with a name that is no text."""
    for name in ("a", "b"):
        (tmp_path / "s" / name).mkdir(parents=True)
        for number in range(2):
            (tmp_path / "s" / name / f"{number}").write_bytes(content(25_000, seed=number))
    (tmp_path / "s" / "empty").touch()
    (tmp_path / "s" / os.fsdecode(ODD)).write_bytes(b"odd")
    return tmp_path


def records(text: bytes) -> list[dict[str, Any]]:
    """Parse all lines; each of them is an object with version and type."""
    found = [json.loads(line) for line in text.splitlines()]
    assert text.endswith(b"\n")
    for record in found:
        assert record["v"] == 1
        assert record["type"] in TYPES
        for name in COUNTS:
            assert type(record.get(name, 0)) is int, record
    return found


def of_type(kind: str, found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [record for record in found if record["type"] == kind]


def test_a_tree_is_a_start_and_an_end(tree: Path) -> None:
    done = zpipe("cp", "-r", "--json", "s", "d", cwd=tree)
    assert (done.returncode, done.stdout) == (0, b"")
    start, end = records(done.stderr)
    assert (start["type"], start["sources"]) == ("start", ["s"])
    assert end["type"] == "end"
    assert (end["files"], end["directories"], end["kept"], end["failed"]) == (6, 3, 0, 0)
    assert end["files_found"] == 6
    assert end["bytes"] == end["bytes_found"] == sum(end["bytes_by_mover"].values()) == 100_003
    assert end["walked"] is True
    assert end["seconds"] > 0
    assert all(type(count) is int for count in end["bytes_by_mover"].values())
    for fallback in end["fallbacks"]:
        assert set(fallback) == {"mover", "call", "errno", "times"}
        assert type(fallback["errno"]) is type(fallback["times"]) is int


@pytest.mark.parametrize("jobs", ["1", "2"])
def test_a_record_for_each_file_on_request(tree: Path, jobs: str) -> None:
    for number in range(100):
        (tree / "s" / f"more{number}").write_bytes(b"x" * number)
    done = zpipe("cp", "-r", "-j", jobs, "--json", "--json-files", "s", "d", cwd=tree)
    found = records(done.stderr)
    files = [record for record in of_type("file", found) if record["act"] == "copied"]
    wanted = {
        os.path.relpath(os.path.join(at, name), tree): os.path.getsize(os.path.join(at, name))
        for at, _, names in os.walk(tree / "s")
        for name in names
    }
    assert {record["source"]: record["bytes"] for record in files} == wanted
    for record in files:
        assert record["path"] == "d" + record["source"][1:]
        assert record["sha256"] is None
    assert sum(record["bytes"] for record in files) == found[-1]["bytes"]
    assert len(files) == found[-1]["files"] == len(wanted)


def test_names_come_back_as_the_bytes_that_they_are(tree: Path) -> None:
    """JSON has no bytes: what is no UTF-8 is escaped as Python's own programs read it."""
    done = zpipe("cp", "-r", "--json", "--json-files", "s", "d", cwd=tree)
    names = [os.fsencode(record["path"]) for record in of_type("file", records(done.stderr))]
    assert b"d/" + ODD in names
    assert done.stderr.isascii()


def test_what_was_made_linked_or_kept_is_told(tree: Path) -> None:
    os.link(tree / "s/a/0", tree / "s/a/twin")
    (tree / "s/link").symlink_to("a/0")
    (tree / "d/b").mkdir(parents=True)
    (tree / "d/b/0").write_bytes(b"old")
    done = zpipe("cp", "-anT", "--json", "--json-files", "s", "d", cwd=tree)
    found = records(done.stderr)
    acts = {record["path"]: record["act"] for record in of_type("file", found)}
    assert sorted((acts["d/a/0"], acts["d/a/twin"])) == ["copied", "linked"]
    assert acts["d/link"] == "made"
    assert acts["d/b/0"] == "kept"
    assert found[-1]["kept"] == 1


def test_digests_are_told_where_they_were_asked_for(tree: Path) -> None:
    words = ["--json", "--json-files", "--checksum-file", "sums", "s", "d"]
    found = records(zpipe("cp", "-r", *words, cwd=tree).stderr)
    files = [record for record in of_type("file", found) if record["act"] == "copied"]
    assert len(files) == 6
    for record in files:
        data = (tree / record["source"]).read_bytes()
        assert record["sha256"] == hashlib.sha256(data).hexdigest()


def test_a_lost_file_is_a_record_and_the_error_the_last(tree: Path) -> None:
    (tree / "s/a/dangling").symlink_to("nowhere")
    done = zpipe("cp", "-rL", "--json", "s", "d", cwd=tree)
    found = records(done.stderr)
    assert [record["type"] for record in found] == ["start", "failed", "end", "error"]
    failed, end, error = found[1:]
    assert (failed["path"], failed["kind"]) == ("s/a/dangling", "failed")
    assert failed["text"].startswith("s/a/dangling: ")
    assert (end["failed"], end["files"]) == (1, 6)
    assert done.returncode == error["exit"] == 1
    assert "s/a/dangling" in error["text"] and error["signal"] is None


@pytest.mark.parametrize(
    ("words", "status"),
    [(["nosuch", "d"], 1), (["s", "s/below"], 1), (["s", "nosuch/d/"], 1)],
)
def test_the_error_is_the_last_record_whatever_it_is(
    tree: Path, words: list[str], status: int
) -> None:
    done = zpipe("cp", "-r", "--json", *words, cwd=tree)
    last = records(done.stderr)[-1]
    assert (done.returncode, last["type"], last["exit"]) == (status, "error", status)
    assert "\n" not in last["text"]


def test_an_unknown_executor_is_an_error_record(tree: Path) -> None:
    done = zpipe("cp", "-r", "--json", "--executor", "nosuch", "s", "d", cwd=tree)
    last = records(done.stderr)[-1]
    assert (done.returncode, last["type"], last["exit"]) == (2, "error", 2)


def test_progress_comes_while_it_lasts_and_a_signal_is_told(tree: Path) -> None:
    """A record each second; at this rate the whole would take ten of them."""
    words = ["-r", "--json", "--rate-limit", "10000", "s", "d"]
    with started("cp", *words, cwd=tree) as process:
        assert process.stderr is not None
        begin = process.stderr.readline()
        line = process.stderr.readline()
        process.send_signal(signal.SIGTERM)
        _, rest = process.communicate(timeout=30)
    _, progress, *found = records(begin + line + rest)
    assert progress["type"] == "progress"
    assert 0 < progress["bytes"] < 100_003
    assert progress["path"] in ("s", "s/a", "s/b")
    assert progress["seconds"] >= 1
    assert [record["type"] for record in found[-2:]] == ["end", "error"]
    assert found[-1]["signal"] == signal.SIGTERM
    assert process.returncode == -signal.SIGTERM


def test_sigusr1_is_a_record(tree: Path) -> None:
    words = ["-r", "--json", "--rate-limit", "10000", "s", "d"]
    with started("cp", *words, cwd=tree) as process:
        assert process.stderr is not None
        process.stderr.readline()  # with the start the signals are listened to
        until(lambda: list(tree.glob("d/**/.*.zpipe-*")), "the first file is under way")
        process.send_signal(signal.SIGUSR1)
        record = json.loads(process.stderr.readline())
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=30)
    assert record["type"] == "progress"
    assert record["walked"] is False


def test_an_fd_of_its_own_leaves_standard_error_to_people(tree: Path) -> None:
    (tree / "s/a/dangling").symlink_to("nowhere")
    reader, writer = os.pipe()
    words = ["-rL", "--json-fd", str(writer), "--explain", "s", "d"]
    try:
        done = zpipe("cp", *words, cwd=tree, pass_fds=[writer])
    finally:
        os.close(writer)
    with open(reader, "rb") as pipe:
        found = records(pipe.read())
    assert [record["type"] for record in found] == ["start", "failed", "end", "error"]
    said = done.stderr.decode()
    assert said.startswith("zpipe: s/a/dangling: ")
    assert "  outcome   6 files" in said
    assert said.splitlines()[-1].startswith("zpipe: 1 file was not copied")


def test_an_fd_that_is_not_open(tree: Path) -> None:
    done = zpipe("cp", "-r", "--json-fd", "77", "s", "d", cwd=tree)
    refused(done, 2, "--json-fd 77: ")
    assert os.listdir(tree) == ["s"]
