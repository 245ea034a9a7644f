"""Which source goes to which target."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.machine import as_stranger
from zpipe.errors import TransferError, UsageError
from zpipe.tree.naming import Pair, is_inside, pairs


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A directory with a file, a directory, a link to it, and one that leads nowhere."""
    monkeypatch.chdir(tmp_path)
    Path("dir").mkdir()
    Path("file").touch()
    Path("link").symlink_to("dir")
    Path("dangling").symlink_to("nowhere")


@pytest.mark.parametrize(
    ("sources", "target", "into", "expected"),
    [
        (["a"], "new", None, [("a", "new")]),
        (["a"], "file", None, [("a", "file")]),
        (["a"], "dangling", None, [("a", "dangling")]),
        (["a"], "file/below", None, [("a", "file/below")]),
        (["a"], "dir", None, [("a", "dir/a")]),
        (["a"], "dir/", None, [("a", "dir/a")]),
        (["a"], "link", None, [("a", "link/a")]),
        (["a"], "dir", True, [("a", "dir/a")]),
        (["a"], "dir", False, [("a", "dir")]),
        (["a"], "new", False, [("a", "new")]),
        (["a", "x/b", "c/"], "dir", None, [("a", "dir/a"), ("x/b", "dir/b"), ("c/", "dir/c")]),
        (["/x/a//"], "dir", None, [("/x/a//", "dir/a")]),
        (
            ["-a", "\n", "\udcff"],
            "dir",
            None,
            [("-a", "dir/-a"), ("\n", "dir/\n"), ("\udcff", "dir/\udcff")],
        ),
    ],
)
def test_a_source_keeps_its_name_in_a_directory(
    sources: list[str], target: str, into: bool | None, expected: list[tuple[str, str]]
) -> None:
    assert pairs(sources, target, into=into, parents=False) == [Pair(*each) for each in expected]


@pytest.mark.parametrize("source", [".", "x/.", "x/./", "..", "../..", "/"])
def test_what_is_in_a_directory_without_a_name_goes_into_the_target(source: str) -> None:
    (pair,) = pairs([source], "dir", into=None, parents=False)
    assert os.path.normpath(pair.target) == "dir"


@pytest.mark.parametrize(
    ("sources", "target", "into", "parents", "told"),
    [
        (["a", "b"], "new", None, False, "new: must be a directory, for several sources"),
        (["a", "b"], "file", None, False, "file: must be a directory, for several sources"),
        (["a", "b"], "dangling", None, False, "dangling: must be a directory"),
        (["a"], "new", True, False, "new: must be a directory"),
        (["a"], "file/x", True, False, "file/x: must be a directory"),
        (["a"], "new", None, True, "new: must be a directory"),
        (["a", "b"], "dir", False, False, "b: -T takes one source"),
    ],
)
def test_a_target_that_cannot_be_meant_is_refused(
    sources: list[str], target: str, into: bool | None, parents: bool, told: str
) -> None:
    with pytest.raises(UsageError) as caught:
        pairs(sources, target, into=into, parents=parents)
    assert str(caught.value).startswith(told)


@pytest.mark.parametrize("source", ["a/b/c", "/a/b/c", "a/b/c/"])
def test_parents_are_made_from_the_top(source: str) -> None:
    (pair,) = pairs([source], "dir", into=None, parents=True)
    top = "/" if source.startswith("/") else ""
    assert pair == Pair(source, "dir/a/b/c", ((f"{top}a", "dir/a"), (f"{top}a/b", "dir/a/b")))


def test_a_name_alone_has_no_parents() -> None:
    assert pairs(["a"], "dir", into=None, parents=True) == [Pair("a", "dir/a")]


def test_a_target_that_cannot_be_looked_at_is_no_matter_of_usage(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    Path("closed").mkdir(mode=0o700)

    def work() -> None:
        with pytest.raises(TransferError, match="closed/x: stat: Permission denied"):
            pairs(["a"], "closed/x", into=None, parents=False)

    as_stranger(tmp_path, work)


# a directory into itself


@pytest.mark.parametrize(
    ("target", "inside"),
    [
        ("dir", True),
        ("dir/", True),
        ("dir/new", True),
        ("dir/new/and/below", True),
        ("./dir/../dir/x", True),
        ("link", True),
        ("link/new", True),
        (".", False),
        ("dir2", False),
        ("dir/../new", False),
        ("dangling", False),
        ("file", False),
        ("/", False),
        ("", False),
    ],
)
def test_what_is_in_a_directory_is_seen_by_its_inodes(target: str, inside: bool) -> None:
    Path("dir2").mkdir()
    assert is_inside(target, os.stat("dir")) == inside


def test_inside_is_seen_through_symbolic_links() -> None:
    Path("dir/deep/deeper").mkdir(parents=True)
    Path("away").symlink_to("dir/deep/deeper")
    Path("dir/out").symlink_to("..")
    source = os.stat("dir")
    assert is_inside("away", source)
    assert is_inside("away/new/file", source)
    assert is_inside("away/../x", source)
    assert not is_inside("away/../../../x", source)
    assert not is_inside("dir/out/new", source)
    Path("to come").symlink_to("dir/new")
    assert is_inside("to come", source)
