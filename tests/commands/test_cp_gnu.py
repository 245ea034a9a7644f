"""`zpipe cp` beside GNU `cp`: the same words on the same files, and the same tree comes of it."""

from __future__ import annotations

import os
import socket
import stat
import struct
import subprocess
import zlib
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.commands.shell import went_well
from tests.machine import environment, leftovers, missing, mounted, need, need_root, nobody, zpipe

SECOND = 1_000_000_000
OLD = 1_000_000_000 * SECOND  # what stands in fixtures; everything later was made by a copy
LATER = OLD + 400_000_000 * SECOND

Tree = dict[bytes, dict[str, object]]

# Two runs, and what has come of them


class Run(NamedTuple):
    """A finished run: exit status, lines on standard output, and all that is in its folder."""

    status: int
    lines: list[bytes]
    errors: bytes
    tree: Tree


@cache
def gnu() -> str:
    """Return the path of GNU's cp, or skip."""
    program = need("cp")
    told = subprocess.run([program, "--version"], capture_output=True, check=False).stdout
    return program if b"GNU coreutils" in told else missing("cp is not that of GNU")


def tree_of(folder: Path, *, atime: bool = False) -> Tree:
    """Return all that can be told of everything in a folder, by path.

    Times are told where they come from a fixture: what a copy has made without keeping them is
    "new". Names of one file are told as a group, and symbolic links as if both folders were one.
    """
    top = os.fsencode(folder)
    found: Tree = {}
    names: dict[tuple[int, int], list[bytes]] = {}
    stack = [top]
    while stack:
        path = stack.pop()
        info = os.lstat(path)
        name = path[len(top) + 1 :].replace(top[1:], b"@")
        what: object = None
        if stat.S_ISDIR(info.st_mode):
            stack += [os.path.join(path, each) for each in os.listdir(path)]
        elif stat.S_ISLNK(info.st_mode):
            what = os.readlink(path).replace(top, b"@")
        elif stat.S_ISREG(info.st_mode):
            what = (info.st_size, stretches(path, info.st_size))
            names.setdefault((info.st_dev, info.st_ino), []).append(name)
        else:
            what = info.st_rdev
            names.setdefault((info.st_dev, info.st_ino), []).append(name)
        xattrs = {
            each: os.getxattr(path, each, follow_symlinks=False)
            for each in os.listxattr(path, follow_symlinks=False)
        }
        found[name] = {
            "mode": stat.filemode(info.st_mode),
            "owner": (info.st_uid, info.st_gid),
            "what": what,
            "xattrs": xattrs,
            "mtime": told_of(info.st_mtime_ns),
            "atime": told_of(info.st_atime_ns) if atime else None,
        }
    del found[b""]
    for group in names.values():
        for name in group:
            found[name]["names"] = sorted(group)
    return found


def told_of(time: int) -> str:
    return str(time) if time < LATER else "new"


def stretches(path: bytes, size: int) -> list[tuple[int, int, int]]:
    """Return begin, end and checksum of each stretch of data."""
    found = []
    with open(path, "rb") as file:
        place = 0
        while place < size:
            try:
                place = os.lseek(file.fileno(), place, os.SEEK_DATA)
            except OSError:
                break
            end = os.lseek(file.fileno(), place, os.SEEK_HOLE)
            data = os.pread(file.fileno(), end - place, place)
            found.append((place, end, zlib.crc32(data)))
            place = end
    return found


def made_old(folder: Path, *, again: bool = False) -> None:
    """Give all that a fixture has made a time of its own, in nanoseconds and long ago.

    `again` is for what had one, and was looked at since.
    """
    # all is found first, since to look is to read; of several names of one file the last one counts
    for above, folders, files in sorted(os.walk(os.fsencode(folder))):
        for name in sorted((*files, *folders)):
            path = os.path.join(above, name)
            info = os.lstat(path)
            if again or info.st_mtime_ns >= LATER:
                own = zlib.crc32(path[len(os.fsencode(folder)) :])
                times = (OLD + SECOND + own, OLD + own)
                os.utime(path, ns=times, follow_symlinks=False)


def made(folder: Path, script: str) -> None:
    """Make a fixture by a shell script, and a socket where it asks for one."""
    words = ["bash", "-euc", "umask 022; " + script]
    subprocess.run(words, cwd=folder, check=True, env=environment())
    if "src/socket" in script:
        with socket.socket(socket.AF_UNIX) as listener:
            here = os.open(folder, os.O_PATH)  # its path is too long for a socket
            try:
                listener.bind(f"/proc/self/fd/{here}/src/socket")
            finally:
                os.close(here)


