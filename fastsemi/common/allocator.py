"""Memory that is freed is kept for the next tensors: on a CPU new pages cost more than some layers."""

from __future__ import annotations

import ctypes
import platform

# Parameters of mallopt in glibc.
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4


def keep_memory() -> bool:
    """Tell glibc to keep what is freed, in place of giving large blocks back to the system at once.

    Activations come and go in each step; by default each of them is mapped, zeroed page by page and unmapped
    again. The process then holds the most that it ever needed.

    Returns:
        Whether this system has such an allocator.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    settings = ((_MMAP_MAX, 0), (_TRIM_THRESHOLD, 2**31 - 1), (_TOP_PAD, 256 << 20))
    return all(mallopt(name, value) for name, value in settings)
