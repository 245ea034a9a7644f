"""Named sets of errnos: which answers mean "not here, try another way".

Evidence: fs/splice.c and fs/read_write.c of Linux 6.12, copy_file_range(2), ioctl_ficlone(2), and
the sets that GNU coreutils, Go and Rust arrived at in the field. EIO and ENOSPC are deliberately
absent except where a filesystem is known to answer so instead of "not supported".
"""

from __future__ import annotations

from errno import (
    EACCES,
    EAGAIN,
    EBADF,
    ECONNRESET,
    EDQUOT,
    EFBIG,
    EINVAL,
    EIO,
    ENODEV,
    ENOLCK,
    ENOMEM,
    ENOSPC,
    ENOSYS,
    ENOTTY,
    EOPNOTSUPP,
    EOVERFLOW,
    EPERM,
    EPIPE,
    ESPIPE,
    ETXTBSY,
    EXDEV,
)

# splice, tee, sendfile: the kind of fd, or a local policy (seccomp), refuses the call.
SPLICE_REFUSED = frozenset({EINVAL, ENOSYS, EPERM, EACCES, ESPIPE, EOPNOTSUPP})

# EXDEV before 5.3 and since 5.19, EIO on CIFS, ETXTBSY on swap files, EOVERFLOW on some 32-bit.
COPY_RANGE_REFUSED = frozenset(
    {EXDEV, EINVAL, EIO, EOPNOTSUPP, EPERM, EACCES, ENOSYS, EBADF, ETXTBSY, EOVERFLOW}
)

CLONE_REFUSED = frozenset(
    {EOPNOTSUPP, EXDEV, EINVAL, ENOTTY, ENOSYS, EPERM, EACCES, EBADF, ETXTBSY, EIO}
)

# mmap: ENODEV is "this file cannot be mapped", ENOMEM and EAGAIN are limits of this process.
MAP_REFUSED = frozenset({ENODEV, EACCES, EPERM, EINVAL, ENOSYS, ENOMEM, EAGAIN, EOPNOTSUPP})

# setting O_DIRECT, or the first transfer with it
DIRECT_REFUSED = frozenset({EINVAL, EOPNOTSUPP, ENOSYS, EPERM, EACCES})

# EAGAIN: somebody has it open for writing; EACCES: not the owner and no CAP_LEASE.
LEASE_REFUSED = frozenset({EAGAIN, EACCES, EINVAL, ENOLCK, EPERM, ENOSYS, EOPNOTSUPP})

# errors that can only come from the sink, whatever call reported them
SINK_ONLY = frozenset({ENOSPC, EDQUOT, EFBIG, EPIPE, ECONNRESET})
