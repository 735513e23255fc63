"""Memory of a process that trains on a CPU."""

from __future__ import annotations

import ctypes
import os
import sys

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4
"""Numbers of glibc's ``mallopt``."""

_TOP_PAD_BYTES = 1 << 28


def keep_freed_memory() -> bool:
    """Keep freed memory for what is allocated next, and ask for large pages.

    A training step allocates and frees the same gigabytes again and again. By itself glibc gives
    each large block back to the system, which has to clear every page of the next one: a third of
    a step on a CPU. It is a setting of the process, so it is for whoever owns that, as the command
    line does; call it before torch is imported, which asks for large pages by the environment.
    The process holds on to the most that it ever needed, and to what lies between.

    Returns:
        Whether the system's C library took it; only glibc (Linux) knows it, elsewhere nothing is
        done.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    settings = ((_MMAP_MAX, 0), (_TRIM_THRESHOLD, -1), (_TOP_PAD, _TOP_PAD_BYTES))
    taken = [mallopt(name, value) == 1 for name, value in settings]
    return all(taken)
