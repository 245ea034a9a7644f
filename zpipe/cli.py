"""The command line: finds the command, and is the only place where an error becomes an exit status.

The command line library is loaded only when there is something for it to parse: `cp` of two
operands or with single letters, `cat` and `tee` go to their work at once.
"""

from __future__ import annotations

import errno
import os
import sys

from zpipe.errors import ConsumerGone, Interrupted, UsageError, ZpipeError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn

    import click

_SIGINT, _SIGPIPE = 2, 13
_PIPELINE = ("cat", "tee")  # without options they need no command line library either


def main(arguments: list[str] | None = None) -> NoReturn:
    """Run zpipe and end the process with the status that tells how it went."""
    words = sys.argv[1:] if arguments is None else arguments
    _occupy_standard_fds()
    debug = "--debug" in words[:1]
    words = words[1:] if debug else words
    try:
        _dispatch(words)
    except ConsumerGone:
        _die_by(_SIGPIPE)
    except Interrupted as error:
        _tell(error)
        _die_by(error.signum)
    except ZpipeError as error:
        _tell(error, words[0] if words else "")
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        _die_by(_SIGINT)
    except BrokenPipeError:
        _die_by(_SIGPIPE)  # help or a plan, into a pager that was left
    except Exception as error:
        if debug:
            raise
        if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE):
            _print(f"{error.filename or 'open'}: {error.strerror}")
            sys.exit(1)
        if isinstance(error, ImportError) and os.strerror(errno.EMFILE) in str(error):
            _print(f"{error.path or 'open'}: {os.strerror(errno.EMFILE)}")
            sys.exit(1)
        kind = type(error).__name__
        _print(f"internal error: {kind}: {error} (zpipe --debug ... shows where)")
        sys.exit(1)
    sys.exit(0)


def _dispatch(words: list[str]) -> None:
    """Take the short way where there are two operands and no options, else parse."""
    if (
        len(words) == 3
        and words[0] == "cp"
        and not _is_option(words[1])
        and not _is_option(words[2])
    ):
        from zpipe.engine.small import copy_small

        _, src, dst = words
        if copy_small(src, dst) is None:
            if os.path.isdir(src):
                _dispatch_by_click(words)
                return
            from zpipe.commands.carrying import Shown, carry
            from zpipe.engine.copy import fan_out
            from zpipe.graph.model import Wishes
            from zpipe.graph.policy import Policy

            carry(lambda: fan_out(src, [dst], Wishes(), Policy()), Shown())
        return
    if len(words) > 3 and words[0] == "cp" and "--" not in words:
        from zpipe.commands.trees import in_short as trees_in_short

        if trees_in_short(words[1:]):
            return
    if words and words[0] in _PIPELINE and not any(map(_is_option, words)):
        from zpipe.commands.pipelines import in_short

        in_short(words[0], words[1:])
        return
    _dispatch_by_click(words)


def _is_option(word: str) -> bool:
    return word.startswith("-") and word != "-"


def _dispatch_by_click(words: list[str]) -> None:
    import click

    if words[:1] == ["help"]:  # as other tools have it
        words = [*words[1:], "--help"]
    try:
        group().main(words, prog_name="zpipe", standalone_mode=False)
        if sys.stdout is not None:  # it was closed before we began
            sys.stdout.flush()
    except click.exceptions.NoArgsIsHelpError as error:
        print(error.format_message(), file=sys.stderr)
        sys.exit(2)
    except click.ClickException as error:
        from zpipe.commands.refusals import in_our_words

        _print(in_our_words(error, words))
        sys.exit(2)
    except click.Abort:
        _die_by(_SIGINT)


def group() -> click.Group:
    """Return the command group; commands load when they are called or asked for help."""
    from importlib import import_module

    import click

    from zpipe import __version__
    from zpipe.commands import COMMANDS

    class Lazy(click.Group):
        """Knows the commands' names and lines, and loads one at a time."""

        def list_commands(self, ctx: click.Context) -> list[str]:
            return list(COMMANDS)

        def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
            if cmd_name not in COMMANDS:
                return None
            command: click.Command = import_module(f"zpipe.commands.{cmd_name}").COMMAND
            return command

        def resolve_command(
            self, ctx: click.Context, args: list[str]
        ) -> tuple[str | None, click.Command | None, list[str]]:
            if args[0] not in COMMANDS:
                from zpipe.spelling import known_are

                known = known_are(args[0], COMMANDS)
                raise UsageError(f"{args[0] or '(empty)'}: unknown command: {known}")
            return super().resolve_command(ctx, args)

        def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
            with formatter.section("Commands"):
                formatter.write_dl(list(COMMANDS.items()))

    def version(ctx: click.Context, param: click.Parameter, value: Any) -> None:
        if value and not ctx.resilient_parsing:
            click.echo(f"zpipe {__version__}")
            ctx.exit()

    return Lazy(
        "zpipe",
        help="Move bytes between files, sockets, pipes and processes inside the kernel.",
        epilog="zpipe help COMMAND tells more; zpipe --debug COMMAND shows tracebacks.",
        params=[
            click.Option(
                ["--version"],
                is_flag=True,
                expose_value=False,
                is_eager=True,
                callback=version,
                help="Print the version and exit.",
            )
        ],
    )


def _occupy_standard_fds() -> None:
    """Fill closed standard fds, so that no file we open becomes standard output by its number.

    They are opened for the wrong direction: whoever asks for them gets EBADF, as it must be.
    """
    for fd, flags in ((0, os.O_WRONLY), (1, os.O_RDONLY), (2, os.O_RDONLY)):
        try:
            os.fstat(fd)
        except OSError:
            os.open("/dev/null", flags)


def _tell(error: ZpipeError, command: str = "") -> None:
    if error.told:
        return
    for problem in map(str, error.args):
        # an operand says what it is, an option only together with its command
        of_option = isinstance(error, UsageError) and problem[:1] == "-" and problem[1:2] != ":"
        _print(f"{command}: {problem}" if of_option else problem)


def _print(text: str) -> None:
    try:
        from zpipe.commands.speaking import tell
    except OSError:
        os.write(2, b"zpipe: " + os.fsencode(text) + b"\n")  # no fd is left to load it by
        return
    tell(text)


def _die_by(signum: int) -> NoReturn:
    """End as by an unhandled signal, so that a shell and its scripts see what happened."""
    import signal

    signal.signal(signum, signal.SIG_DFL)
    os.kill(os.getpid(), signum)
    sys.exit(128 + signum)