class Pair:
    """A fixture that stands twice, in `gnu` and in `ours`."""

    def __init__(self, base: Path):
        self.base = base
        self.sides = [base / "gnu", base / "ours"]
        for side in self.sides:
            side.mkdir()
        self.before: Tree = {}

    def set_up(self, script: str = "") -> None:
        """Make the fixture by a shell script, where there is one, and everything in it old."""
        template = self.base.parent / f"template-{zlib.crc32(script.encode()):x}"
        if not template.exists():
            new = template.with_suffix(".new")
            new.mkdir()
            made(new, script)
            made_old(new)
            new.rename(template)
        copying = [subprocess.Popen([gnu(), "-a", f"{template}/.", side]) for side in self.sides]
        assert [each.wait() for each in copying] == [0, 0]
        self.before = tree_of(self.sides[1])

    def run(
        self,
        *words: str,
        ours: tuple[str, ...] | None = None,
        data: bytes | None = None,
        before: tuple[str, ...] = (),
        atime: bool = False,
    ) -> tuple[Run, Run]:
        """Run both; `@` in a word is the folder, `ours` are other words for zpipe."""
        runs = []
        for side in self.sides:
            is_gnu = side == self.sides[0]
            chosen = words if is_gnu or ours is None else ours
            own = [word.replace("@", str(side)) for word in chosen]
            if is_gnu:
                done = subprocess.run(
                    [*before, gnu(), *own],
                    cwd=side,
                    input=data or b"",
                    capture_output=True,
                    env=environment(),
                    timeout=60,
                    check=False,
                )
            else:
                done = zpipe("cp", *own, cwd=side, data=data or b"", before=before)
            # cp tells of the parents that it makes without quotes, and of `x/.` with the dot
            told = done.stdout.replace(os.fsencode(side), b"@").replace(b"/./", b"/")
            told = told.replace(b"'", b"") if "--parents" in own else told
            lines = sorted(told.splitlines())
            runs.append(Run(done.returncode, lines, done.stderr, tree_of(side, atime=atime)))
        return runs[0], runs[1]

    def alike(
        self, *words: str, status: int | None = None, any_status: bool = False, **more: Any
    ) -> tuple[Run, Run]:
        """Run both, and check that the same came of it."""
        theirs, ours = self.run(*words, **more)
        if any_status:
            theirs = theirs._replace(status=ours.status)
        assert_alike(theirs, ours, self.before)
        if status is not None:
            assert ours.status == status, ours.errors
        return theirs, ours


def assert_alike(theirs: Run, ours: Run, before: Tree) -> None:
    assert b"Traceback" not in ours.errors, ours.errors.decode()
    assert b"internal error" not in ours.errors
    told = f"\ncp said: {theirs.errors!r}\nzpipe said: {ours.errors!r}"
    different = []
    for name in sorted({*theirs.tree, *ours.tree}):
        there, here = theirs.tree.get(name, {}), ours.tree.get(name, {})
        if here.get("mtime") == "new" and there.get("mtime") == before.get(name, {}).get("mtime"):
            # cp writes into the files of a directory, zpipe replaces them: that changes its time
            there = {**there, "mtime": "new"} if str(here.get("mode")).startswith("d") else there
        for what in [field for field in (there or here) if there.get(field) != here.get(field)]:
            different.append(f"{name!r}: {what}: {there.get(what)} != {here.get(what)}")
    assert not different, "\n".join(different) + told
    assert (theirs.status == 0) == (ours.status == 0), told
    assert ours.status in (0, 1, 2), told
    assert theirs.lines == ours.lines, told
    if ours.status:
        assert ours.errors.startswith(b"zpipe: "), told


@pytest.fixture
def pair(tmp_path: Path) -> Pair:
    return Pair(tmp_path)


# Whole trees

TREE = r"""
mkdir src src/sub src/sub/deep src/empty-folder src/read-only src/sticky src/group src/closed
echo content > src/file; : > src/empty; echo run > src/run; chmod 755 src/run
echo own > src/secret; chmod 600 src/secret; echo write > src/for-all; chmod 666 src/for-all
echo as > src/as-owner; chmod 4755 src/as-owner; echo as > src/as-group; chmod 2755 src/as-group
seq 50000 > src/long
echo leaf > src/sub/deep/leaf; echo ro > src/read-only/file; echo x > src/sub/x
echo c > src/closed/file
ln src/file src/sub/second-name; ln src/file src/third-name
ln -s file src/link; ln -s nowhere src/dangling; ln -s sub src/to-folder; ln -s ../file src/sub/up
ln -s /nowhere/at/all src/absolute
truncate -s 4M src/holes; printf data | dd of=src/holes bs=1 seek=1M conv=notrunc status=none
truncate -s 3M src/only-a-hole
mkfifo src/fifo; chmod 640 src/fifo
echo n > $'src/new\nline'; echo d > src/-dash; echo b > $'src/\xff\xfe'; echo q > "src/it's"
echo l > src/$(printf 'n%.0s' {1..255}); echo s > 'src/ space '; echo t > $'src/tab\t'
chmod 555 src/read-only; chmod 1777 src/sticky; chmod 2775 src/group; chmod 700 src/closed
mkdir existing; chmod 711 existing  # and src/socket
if [ $UID = 0 ]; then
echo none > src/no-mode; chmod 0 src/no-mode
chown 1234:4321 src/file src/sub src/as-owner src/fifo; chmod 4755 src/as-owner
chown -h 1234:4321 src/link; chown :4321 src/as-group; chmod 2755 src/as-group
mknod src/null c 1 3; mknod src/disk b 7 200; chmod 604 src/null
fi
"""


