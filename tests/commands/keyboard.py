"""Command lines typed into real shells, and what their completion makes of them.

Bash and zsh run on a terminal of their own, where a Tab is a Tab; fish tells by itself what it
would offer.
"""

from __future__ import annotations

import os
import pty
import re
import select
import signal
import subprocess
import time
from typing import TYPE_CHECKING, Protocol

import pytest

from tests.machine import LONGEST, need

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

MARK = b"\0\0\0"  # ends each answer

BASH = """
PS1='$ ' HISTFILE=
bind 'set bell-style none'
{before}
source {script}
_watched() {{
  _zpipe "$@" 2>&4
  printf '%s\\0' "${{COMPREPLY[@]}}" >&3
  printf '\\0\\0' >&3
}}
complete -F _watched zpipe
_told() {{ printf '%s\\0\\0\\0' "${{READLINE_LINE-}}" >&3; READLINE_LINE= READLINE_POINT=0; }}
bind -x '"\\C-g": _told'
_told
"""

ZSH = """
PS1='$ '
unset HISTFILE
LISTMAX=10000
setopt no_beep
autoload -Uz compinit
compinit -u -d $ZDOTDIR/dump
{load}
compadd() {{
  if [[ ${{@[1,(i)(-|--)]}} != *-(O|A|D)\\ * ]]; then
    local -a _shown
    builtin compadd -A _shown "$@"
    for _shown in $_shown; do print -rnu3 -- "$IPREFIX$_shown"$'\\0'; done
  fi
  builtin compadd "$@"
}}
_told() {{
  zle expand-or-complete 2>&4
  print -nu3 -- $'\\0\\0\\0'
  print -rnu3 -- $BUFFER$'\\0\\0\\0'
  BUFFER=
  zle -R
}}
zle -N _told
bindkey '^I' _told
print -nu3 -- $'\\0\\0\\0'
"""


class Shell(Protocol):
    """A shell that knows how to complete zpipe."""

    name: str

    def offered(self, line: str) -> set[str]:
        """Return the words that the last one may become, without quotes and what ends them."""

    def close(self) -> None:
        """End it. What completion has written to standard error is a failure."""


class Typed:
    """A shell on a terminal. It answers on one pipe; errors of completion go to another."""

    def __init__(self, words: list[str], folder: Path, environ: Mapping[str, str]):
        self._answers, answering = os.pipe()
        self._errors, failing = os.pipe()
        self._seen = b""
        self._screen = b""
        self._pid, self._terminal = pty.fork()
        if self._pid == 0:
            try:
                os.chdir(folder)
                os.dup2(answering, 3)
                os.dup2(failing, 4)
                os.execve(words[0], words, {**environ, "TERM": "xterm"})
            finally:
                os._exit(127)
        os.close(answering)
        os.close(failing)

    def type(self, text: str) -> None:
        os.write(self._terminal, text.encode())

    def answer(self) -> list[str]:
        """Return the parts of the next answer."""
        end = time.monotonic() + LONGEST
        while MARK not in self._seen:
            ready, _, _ = select.select([self._answers, self._terminal], [], [], LONGEST)
            if self._terminal in ready:
                self._screen += os.read(self._terminal, 1 << 16)
            if self._answers in ready:
                self._seen += os.read(self._answers, 1 << 16)
            if not ready or time.monotonic() > end:
                pytest.fail(f"the shell does not answer; its screen: {self._screen!r}")
        parts, _, self._seen = self._seen.partition(MARK)
        return [part.decode() for part in parts.split(b"\0") if part]

    def close(self) -> None:
        os.kill(self._pid, signal.SIGKILL)
        os.waitpid(self._pid, 0)
        os.close(self._terminal)
        os.close(self._answers)
        errors = b""
        while part := os.read(self._errors, 1 << 16):
            errors += part
        os.close(self._errors)
        assert errors == b"", errors


