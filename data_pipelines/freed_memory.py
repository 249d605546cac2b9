"""Large pieces of memory that are freed and asked for again and again: kept, instead of being given back in between.

glibc gives pieces of megabytes back to the system, which then has to hand out the same memory anew, page by page and
zeroed. No other platform is concerned.
"""

import ctypes
import platform
from functools import cache

# Parameters of mallopt(3).
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4


@cache
def keep_freed_memory() -> bool:
    """Keep the memory that the main thread frees for what it allocates next. Returns whether this C library does so.

    The process then stays as large as it once was. With a C library other than glibc nothing is changed.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    # No piece comes from mmap, which is undone by free; and the end of the heap is never given back.
    return bool(mallopt(_M_MMAP_MAX, 0)) and bool(mallopt(_M_TRIM_THRESHOLD, -1))