@pytest.mark.parametrize(
    "words",
    [
        "-r src new", "-a src new", "-dR src new", "-rL src new",
        "-aL src new", "-rl src new", "-rLv src new", "-av src new",
        "-r src existing", "-a src existing", "-rT src existing", "-aTv src existing",
        "-rl src existing", "-r --preserve src existing", "-ru src new",
        "-r --preserve=mode src new", "-r --preserve=ownership src new",
        "-r --preserve=timestamps src new", "-r --preserve=links src new",
        "-rL --preserve=links src new", "-rp --no-preserve=timestamps src new",
        "-a --no-preserve=ownership src new", "-a --no-preserve=mode src new",
        "-r --no-preserve=mode src existing",
        "-a --no-preserve=links src new", "-a --no-preserve=all src new",
        "--no-preserve=timestamps -rp src new", "--no-preserve=mode --preserve=mode -r src new",
        "--preserve=mode --no-preserve=mode -r src new", "--archive --verbose src new",
        "-r --sparse=always src new", "-a --sparse=never src new",
        "-r --reflink=never src new", "-r src -p new --preserve=links",
    ],
)  # fmt: skip
def test_a_tree_of_everything(pair: Pair, words: str) -> None:
    pair.set_up(TREE)
    pair.alike(*words.split())
    assert not [name for side in pair.sides for name in leftovers(side)]


# Names: which operand goes where

NAMES = r"""
mkdir -p d/sub e old/d/sub old/d/other old/a old/e other same/d p/q/r ring/round ./-d linked
echo a > a; echo b > b; echo x > d/x; echo y > d/sub/y; echo leaf > p/q/r/leaf; mkfifo pipe
echo was-x > old/d/x; echo keep > old/d/keep; echo z > old/z; echo other > other/a
ln -s a link; ln -s d to-d; ln -s old to-old; ln -s nowhere dangling; ln a hard; ln -s link chain
ln -s p/q to-q; ln -s . loop; ln -s self self; ln -s .. ring/round/up; ln -s ../old/d linked/d
echo s > same/d/x; echo t > same/d/t; chmod 700 p/q; chmod 750 p; mkdir $'new\nline'
echo dash > ./-dash; echo bytes > $'\xffname'; echo long > $(printf 'n%.0s' {1..255})
"""


LONG = "n" * 255


@pytest.mark.parametrize(
    "words",
    [
        # one file
        "-p a e/", "-p a new/", "-p a nowhere/new", "-p a b", "-p b link",
        "-p b dangling", "-fp b dangling", "-p b chain", "-p a a", "-fp a hard", "-p nowhere new",
        "-p '' new", "-p a/ new", "-p d e",
        # links instead
        "-l a hard", "-lf a hard", "-l a new", "-l a b", "-lf a b", "-l link new", "-lP link new",
        "-l dangling new", "-l d new", "-lr d e", "-lr d old", "-lfr d old", "-lr a other/a e",
        "-s a b", "-s a e", "-s @/a e", "-s dangling new", "-sr d new",
        "-sr @/d new", "-srf @/d old",
        # links as they are, or what they lead to
        "-a link b", "-P link chain", "-d chain link", "-d link a", "-a b link", "-f b link",
        "-d b dangling", "-a b hard", "-p b hard", "-P link new", "-H link new",
        "-LP link new", "-r link new", "-rH link new", "-L dangling new",
        "-P dangling new", "-rL self new", "-P to-d new", "-r link/ new",
        "--remove-destination -p b hard", "--remove-destination b link",
        "--remove-destination b dangling", "--remove-destination a hard",
        # into directories
        "-p a b", "-p a b to-old", "-p -t e a b", "a b -pt e",
        "a b e -p", "--target-directory=e -p a b", "-p -t new a", "-p -T a e",
        "-p -T -t e a", "-p a b nowhere e", "-p a d e", "-p a a e", "-p a other/a e",
        "-pv a ./a e", "-r d same/d e", "-r d same/d old", "-rf a other/a e", "-a a hard e",
        # names
        "-p -- -dash e", "-p -t e -- -dash a", "-pr -- -d new", "-p \udcffname \udcfe\udcfd",
        f"-p {LONG} e", f"-p {LONG} {'é' * 127}", f"-p a {LONG}n", "-pv d/x new\nline",
        # trees
        "-r d new", "-r d e", "-r d old", "-r d/. new", "-r d/. old/d", "-rT d old/d",
        "-rT d/ new/", "-rT d a", "-r d nowhere/new", "-r d a/", "-r d dangling", "-r to-d new",
        "-r to-d/ new", "-rH to-d new", "-aH to-d e", "-rL ring new", "-rL ring/round new",
        "-rT d to-old", "-rT d/ to-old/", "-r d to-old", "-r p/q/.. e", "-rv d/. e", "-rv a d e",
        "-rvT d old/d", "-r d/x d/sub e", "-r old/z d", "-r a old", "-Rv a link d e",
        "-r pipe new", "-a pipe new", "-r pipe a", "-rdL to-d new",
        "-rHP to-d new", "-r d linked",
        # parents
        "--parents p/q/r/leaf e", "--parents -p p/q/r/leaf e", "--parents -a p/q/r p/q/r/leaf e",
        "--parents -rp p/q/ e", "--parents a new", "--parents p/q/r/leaf new/",
        "--parents @/p/q/r/leaf e", "--parents p//q/./r/leaf e", "--parents p/../p/q/r/leaf e",
        "--parents -a to-q/r/leaf e", "--parents -rv p/q e", "--parents -t e p/q/r/leaf d/x",
        "--parents nowhere/x a e", "--parents -l p/q/r/leaf e", "--parents -T a e",
        "--parents d/x old", "--parents p/q/r e",
    ],
)  # fmt: skip
def test_each_operand_goes_where_cp_puts_it(pair: Pair, words: str) -> None:
    pair.set_up(NAMES)
    pair.alike(*(word.strip("'") for word in words.split(" ")))


