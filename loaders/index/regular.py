"""Opens files that are files: a named pipe or a device called x.jpg would be read for ever."""

from __future__ import annotations

import errno
import os
import stat
from typing import BinaryIO


def open_regular(path: str | bytes) -> BinaryIO:
    """Open a file for reading, unbuffered.

    Raises:
        OSError: As `regular_fd`.
    """
    return open(regular_fd(path), "rb", buffering=0)


def regular_fd(path: str | bytes) -> int:
    """The descriptor of a file, opened for reading.

    Raises:
        OSError: It cannot be opened, or is a pipe, a socket, a device or a folder.
    """
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        mode = os.fstat(fd).st_mode
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), os.fsdecode(path))
        if not stat.S_ISREG(mode):
            raise OSError(errno.EINVAL, "not a regular file", os.fsdecode(path))
    except BaseException:
        os.close(fd)
        raise
    return fd
