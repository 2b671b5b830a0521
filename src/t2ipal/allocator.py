"""What becomes of memory that is freed on a CPU: glibc's allocator hands large blocks back, and fetches them anew."""

from __future__ import annotations

import ctypes

# Of mallopt(3), from malloc.h; the sizes in bytes.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_KEPT, _LARGEST = 1 << 30, 1 << 28


def keep_freed() -> bool:
    """Have this process keep up to 1 GiB that is freed, in blocks of up to 256 MiB, for what is needed next.

    Every layer of a CLIP gives a new activation of some megabytes. By glibc's rules each one is memory that the kernel
    has to fill with zeros, page by page, which takes a tenth of the time of a ViT on a CPU and more of a ResNet's
    (``bench/allocator.py``). For processes of our own: a library has no business with its host's allocator.

    Returns:
        Whether the C library is glibc, and did so.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    return all([mallopt(_MMAP_THRESHOLD, _LARGEST), mallopt(_TRIM_THRESHOLD, _KEPT)])