# What stands in the target already

KINDS = r"""
mkdir -p src d/src out
one() {
  case $1 in
    file) echo "$2 $3" > $2 ;;
    link) echo "out $3" > $OLDPWD/out/$3; ln -s ${4}out/$3 $2 ;;
    dangling) ln -s ${4}out/nowhere-$3 $2 ;;
    folder) mkdir $2; echo inner > $2/inner-$3 ;;
    hard) echo "hard $3" > $OLDPWD/out/hard-$3; ln $OLDPWD/out/hard-$3 $2 ;;
    to-folder) mkdir $OLDPWD/out/folder-$3; ln -s ${4}out/folder-$3 $2 ;;
    fifo) mkfifo $2 ;;
  esac
}
for s in file link dangling folder hard fifo; do
  for t in file link dangling folder hard to-folder; do
    cd src; one $s $s-$t s-$s-$t ../; cd ..
    cd d/src; OLDPWD=${OLDPWD%/d}; one $t $s-$t t-$s-$t ../../; cd ../..
  done
done
"""


@pytest.mark.parametrize(
    "options",
    [
        "-r", "-a", "-rp", "-af", "-rL", "-aL", "-rdf", "-rl", "-rlf", "-alf",
        "-ru", "-au", "-r --preserve=links", "-r --no-preserve=mode",
    ],
)  # fmt: skip
def test_anything_over_anything(pair: Pair, options: str) -> None:
    # a FIFO over a file by -L is refused by GNU's cp alone
    pair.set_up(KINDS.replace("hard fifo;", "hard;") if "L" in options else KINDS)
    pair.alike(*options.split(), "src", "d")


@pytest.mark.parametrize("options", ["-rn", "-anf", "-rnL"])
def test_nothing_over_anything(pair: Pair, options: str) -> None:
    """Later versions of GNU's cp fail where -n has left something."""
    pair.set_up(KINDS)
    pair.alike(*options.split(), "src", "d", any_status=True)


AGES = """
mkdir d src
for name in older newer same later earlier absent; do echo "source $name" > src/$name; done
for name in older newer same later earlier; do echo "target $name" > d/$name; done
touch -d @1000000100.5 src/older src/newer src/same src/later src/earlier src/absent
touch -d @1000000000.5 d/older; touch -d @1000000200.5 d/newer; touch -d @1000000100.5 d/same
touch -d @1000000100.500000001 d/later; touch -d @1000000100.499999999 d/earlier
ln -s older src/link; ln -s newer d/link
"""
SOURCES = [f"src/{name}" for name in ("older", "newer", "same", "later", "earlier", "absent")]


@pytest.mark.parametrize(
    ("ours", "theirs", "answers"),
    [
        ("-u", "-u", ""),
        ("--update", "-u", ""),
        ("--update=older", "-u", ""),
        ("--update=all", "-f", ""),
        ("--update=none", "-n", ""),
        ("-pu", "-pu", ""),
        ("-uv", "-uv", ""),
        ("-un", "-un", ""),
        ("-nu", "-nu", ""),
        ("-nvf", "-nvf", ""),
        ("-ni", "-ni", "y\n" * 9),
        ("-i", "-i", "n\n" * 9),
        ("-i", "-i", ""),
        ("-i", "-i", "yes\nY\nno\nyup\n\n"),
        ("-i", "-i", "nay\n y\nj\nYes"),
        ("-iv", "-iv", "n\ny\nn\ny\nn\n"),
        ("-fi", "-fi", "n\ny\nn\ny\nn\n"),
        ("-ui", "-ui", "n\ny\n"),
        ("-iu", "-iu", "n\ny\n"),
        ("-ai", "-ai", "n\ny\nn\ny\nn\n"),
        ("-il", "-il", "y\nn\n"),
    ],
)
def test_what_is_replaced_by_age_and_by_answer(
    pair: Pair, ours: str, theirs: str, answers: str
) -> None:
    pair.set_up(AGES)
    sources = [f"@/{name}" for name in SOURCES]
    words = (*theirs.split(), *sources, "d")
    chosen = (*ours.split(), *sources, "d")
    pair.alike(*words, ours=chosen, data=answers.encode(), any_status=True)


