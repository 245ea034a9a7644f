"""JSON Lines for programs: every line parses, says what it is, and counts in integers."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from tests.commands.shell import BIG, refused, shell
from tests.machine import content, started, strace, until_listening_to_signals, zpipe

if TYPE_CHECKING:
    from pathlib import Path

TYPES = {
    *("start", "said", "answer", "progress", "fallback", "failed", "dropped", "hop"),
    *("error", "end"),
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "b").write_bytes(content(BIG))
    return tmp_path


def records(text: bytes) -> list[dict[str, Any]]:
    """Parse all lines; each of them is an object with version and type."""
    found = [json.loads(line) for line in text.splitlines()]
    assert text.endswith(b"\n")
    for record in found:
        assert record["v"] == 1
        assert record["type"] in TYPES
        for name in ("bytes", "expected"):
            assert isinstance(record.get(name), int | None)
    return found


def types(found: list[dict[str, Any]]) -> list[str]:
    return [record["type"] for record in found]


def test_a_copy_is_a_start_a_hop_and_an_end(folder: Path) -> None:
    done = zpipe("cp", "--json", "b", "x", cwd=folder)
    assert (done.returncode, done.stdout) == (0, b"")
    start, hop, end = records(done.stderr)
    assert types([start, hop, end]) == ["start", "hop", "end"]
    assert (start["source"], start["sink"], start["expected"]) == ("b", "x", BIG)
    assert start["mover"] == start["candidates"][0]
    assert start["candidates"][-1] == "plain"
    assert not set(start["refused"]) & set(start["candidates"])
    assert all(isinstance(why, str) and why for why in start["refused"].values())
    assert (hop["bytes"], hop["bytes_by_mover"]) == (BIG, {hop["mover"]: BIG})
    assert all(isinstance(count, int) and count > 0 for count in hop["calls"].values())
    assert end["bytes"] == BIG
    assert end["seconds"] >= hop["seconds"] > 0


def test_records_of_hops_name_their_nodes(folder: Path) -> None:
    start, hop, end = records(zpipe("cp", "--json", "b", "x", cwd=folder).stderr)
    for record in (start, hop):
        assert (record["from"], record["to"]) == ("source", ["sink"])
    assert hop["state"] == "done"
    assert end["processes"] == []


def test_the_last_state_of_what_did_not_reach_its_end(folder: Path) -> None:
    *_, last, error = records(zpipe("cp", "--json", "b", "/dev/full", cwd=folder).stderr)
    assert types([last, error]) == ["progress", "error"]
    assert (last["bytes"], last["state"]) == (0, "failed")


def test_processes_are_told_with_how_they_ended(folder: Path) -> None:
    end = records(zpipe("cp", "--json", "exec:cat b", "y", cwd=folder).stderr)[-1]
    (process,) = end["processes"]
    assert (process["name"], process["node"], process["status"]) == ("exec:cat b", "source", 0)


def test_the_caveat_of_references_is_told(folder: Path) -> None:
    start = records(zpipe("cp", "--json", "b", "-", cwd=folder).stderr)[0]
    assert "by reference" in start["caveat"]
    start = records(zpipe("cp", "--json", "--stable", "b", "-", cwd=folder).stderr)[0]
    assert start["caveat"] is None


def test_a_chosen_port_is_told_as_a_record() -> None:
    words = ["--json", "--stall-timeout", "50ms", "tcp-listen://127.0.0.1:0", "null:"]
    said, error = records(zpipe("cp", *words).stderr)
    assert (said["type"], error["type"], error["exit"]) == ("said", "error", 4)
    assert int(said["text"].rpartition(":")[2]) > 0


def test_progress_comes_while_it_lasts(folder: Path) -> None:
    """Once a second; the rate is such that one second passes for sure."""
    words = ["--json", "--rate-limit", "80000", "b", "x"]
    found = records(zpipe("cp", *words, cwd=folder).stderr)
    shown = [record for record in found if record["type"] == "progress"]
    assert shown
    for record in shown:
        assert 0 < record["bytes"] <= BIG
        assert record["seconds"] >= 1


@pytest.mark.parametrize(
    ("words", "status"),
    [
        (["nosuch", "x"], 1),
        (["b", "b"], 2),
        (["b", "ftp://x"], 2),
        (["pattern:x?size=10", "pattern:y"], 3),
        (["--stall-timeout", "50ms", "exec:sleep 60", "x"], 4),
    ],
)
def test_the_error_is_the_last_record_and_stands_for_the_message(
    folder: Path, words: list[str], status: int
) -> None:
    done = zpipe("cp", "--json", *words, cwd=folder)
    last = records(done.stderr)[-1]
    assert done.returncode == last["exit"] == status
    assert last["type"] == "error"
    assert "\n" not in last["text"]
    assert last["signal"] is None
    plain = zpipe("cp", *words, cwd=folder)
    assert plain.stderr.decode() == f"zpipe: {last['text']}\n"


def test_an_error_tells_errno_and_bytes(folder: Path) -> None:
    last = records(zpipe("cp", "--json", "b", "/dev/full", cwd=folder).stderr)[-1]
    assert (last["type"], last["errno"], last["bytes"]) == ("error", 28, 0)


def test_a_signal_is_told_too(folder: Path) -> None:
    os.mkfifo(folder / "fifo")
    with started("cp", "--json", "fifo", "x", cwd=folder) as process:
        until_listening_to_signals(process)
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=30)
        assert process.returncode == -signal.SIGTERM
    (last,) = records(said)
    assert (last["type"], last["signal"], last["exit"]) == ("error", 15, 143)


def test_a_fallback_is_told_with_its_errno(folder: Path) -> None:
    words = strace("-o", "/dev/null", "-e", "trace=sendfile", "-e", "inject=sendfile:error=EINVAL")
    options = ["--json", "--no-via", "copy_range", "b", "x"]
    done = zpipe("cp", *options, cwd=folder, before=words)
    found = records(done.stderr)
    assert types(found) == ["start", "fallback", "hop", "end"]
    fallback, hop = found[1], found[2]
    assert fallback["mover"] == fallback["call"] == "sendfile"
    assert fallback["errno"] == 22
    assert "EINVAL" in fallback["reason"]
    assert (hop["mover"], hop["bytes"]) == ("splice", BIG)
    assert (folder / "x").read_bytes() == content(BIG)


def test_an_fd_of_its_own_leaves_stderr_to_people(folder: Path) -> None:
    reader, writer = os.pipe()
    words = ["--json-fd", str(writer), "--explain", "b", "-"]
    done = zpipe("cp", *words, cwd=folder, pass_fds=[writer])
    os.close(writer)
    with open(reader, "rb") as pipe:
        assert types(records(pipe.read())) == ["start", "hop", "end"]
    assert (done.returncode, done.stdout) == (0, content(BIG))
    assert b"outcome" in done.stderr


def test_an_error_goes_to_both(folder: Path) -> None:
    reader, writer = os.pipe()
    done = zpipe("cp", "--json-fd", str(writer), "nosuch", "x", cwd=folder, pass_fds=[writer])
    os.close(writer)
    text = refused(done, 1, "nosuch: open")
    with open(reader, "rb") as pipe:
        (record,) = records(pipe.read())
    assert record["text"] == text


def test_a_reader_that_has_gone_does_not_stop_the_copy(folder: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = zpipe("cp", "--json-fd", str(writer), "b", "x", cwd=folder, pass_fds=[writer])
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, b"")
    assert (folder / "x").read_bytes() == content(BIG)


def test_a_reader_that_goes_in_the_middle(folder: Path) -> None:
    reader, writer = os.pipe()
    os.mkfifo(folder / "fifo")
    words = ["cp", "--json-fd", str(writer), "fifo", "x"]
    with started(*words, cwd=folder, pass_fds=[writer]) as process:
        os.close(writer)
        with open(folder / "fifo", "wb", buffering=0) as fifo:
            fifo.write(content(1000)[:10])
            with open(reader, "rb", buffering=0) as pipe:
                assert pipe.read(10)  # the start record is there: it has begun
            fifo.write(content(1000)[10:])
        _, said = process.communicate(timeout=30)
        assert (process.returncode, said) == (0, b"")
    assert (folder / "x").read_bytes() == content(1000)


def test_an_fd_that_cannot_be_written_to_is_refused_before_anything_is_done(folder: Path) -> None:
    with open(folder / "b", "rb") as file:
        words = ["--json-fd", str(file.fileno()), "b", "x"]
        done = zpipe("cp", *words, cwd=folder, pass_fds=[file.fileno()])
    refused(done, 2, f"--json-fd {words[1]}: write: Bad file descriptor")
    assert not (folder / "x").exists()


def test_names_of_any_bytes_can_be_told(tmp_path: Path) -> None:
    name = os.fsdecode(b'a"\xff\n\\\xc3\xbc')
    (tmp_path / name).write_bytes(b"x")
    done = zpipe("cp", "--json", name, "x", cwd=tmp_path)
    assert records(done.stderr)[0]["source"] == name


def test_what_a_jq_user_would_do(folder: Path) -> None:
    """Standard output is data, and the records are a stream of their own beside it."""
    script = '"$@" 2>records | cksum >sum'
    done = subprocess.run(["cksum", folder / "b"], capture_output=True, check=True)
    assert zpipe("cp", "--json", "b", "-", cwd=folder, before=shell(script)).returncode == 0
    assert (folder / "sum").read_text().split()[:2] == done.stdout.decode().split()[:2]
    assert records((folder / "records").read_bytes())[-1]["bytes"] == BIG


# Several outputs, several sources


def told(*arguments: str | Path, status: int, cwd: Path, data: bytes = b"") -> list[dict[str, Any]]:
    """Run zpipe with records on stderr, and return them."""
    done = zpipe(*arguments, cwd=cwd, data=data)
    assert done.returncode == status, done.stderr
    return records(done.stderr)


def test_every_output_is_told_of(folder: Path) -> None:
    start, hop, end = told("cp", "--json", "b", "--to", "x", "--to", "y", status=0, cwd=folder)
    assert types([start, hop, end]) == ["start", "hop", "end"]
    assert start["sink"] == "x, y"
    assert hop["outputs"] == end["outputs"]
    assert [output["sink"] for output in end["outputs"]] == ["x", "y"]
    for output in end["outputs"]:
        assert (output["state"], output["error"]) == ("done", None)
        assert (output["bytes"], output["lag"], output["spilled"]) == (BIG, 0, 0)
        assert (output["most_spilled"], output["when_full"]) == (0, "block")
        assert output["mover"] == hop["mover"]
        assert output["seconds_blocked"] >= 0


def test_of_a_single_output_the_end_tells_too(folder: Path) -> None:
    *_, hop, end = told("cp", "--json", "b", "x", status=0, cwd=folder)
    assert "outputs" not in hop, "it is the hop itself"
    (output,) = end["outputs"]
    assert (output["sink"], output["state"], output["bytes"]) == ("x", "done", BIG)


def test_an_output_that_is_dropped_is_told_at_once_and_at_the_end(folder: Path) -> None:
    found = told(
        *("cp", "--json", "b", "--to", "x", "--to", "none/y", "--to", "/dev/full"),
        status=5,
        cwd=folder,
    )
    dropped = [record for record in found if record["type"] == "dropped"]
    assert [(record["sink"], record["state"]) for record in dropped] == [
        ("none/y", "failed"),
        ("/dev/full", "failed"),
    ]
    assert "No such file" in dropped[0]["error"]
    assert "No space left" in dropped[1]["error"]
    last = found[-1]
    assert (last["type"], last["exit"]) == ("error", 5)
    assert last["text"] == f"{dropped[0]['error']}\n{dropped[1]['error']}"
    assert [output["state"] for output in last["outputs"]] == ["done", "failed", "failed"]
    assert [output["bytes"] for output in last["outputs"]] == [BIG, 0, 0]


def test_a_source_that_is_passed_over_is_told(folder: Path) -> None:
    done = zpipe("cat", "--json", "none", "b", "none2", cwd=folder)
    assert (done.returncode, done.stdout) == (1, content(BIG))
    found = records(done.stderr)
    failed = [record["text"] for record in found if record["type"] == "failed"]
    assert failed == [f"{name}: open: No such file or directory" for name in ("none", "none2")]
    assert found[-1]["type"] == "error"
    assert (found[-1]["exit"], found[-1]["bytes"]) == (1, BIG)
    assert found[-1]["text"].splitlines() == failed


def test_an_answer_is_a_record_of_its_own(folder: Path) -> None:
    digest = hashlib.sha256(content(BIG)).hexdigest()
    done = zpipe("cat", "--json", "--hash", "sha256", "b", cwd=folder)
    assert done.returncode == 0
    (answer,) = [record for record in records(done.stderr) if record["type"] == "answer"]
    assert answer == {"v": 1, "type": "answer", "text": f"{digest}  b"}
