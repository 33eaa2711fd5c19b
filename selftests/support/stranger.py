"""Calling a function as a stranger: without capabilities, and as a user who owns no file."""

from __future__ import annotations

import ctypes
import threading
from typing import TYPE_CHECKING, ParamSpec, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")

_NOBODY = 65534
_CAPABILITY_VERSION_3 = 0x20080522


CAP_BPF = 39
CAP_SYS_ADMIN = 21


def as_stranger(
    function: Callable[_Arguments, _Result],
    /,
    *arguments: _Arguments.args,
    **options: _Arguments.kwargs,
) -> _Result:
    """Call a function without any capability, and as the user nobody to file systems.

    The function can use all descriptors of this process, as if it had inherited them. Its
    exceptions are raised here.
    """
    return with_capabilities((), function, *arguments, **options)


def with_capabilities(
    capabilities: Collection[int],
    function: Callable[_Arguments, _Result],
    /,
    *arguments: _Arguments.args,
    **options: _Arguments.kwargs,
) -> _Result:
    """Call a function as `as_stranger` does, but with some capabilities, by number."""
    results: list[_Result] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            drop_privileges_of_thread(keep=capabilities)
            results.append(function(*arguments, **options))
        except BaseException as error:  # noqa: BLE001 - raised again in the caller's thread
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return results[0]


def drop_privileges_of_thread(*, keep: Collection[int]) -> None:
    """Make this thread a stranger, but for some capabilities, for good."""
    # For the kernel, credentials belong to a thread. glibc applies setuid() to all threads of the
    # process, but neither setfsuid() nor capset(): only this thread loses its privileges.
    libc = ctypes.CDLL(None, use_errno=True)
    libc.setfsgid(_NOBODY)
    libc.setfsuid(_NOBODY)
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    # struct __user_cap_data_struct: effective, permitted, inheritable; twice, for 64 capabilities.
    wanted = sum(1 << number for number in keep)
    low, high = wanted & 0xFFFFFFFF, wanted >> 32
    if libc.capset(header, (ctypes.c_uint32 * 6)(low, low, 0, high, high, 0)):
        raise OSError(ctypes.get_errno(), "capset")