def test_a_question_names_the_target_and_the_end_of_input_is_a_no(pair: Pair) -> None:
    pair.set_up(AGES)
    done = zpipe("cp", "-i", "src/older", "d/older", cwd=pair.sides[1], data=b"")
    assert done.stderr.startswith(b"zpipe: overwrite 'd/older'? ")
    assert (pair.sides[1] / "d/older").read_text() == "target older\n"


# Modes, owners, times, attributes


@pytest.mark.parametrize("options", ["-r", "-a", "-r --no-preserve=mode"])
@pytest.mark.parametrize("umask", ["000", "077", "777"])
def test_the_umask_is_heeded(pair: Pair, umask: str, options: str) -> None:
    if umask == "777":
        need_root()  # nobody else could look at what was made
    pair.set_up(TREE)
    before = ("sh", "-c", f'umask {umask}; exec "$@"', "sh")
    pair.alike(*options.split(), "src", "new", before=before)


@pytest.mark.parametrize(
    "options", ["-f", "-p", "--preserve=mode", "--no-preserve=mode", "--preserve=ownership"]
)
def test_a_target_keeps_its_mode_and_owner_unless_told_otherwise(pair: Pair, options: str) -> None:
    script = """
    for mode in 600 4755 666 444; do echo $mode > s$mode; echo old > t$mode; done
    for mode in 600 4755 666 444; do chmod $mode s$mode; done; mkdir d; cp s* d
    chmod 640 d/s600 d/s666; chmod 700 d/s4755; chmod 711 d/s444
    [ $UID != 0 ] || { chown 1234:4321 s*; chown 77:88 d/*; chmod 4755 s4755; }
    """
    pair.set_up(script)
    before = ("sh", "-c", 'umask 077; exec "$@"', "sh")
    pair.alike(*options.split(), "s600", "s4755", "s666", "s444", "d", before=before, status=0)


@pytest.mark.parametrize("options", ["-f", "--preserve=ownership", "--preserve=timestamps"])
def test_no_target_acts_for_a_new_owner(pair: Pair, options: str) -> None:
    """A target that acts as its owner does not act as the next one."""
    need_root()
    script = "mkdir d; echo s > s; chown 1234:4321 s; cp s d; chown 77:88 d/s; chmod 6755 d/s"
    pair.set_up(script)
    pair.alike(options, "s", "d", status=0)


@pytest.mark.parametrize("options", ["-r", "-r --preserve=timestamps", "-rd"])
def test_new_files_take_the_group_of_a_directory_that_says_so(pair: Pair, options: str) -> None:
    need_root()
    pair.set_up(TREE + "mkdir shared; chown 5:6 shared; chmod 2775 shared")
    pair.alike(*options.split(), "src", "shared")


def test_kept_modes_are_those_of_the_source_in_such_a_directory_too(pair: Pair) -> None:
    need_root()
    pair.set_up(TREE + "mkdir shared; chown 5:6 shared; chmod 2775 shared")
    ours = pair.sides[1]
    went_well(zpipe("cp", "-a", "src", "shared", cwd=ours))
    tree = tree_of(ours)
    for name in [name for name in tree if name.startswith(b"src")]:
        for field in ("mode", "owner", "mtime"):
            assert tree[b"shared/" + name][field] == tree[name][field], name


@pytest.mark.parametrize("options", ["-a", "-rLp", "-r --preserve=timestamps"])
def test_times_are_kept_to_the_nanosecond(pair: Pair, options: str) -> None:
    """Those of reading, too, as they were before the copy; of links and directories as well."""
    pair.set_up(TREE)
    for side in pair.sides:
        made_old(side, again=True)
    theirs, ours = pair.run(*options.split(), "src", "new", atime=True)
    # what is read by several names, links among them, was read already at all but the first
    several = {name for name, it in pair.before.items() if it.get("names") not in (None, [name])}
    by_links = (b"new/sub", b"new/to-folder", b"new/link") if "L" in options else ()
    for run in (theirs, ours):
        for name in run.tree:
            if (
                not name.startswith(b"new")
                or name.replace(b"new", b"src", 1) in several
                or name.startswith(by_links)
            ):
                run.tree[name]["atime"] = None
    assert_alike(theirs, ours, pair.before)
    kept = {name: entry["atime"] for name, entry in ours.tree.items() if entry["atime"] is not None}
    assert len(kept) > 20


def acl(*entries: tuple[int, int, int]) -> bytes:
    """Return an ACL as the kernel takes it: tag, permissions, and the number of a user or group."""
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHi", *entry) for entry in entries)


