"""Memory that was freed, given back to the system."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache

import numpy as np

#: Bytes above which glibc takes an array from the system rather than from what was freed before (64-bit systems).
_FROM_SYSTEM = 32 * 1024**2


def large_array(shape: tuple[int, int]) -> np.ndarray:
    """Make an uninitialised array, which may be most of what a section takes.

    The C library keeps what was freed for the next array of that size, and takes the memory of a large one from the
    system all the same. On a large section both together made a quarter of a GB more than either. Where the library
    can be told (glibc), what was freed is therefore given back first.

    Parameters
    ----------
    shape
        Number of rows and columns, (n, d).

    Returns
    -------
    numpy.ndarray
        float32, shape (n, d).
    """
    if 4 * shape[0] * shape[1] > _FROM_SYSTEM:
        give_back()
    return np.empty(shape, dtype=np.float32)


def give_back() -> None:
    """Give freed memory back to the system, where the C library can be told to (glibc)."""
    if (trim := _trim()) is not None:
        trim(0)


@cache
def _trim() -> Callable[[int], int] | None:
    try:
        return ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):  # another C library, or Windows
        return None
