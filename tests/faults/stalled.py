"""Files that can be opened by nobody until they are let go, as on a network file system that is away."""

import ctypes
import os
from contextlib import contextmanager

import pytest

_CLASS_CONTENT, _CLOEXEC, _MARK_ADD, _OPEN, _ACCESS, _HERE = 0x4, 0x1, 0x1, 0x10000, 0x20000, -100


@contextmanager
def stalled(path):
    """Linux asks a listener (fanotify), which never answers, before a thread may open or read the file."""
    libc = ctypes.CDLL(None, use_errno=True)
    fd = libc.fanotify_init(_CLASS_CONTENT | _CLOEXEC, os.O_RDONLY)
    if fd < 0:
        pytest.skip(f"fanotify, which lets a read hang, is not there: {os.strerror(ctypes.get_errno())}")
    try:
        asked = ctypes.c_uint64(_OPEN | _ACCESS)
        if libc.fanotify_mark(fd, _MARK_ADD, asked, _HERE, os.fsencode(path)) < 0:
            pytest.skip(f"fanotify cannot hold a file: {os.strerror(ctypes.get_errno())}")
        yield
    finally:
        os.close(fd)  # whoever waits goes on