ACCESS = acl((1, 7, -1), (2, 7, 1234), (4, 4, -1), (8, 5, 4321), (16, 7, -1), (32, 0, -1))
DEFAULT = acl((1, 7, -1), (2, 5, 77), (4, 5, -1), (16, 5, -1), (32, 1, -1))
ACL_OF_FILE, ACL_OF_FOLDER = "system.posix_acl_access", "system.posix_acl_default"


def adorn(folder: Path) -> None:
    """Give ACLs and attributes, or skip where the filesystem takes none."""
    try:
        for name in ("file", "sub/x", "read-only/file", "long"):
            os.setxattr(folder / "src" / name, "user.colour", name.encode())
        os.setxattr(folder / "src/sub", "user.of-a-directory", b"\0\xff")
        os.setxattr(folder / "src/file", ACL_OF_FILE, ACCESS)
        os.setxattr(folder / "src/run", ACL_OF_FILE, ACCESS)
        os.setxattr(folder / "src/sub", ACL_OF_FILE, ACCESS)
        os.setxattr(folder / "src/sub", ACL_OF_FOLDER, DEFAULT)
        os.setxattr(folder / "shared", ACL_OF_FOLDER, DEFAULT)
        os.setxattr(folder / "shared/src/secret", "user.old", b"old")
        os.setxattr(folder / "src/secret", "user.new", b"new")
        os.setxattr(folder / "src/fifo", ACL_OF_FILE, ACCESS)
        os.setxattr(folder / "shared/src/run", ACL_OF_FILE, ACCESS)
        if os.geteuid() == 0:
            os.setxattr(folder / "src/file", "trusted.secret", b"")
            os.setxattr(folder / "src/link", "trusted.of-a-link", b"1", follow_symlinks=False)
            os.setxattr(folder / "src/fifo", "trusted.of-a-fifo", b"1", follow_symlinks=False)
    except OSError as error:
        missing(f"setxattr: {error}")


@pytest.mark.parametrize(
    "words",
    [
        "-r src new", "-a src new", "-rp src new", "-r --preserve=xattr src new",
        "-r --preserve=mode,xattr src new", "-a --no-preserve=xattr src new",
        "-a --no-preserve=mode src new", "-r src shared", "-a src shared", "-rp src shared",
        "-r --preserve=xattr src shared", "-r --preserve=ownership src shared", "-rd src shared",
    ],
)  # fmt: skip
def test_acls_and_attributes(pair: Pair, words: str) -> None:
    """In a directory of which new ones inherit, too."""
    pair.set_up(
        TREE + "mkdir -p shared/src; for f in secret run; do echo old > shared/src/$f; done"
    )
    for side in pair.sides:
        adorn(side)
    pair.alike(*words.split())


@pytest.mark.parametrize("options", ["-r", "-rp", "-af", "-rl", "-aL", "-r --preserve=ownership"])
def test_without_privileges(pair: Pair, options: str) -> None:
    """Files of others, that cannot be read, that cannot be written, and that cannot be given."""
    before = tuple(nobody())
    script = """
    mkdir -p src/mine src/closed src/shut src/locked new/src/locked new/src/mine
    echo a > src/mine/a; echo b > src/mine/unread; echo c > src/closed/c; echo d > src/shut/d
    echo e > src/root; echo f > src/suid; echo g > src/group; echo h > src/locked/h
    echo i > src/mine/i; echo i > new/src/mine/i; ln -s a src/mine/link
    echo k > src/mine/k; echo k > new/src/mine/k
    chown -R 65534:65534 . ; chown 0:0 src/root; chown 0:65534 src/group; chown 0:0 src/suid
    chmod 4755 src/suid; chmod 2755 src/group; chmod 0 src/mine/unread src/closed
    chmod 600 src/shut; chmod 444 new/src/mine/i; chown 0:0 new/src/mine/k; chmod 666 new/src/mine/k
    chmod 555 new/src/locked src/locked; chmod 4711 src/mine/a
    """
    pair.set_up(script)
    for side in pair.sides:
        os.chown(side, 65534, 65534)
    pair.alike(*options.split(), "src", "new", before=before)


# Filesystems


@pytest.mark.parametrize("options", ["-ax", "-r", "-rxL", "-rxv"])
def test_one_filesystem(tmp_path: Path, pair: Pair, options: str) -> None:
    source = tmp_path / "src"
    (source / "inner").mkdir(parents=True)
    (source / "hidden").mkdir()
    (source / "file").write_bytes(b"outside")
    with mounted("tmpfs", source / "inner", 1 << 20):
        (source / "inner" / "file").write_bytes(b"inside")
        (source / "inner" / "folder").mkdir(mode=0o700)
        (source / "inner").chmod(0o751)
        (source / "link").symlink_to("inner/file")
        (source / "to-folder").symlink_to("inner/folder")
        made_old(source)
        made_old(tmp_path)
        pair.alike(*options.split(), str(source), "new", status=0)
        pair.alike(*options.split(), f"{source}/inner", "also", status=0)


# What zpipe does otherwise, on purpose