class Bash(Typed):
    """Tab, and a key by which readline tells its line."""

    name = "bash"

    def __init__(self, script: Path, folder: Path, environ: Mapping[str, str], before: str = ""):
        begin = folder.parent / "bashrc"
        begin.write_text(BASH.format(script=script, before=before))
        super().__init__(
            [need("bash"), "--noprofile", "--rcfile", str(begin), "-i"], folder, environ
        )
        self.answer()

    def complete(self, line: str) -> tuple[list[str], str]:
        """Return what is offered for a line, and what the line becomes."""
        self.type(f"{line}\t")
        offered = self.answer()
        self.type("\7")
        return offered, "".join(self.answer())

    def offered(self, line: str) -> set[str]:
        offered, _ = self.complete(line)
        # what readline leaves alone is not among it
        stays = re.match(r"""(?:[^'"\\]|\\.)*[:=]""", last_word(line))
        return {plain((stays[0] if stays else "") + word) for word in offered}


class Zsh(Typed):
    """Tab, after which the editor tells its line."""

    name = "zsh"

    def __init__(self, script: Path, folder: Path, environ: Mapping[str, str], *, sourced: bool):
        home = folder.parent / f"zsh-{sourced}"
        home.mkdir()
        (home / "_zpipe").symlink_to(script)
        (home / ".zshenv").write_text("" if sourced else f"fpath=({home} $fpath)\n")
        (home / ".zshrc").write_text(ZSH.format(load=f"source {script}" if sourced else ""))
        super().__init__([need("zsh"), "-d", "-i"], folder, {**environ, "ZDOTDIR": str(home)})
        self.answer()

    def complete(self, line: str) -> tuple[list[str], str]:
        """Return what is offered for a line, and what the line becomes."""
        self.type(f"{line}\t")
        return self.answer(), "".join(self.answer())

    def offered(self, line: str) -> set[str]:
        offered, _ = self.complete(line)
        # the folder of a path is not among it
        word = last_word(line)
        folder = word[: word.rfind("/") + 1]
        scheme = re.match("[a-z-]+:|", word)
        assert scheme is not None
        if folder:
            offered = [folder + each.removeprefix(scheme[0]) for each in offered]
        return set(map(plain, offered))


class Fish:
    """A fish that answers for one line after the other."""

    name = "fish"

    def __init__(self, script: Path, folder: Path, environ: Mapping[str, str]):
        config = folder.parent / "config"
        (config / "fish/completions").mkdir(parents=True)
        (config / "fish/completions/zpipe.fish").symlink_to(script)
        asks = "while read -lz line; complete -C $line; printf '\\0'; end"
        self._process = subprocess.Popen(
            [need("fish"), "-c", asks],
            cwd=folder,
            env={**environ, "XDG_CONFIG_HOME": str(config), "XDG_DATA_HOME": str(config)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def offered(self, line: str) -> set[str]:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(line.encode() + b"\0")
        self._process.stdin.flush()
        answer = b""
        while not answer.endswith(b"\0"):
            ready, _, _ = select.select([self._process.stdout], [], [], LONGEST)
            part = os.read(self._process.stdout.fileno(), 1 << 16) if ready else b""
            if not part:
                pytest.fail("fish does not answer")
            answer += part
        lines = answer[:-1].decode().splitlines()
        return {plain(each.partition("\t")[0]) for each in lines}

    def close(self) -> None:
        _, errors = self._process.communicate(timeout=LONGEST)
        assert errors == b"", errors


def last_word(line: str) -> str:
    """Return the word at the end, with its quotes."""
    found = re.search(r"""(?:\\.|"[^"]*"?|'[^']*'?|[^\s"'\\])*$""", line)
    assert found is not None
    return found[0]


def plain(word: str) -> str:
    """Return a candidate without quoting, and without the / of a folder and the = of an option."""
    word = word.replace("\\", "")
    if word.startswith("--"):
        word = word.removesuffix("=")
    return word if word.endswith("://") else word.removesuffix("/")
