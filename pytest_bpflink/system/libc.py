"""The C library, for functions that Python lacks or has only in later releases."""

from __future__ import annotations

import ctypes
from functools import cache


@cache
def libc() -> ctypes.CDLL:
    """Return the C library of this process; `ctypes.get_errno()` is the errno of the last call."""
    return ctypes.CDLL(None, use_errno=True)
