"""Parts of the tests: choosing rows, doing something to a link, and asserting what came of it."""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest

from pytest_bpflink import BpfError, DescriptorHolder, Link, Map, Program
from pytest_bpflink.binding import libbpf
from pytest_bpflink.binding.opts import LinkUpdateOptions
from pytest_bpflink.selftests.conformance.outcomes import OK
from pytest_bpflink.selftests.conformance.rows import ROWS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pytest_bpflink.selftests.conformance.row import Row
    from pytest_bpflink.selftests.conformance.stages import Stage

FIRST, SECOND, NONE = (True, False), (False, True), (False, False)
"""Answers of `Stage.ran()`: which of the stage's two programs ran."""

_REPLACE = 1 << 2  # BPF_F_REPLACE

# busybox, if there is one, is linked statically: loading libc takes a guest longer than the test.
_SLEEP = [*(["busybox"] if shutil.which("busybox") else []), "sleep", "60"]


def each(condition: Callable[[Row], object]) -> pytest.MarkDecorator:
    """Parametrize a test with the rows that fulfil a condition."""
    rows = [pytest.param(row, id=row.id) for row in ROWS if condition(row)]
    return pytest.mark.parametrize("row", rows)


every_row = each(lambda _row: True)
full_row = each(lambda row: not row.brief)
updatable = each(lambda row: row.update == OK)
not_updatable = each(lambda row: row.update != OK)
detachable = each(lambda row: row.detach == OK)
not_detachable = each(lambda row: row.detach != OK)


def update(link: Link, new: Program | Map) -> None:
    """Replace the program of a link, or its struct_ops map."""
    if isinstance(new, Map):
        link.update_map(new)
    else:
        link.update(new)


def update_wrongly(link: Link, fd: int, *, flags: int = 0, old: int = 0) -> None:
    """Ask the kernel for an update with any descriptors and flags, right or wrong."""
    options = LinkUpdateOptions(flags=flags, old_prog_fd=old)
    libbpf.call("bpf_link_update", link.fd, fd, ctypes.byref(options), doing="update")


def exchange(link: Link, new: Program | Map, *, old: Program | Map) -> None:
    """Update a link only if its present program is `old`."""
    update_wrongly(link, new.fd, flags=_REPLACE, old=old.fd)


def require_detached(link: Link, stage: Stage, row: Row) -> None:
    """Assert that a link has lost its target, and that its info can still be read."""
    info = link.info
    assert (info.id, info.prog_id) == (link.id, stage.prog_id)
    assert {name: getattr(info, name) for name in row.detached} == row.detached


def own_holders(link: Link) -> set[int]:
    """Return the descriptors that hold a link, and assert that all of them are this process's."""
    holders = link.holders()
    assert all(getattr(each, "pid", None) == os.getpid() for each in holders)
    return {each.fd for each in holders if isinstance(each, DescriptorHolder)}


def exists(kind: str, number: int) -> bool:
    """Whether the kernel has an object of an id: `prog` or `map`."""
    try:
        fd = libbpf.call(f"bpf_{kind}_get_fd_by_id", number, doing=f"open {kind} {number}")
    except BpfError:
        return False
    os.close(fd)
    return True


@contextlib.contextmanager
def holding_process(link: Link) -> Iterator[subprocess.Popen[bytes]]:
    """Start a process that inherits a link's descriptor, and kill it at the end."""
    with subprocess.Popen(_SLEEP, pass_fds=[link.fd]) as process:
        try:
            yield process
        finally:
            process.kill()