@pytest.mark.parametrize(
    "words",
    [
        "-r src src/new",
        "-r src src",
        "-a src src/sub",
        "-rT src src/sub",
        "-r . new",
        "-r src/sub/.. src/sub/new",
        "-r src link/new",
        "-rH link src/new",
        "-rL src/here src/sub/new",
    ],
)
def test_a_directory_into_itself_is_refused_before_anything_is_made(pair: Pair, words: str) -> None:
    """GNU's cp notices when it has begun."""
    pair.set_up("mkdir -p src/sub; echo x > src/x; ln -s src link; ln -s . src/here")
    ours = pair.sides[1]
    done = zpipe("cp", *words.split(), cwd=ours)
    assert done.returncode == 1, done.stderr
    assert b"cannot be copied into itself" in done.stderr
    assert tree_of(ours) == pair.before


@pytest.mark.parametrize("option", ["-L", "-H"])
def test_links_that_lead_round_are_told_and_the_rest_is_copied(tmp_path: Path, option: str) -> None:
    (tmp_path / "src/deep").mkdir(parents=True)
    (tmp_path / "src/deep/file").write_bytes(b"x")
    (tmp_path / "src/deep/up").symlink_to("..")
    (tmp_path / "src/self").symlink_to("self")
    done = zpipe("cp", "-r", option, "src", "new", cwd=tmp_path)
    assert (tmp_path / "new/deep/file").read_bytes() == b"x"
    if option == "-H":
        went_well(done)
        assert os.readlink(tmp_path / "new/deep/up") == ".."
    else:
        assert done.returncode == 1
        assert done.stderr.count(b"\n") == 3  # one for each, and one for the run
        assert b"src/deep/up: a symbolic link leads round in a circle\n" in done.stderr
        assert b"src/self" in done.stderr
        assert not os.path.lexists(tmp_path / "new/self")


def test_targets_are_replaced_and_not_written_into(tmp_path: Path) -> None:
    """Who has the old one open keeps it; one that has other names is written in place."""
    for name in ("alone", "hard"):
        (tmp_path / "src" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "src" / name).write_bytes(b"new " * 5000)
        (tmp_path / "d" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "d" / name).write_bytes(b"old")
    (tmp_path / "d/other-name").hardlink_to(tmp_path / "d/hard")
    with open(tmp_path / "d/alone", "rb") as old:
        went_well(zpipe("cp", "-rT", "src", "d", cwd=tmp_path))
        assert old.read() == b"old"
    assert (tmp_path / "d/alone").read_bytes() == b"new " * 5000
    assert (tmp_path / "d/other-name").read_bytes() == b"new " * 5000
    assert not leftovers(tmp_path / "d")


def test_inplace_writes_into_what_is_there(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"new")
    (tmp_path / "b").write_bytes(b"older")
    inode = (tmp_path / "b").stat().st_ino
    went_well(zpipe("cp", "-p", "--inplace", "a", "b", cwd=tmp_path))
    assert (tmp_path / "b").stat().st_ino == inode
    assert (tmp_path / "b").read_bytes() == b"new"


