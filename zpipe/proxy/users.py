"""Users and groups: their numbers, and how a process becomes others, for good."""

from __future__ import annotations

import os

from zpipe.errors import UsageError
from zpipe.proxy.ahead import load_ahead

TYPE_CHECKING = False
if TYPE_CHECKING:
    from zpipe.proxy.settings import Operation


def number_of(what: str, name: str) -> int | None:
    """Return the number of a `user` or `group`, by name or number; None: there is none."""
    if name.isascii() and name.isdigit():
        return int(name) if int(name) < (1 << 32) - 1 else None  # the last one means "as it is"
    try:
        if what == "user":
            import pwd

            return pwd.getpwnam(name).pw_uid
        import grp

        return grp.getgrnam(name).gr_gid
    except KeyError:
        return None


def drop_rights(operation: Operation) -> None:
    """Become another user and group, for good.

    Raises: UsageError  there is none of this name, or this process may not.
    """
    if operation.user is None and operation.group is None:
        return
    import pwd

    user = group = None
    if os.geteuid() != 0 and _is_already(operation):
        return
    try:
        if operation.user is not None:
            name = operation.user
            entry = pwd.getpwuid(int(name)) if name.isdecimal() else pwd.getpwnam(name)
            user, group = entry.pw_uid, entry.pw_gid
    except KeyError:
        if not operation.user or not operation.user.isdecimal():
            raise UsageError(f"--user: no user is named {operation.user}") from None
        if operation.group is None:
            raise UsageError(
                f"--user {operation.user}: is no user that has a group: give --group"
            ) from None
        user = int(operation.user)
    if operation.group is not None:
        group = number_of("group", operation.group)
        if group is None:
            raise UsageError(f"--group: no group is named {operation.group}")
    load_ahead(metrics=operation.metrics is not None)
    try:
        os.setgroups([group] if group is not None else [])
        if group is not None:
            os.setresgid(group, group, group)
        if user is not None:
            os.setresuid(user, user, user)
    except OSError as error:
        what = f"--user {operation.user}" if operation.user else f"--group {operation.group}"
        raise UsageError(f"{what}: change to it: {os.strerror(error.errno or 0)}") from error


def _is_already(operation: Operation) -> bool:
    """Tell whether a process without rights is what it is asked to become."""
    user, group = operation.user, operation.group
    return (user is None or number_of("user", user) == os.geteuid()) and (
        group is None or number_of("group", group) == os.getegid()
    )
