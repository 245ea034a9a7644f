"""Mode, owner, times and extended attributes from one file to another, as `cp -p` and `-a` do.

POSIX ACLs and security contexts are extended attributes to the kernel. What cannot be kept fails
the file only where it was demanded; a user who is not root cannot give files away, and that is
never an error (as with cp).
"""

from __future__ import annotations

import errno
import os
import stat

from zpipe.errors import TransferError, reason

TYPE_CHECKING = False
if TYPE_CHECKING:
    from zpipe.tree.wishes import TreeWishes

_ACLS = ("system.posix_acl_access", "system.posix_acl_default")
_CONTEXT = "security.selinux"


def keep(
    source: int | str,
    info: os.stat_result,
    target: int | str,
    name: str,
    wishes: TreeWishes,
    *,
    bits: bool = True,
) -> None:
    """Give `target` the attributes of `source` that are to be kept. Times come last: everything
    else may change them. What fails does not keep the others from being kept.

    `source` is an fd, or the path of what is not opened; of a symbolic link its own attributes are
    meant. `target` is an fd, or a path that leads to nothing but the file itself, such as
    /proc/self/fd/N. `bits`: there are permission bits and ACLs, which a symbolic link has not.

    Raises: TransferError  what was demanded could not be kept; `name` is told.
    """
    preserve = wishes.preserve
    mode = stat.S_IMODE(info.st_mode)
    first: TransferError | None = None
    try:
        owned = "ownership" not in preserve or _give(target, info, name, wishes)
    except TransferError as error:
        first, owned = error, False
    if not owned:
        mode &= ~(stat.S_ISUID | stat.S_ISGID)  # of somebody else, they would grant what is not his
    try:
        if preserve & {"xattr", "context"} or ("mode" in preserve and bits):
            _keep_xattrs(source, target, name, wishes, acls=bits)
    except TransferError as error:
        first = first or error
    try:
        if "mode" in preserve and bits:
            _do("chmod", name, "mode", wishes, lambda: os.chmod(target, mode))
    except TransferError as error:
        first = first or error
    if "timestamps" in preserve:
        times = (info.st_atime_ns, info.st_mtime_ns)
        _do("utimensat", name, "timestamps", wishes, lambda: os.utime(target, ns=times))
    if first is not None:
        raise first


def grant(target: int | str, bits: int, name: str) -> None:
    """Give a file the permission bits that were withheld until it had its owner.

    Raises: TransferError  `name` is told.
    """
    try:
        os.chmod(target, bits)
    except OSError as error:
        raise TransferError(f"{name}: chmod: {reason(error)}", errno=error.errno) from error


def _give(target: int | str, info: os.stat_result, name: str, wishes: TreeWishes) -> bool:
    """Give a file its owner and group, or the group alone; tell whether owner and group are kept.

    Raises: TransferError.
    """
    own = os.stat(target)
    if (own.st_uid, own.st_gid) == (info.st_uid, info.st_gid):
        return True
    for uid in (info.st_uid, -1):
        try:
            os.chown(target, uid, info.st_gid)
        except OSError as error:
            if error.errno not in (errno.EPERM, errno.EINVAL, errno.EOPNOTSUPP):
                raise TransferError(f"{name}: chown: {reason(error)}", errno=error.errno) from error
            if os.geteuid() == 0 and "ownership" in wishes.demanded:
                raise TransferError(f"{name}: chown: {reason(error)}", errno=error.errno) from error
        else:
            return uid != -1
    return False


def _keep_xattrs(
    source: int | str,
    target: int | str,
    name: str,
    wishes: TreeWishes,
    *,
    acls: bool,
) -> None:
    preserve = wishes.preserve
    acls = acls and "mode" in preserve
    follow = not isinstance(source, str)  # an fd and follow_symlinks=False exclude each other
    try:
        found = os.listxattr(source, follow_symlinks=follow)
    except OSError as error:
        if error.errno != errno.EOPNOTSUPP and "xattr" in wishes.demanded:
            raise TransferError(f"{name}: listxattr: {reason(error)}", errno=error.errno) from error
        return
    kept = []
    first: TransferError | None = None
    for each in found:
        if each in _ACLS:
            wanted, kind = acls, "mode"
            kept.append(each)
        elif each == _CONTEXT:
            wanted, kind = "context" in preserve, "context"
        else:
            wanted, kind = "xattr" in preserve, "xattr"
        if not wanted:
            continue
        try:
            value = os.getxattr(source, each, follow_symlinks=follow)
            os.setxattr(target, each, value)
        except OSError as error:
            if kind in wishes.demanded:
                text = f"{name}: setxattr {each}: {reason(error)}"
                first = first or TransferError(text, errno=error.errno)
    if acls:
        _drop_inherited(target, kept)
    if first is not None:
        raise first


def _drop_inherited(target: int | str, kept: list[str]) -> None:
    """Take away ACLs that the target's directory has given it, and that the source has not."""
    try:
        for each in os.listxattr(target):
            if each in _ACLS and each not in kept:
                os.removexattr(target, each)
    except OSError:
        pass  # chmod sets the mask of what is left


def _do(act: str, name: str, kind: str, wishes: TreeWishes, call: object) -> None:
    try:
        call()  # type: ignore[operator]
    except OSError as error:
        if kind in wishes.demanded:
            raise TransferError(f"{name}: {act}: {reason(error)}", errno=error.errno) from error