@pytest.mark.parametrize(
    "words",
    [
        "-b a b", "--backup a b", "-S .old a b", "-Z a b", "--attributes-only a b",
        "--strip-trailing-slashes a b", "--copy-contents -r a b", "--preserve=colour a b",
        "--preserve=mode,,links a b", "--no-preserve= a b", "--sparse=maybe a b",
        "--reflink=maybe a b", "--update=yes a b", "-T a b c", "-t d -T a", "-r", "-r a", "-t d",
        "-r a b missing", "-pt missing a", "-pt a b", "-r - d", "-r tcp://here:1 d", "-r '' d",
        "-q9 a b",
    ],
)  # fmt: skip
def test_what_cannot_be_meant_ends_with_2_and_touches_nothing(tmp_path: Path, words: str) -> None:
    for name in ("a", "b"):
        (tmp_path / name).write_text(name)
    (tmp_path / "d").mkdir()
    before = tree_of(tmp_path)
    done = zpipe("cp", *(word.strip("'") for word in words.split(" ")), cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert done.stderr
    assert done.stdout == b""
    assert tree_of(tmp_path) == before


def test_several_targets_are_a_fan_out_of_one_file_and_refused_for_trees(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"content")
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    went_well(zpipe("cp", "-t", "one", "-t", "two", "a", cwd=tmp_path))
    assert (tmp_path / "one/a").read_bytes() == (tmp_path / "two/a").read_bytes() == b"content"
    done = zpipe("cp", "-r", "-t", "one", "-t", "two", "one", cwd=tmp_path)
    assert done.returncode == 2
    assert b"two" in done.stderr


@pytest.mark.parametrize(
    "words",
    [
        "-r src new", "-a src existing", "-rL src new", "-rT src existing", "-rn src/. existing",
        "-ru src/. existing", "-r --parents src/sub existing", "-r src/sub src/file existing",
        "-r --exclude=n* src new", "-rx src new", "-a src/fifo src/link existing",
        "-p src/file new", "-rl src new", "-p src new", "-rf nowhere src existing",
    ],
)  # fmt: skip
def test_a_dry_run_lists_what_a_run_makes_and_makes_nothing(pair: Pair, words: str) -> None:
    pair.set_up(TREE + "echo old > existing/file; echo old > existing/run; mkdir existing/sub")
    ours = pair.sides[1]
    foreseen = zpipe("cp", "--dry-run", *words.split(), cwd=ours)
    assert tree_of(ours) == pair.before
    done = zpipe("cp", "-v", *words.split(), cwd=ours)
    assert sorted(foreseen.stdout.splitlines()) == sorted(done.stdout.splitlines())
    assert foreseen.returncode == done.returncode
    assert bool(foreseen.stderr) == bool(done.stderr)


def test_a_dry_run_asks_nobody(pair: Pair) -> None:
    pair.set_up(AGES)
    ours = pair.sides[1]
    done = zpipe("cp", "--dry-run", "-i", *SOURCES, "d", cwd=ours, data=b"n\n" * 9)
    assert b"overwrite" not in done.stderr
    assert tree_of(ours) == pair.before


EXCLUDED = r"""
mkdir -p src/sub/deep src/tmp src/.git
for name in a.c b.o sub/c.o sub/d.c sub/deep/e.o sub/tmp tmp/in .git/in '[x]' $'\xffo' $'l\no'
do : > "src/$name"; done; ln -s nowhere src/link.o
"""


@pytest.mark.parametrize(
    ("globs", "gone"),
    [
        (["*.o"], ["b.o", "link.o", "sub/c.o", "sub/deep/e.o"]),
        (["*.c", "*.o"], ["a.c", "b.o", "link.o", "sub/c.o", "sub/d.c", "sub/deep/e.o"]),
        (["tmp"], ["sub/tmp", "tmp", "tmp/in"]),
        (["/tmp"], ["tmp", "tmp/in"]),
        (["sub/*.o"], ["sub/c.o", "sub/deep/e.o"]),
        (["sub/deep"], ["sub/deep", "sub/deep/e.o"]),
        (["deep"], ["sub/deep", "sub/deep/e.o"]),
        ([".*"], [".git", ".git/in"]),
        (["[ab].?"], ["a.c", "b.o"]),
        (["[!a]*.c"], ["sub/d.c"]),
        (["[[]x]"], ["[x]"]),
        (["\udcff*"], ["\udcffo"]),
        (["l\no"], ["l\no"]),
        (["src"], []),
        (["."], []),
        ([""], []),
        (["nothing", "*.O"], []),
    ],
)
def test_what_is_excluded_is_not_copied(pair: Pair, globs: list[str], gone: list[str]) -> None:
    """By its name, or by its path below the operand where there is a slash; with all below."""
    assert_excluded(pair, "src/.", globs, gone)


def test_an_operand_has_a_name_too(pair: Pair) -> None:
    gone = ["sub/c.o", "sub/deep/e.o", "a.c", "b.o"]
    assert_excluded(pair, "src", ["sub/*.o", "[ab].?"], gone)
    went_well(zpipe("cp", "-r", "--exclude=s[r]c", "src", "none", cwd=pair.sides[1]))
    assert not (pair.sides[1] / "none").exists()


def assert_excluded(pair: Pair, source: str, globs: list[str], gone: list[str]) -> None:
    pair.set_up(EXCLUDED)
    folder = pair.sides[1]
    options = [f"--exclude={glob}" for glob in globs]
    went_well(zpipe("cp", "-r", *options, source, "new", cwd=folder))
    found = tree_of(folder)
    names = {name[4:] for name in found if name.startswith(b"src/")}
    left = {name[4:] for name in found if name.startswith(b"new/")}
    assert sorted(names - left) == sorted(map(os.fsencode, gone))
    assert left <= names


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("-r", "SRC", "x"), "x: mkdir: "),
        (("-r", "--dry-run", "SRC", "x"), None),
        (("-r", "--resume", "SRC", "x"), ".: open: "),
        (("-r", "--resume", "x", "DST"), ".: open: "),
        (("-r", "--executor", "dask:127.0.0.1:1", "x", "DST"), ".: open: "),
        (("-r", "SRC", "DST"), None),
    ],
    ids=str,
)
def test_where_the_working_directory_is_gone(
    words: tuple[str, ...], said: str | None, tmp_path: Path
) -> None:
    """What does not need it goes well, and of the rest the reason is told."""
    (tmp_path / "src").mkdir()
    (tmp_path / "src/file").write_bytes(b"data")
    paths = {"SRC": str(tmp_path / "src"), "DST": str(tmp_path / "dst")}
    (tmp_path / "gone").mkdir()
    gone = ["sh", "-c", f'cd "{tmp_path}/gone" && rmdir "{tmp_path}/gone" && exec "$@"', "sh"]
    done = zpipe("cp", *(paths.get(word, word) for word in words), before=gone)
    if said is None:
        assert (done.returncode, done.stderr) == (0, b"")
    else:
        told = f"zpipe: {said}No such file or directory"
        assert (done.returncode, done.stderr.decode().splitlines()[0]) == (1, told)
