"""What is asked of links of any type: of which rows, what is done to a link, what is seen then."""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest

from pytest_bpflink import BpfError, DescriptorHolder, Link, Map, Program, libbpf
from pytest_bpflink.options import LinkUpdateOptions
from pytest_bpflink.selftests.conformance.outcomes import OK
from pytest_bpflink.selftests.conformance.rows import ROWS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pytest_bpflink.selftests.conformance.row import Row
    from pytest_bpflink.selftests.conformance.stages import Stage

FIRST, SECOND, NONE = (True, False), (False, True), (False, False)
"""What `Stage.ran()` says: which of its two programs ran."""

_REPLACE = 1 << 2  # BPF_F_REPLACE

# Linked statically, where there is one: to load a C library takes a guest longer than the test.
_SLEEP = [*(["busybox"] if shutil.which("busybox") else []), "sleep", "60"]


def each(condition: Callable[[Row], object]) -> pytest.MarkDecorator:
    """Ask it of the rows that fulfil a condition."""
    rows = [pytest.param(row, id=row.id) for row in ROWS if condition(row)]
    return pytest.mark.parametrize("row", rows)


every_row = each(lambda _row: True)
full_row = each(lambda row: not row.brief)
updatable = each(lambda row: row.update == OK)
not_updatable = each(lambda row: row.update != OK)
detachable = each(lambda row: row.detach == OK)
not_detachable = each(lambda row: row.detach != OK)


def update(link: Link, new: Program | Map) -> None:
    """Put another program, or another struct_ops map, in place of the present one."""
    if isinstance(new, Map):
        link.update_map(new)
    else:
        link.update(new)


def update_wrongly(link: Link, fd: int, *, flags: int = 0, old: int = 0) -> None:
    """Ask the kernel for an update as libbpf would not: descriptors and flags as they are given."""
    options = LinkUpdateOptions(flags=flags, old_prog_fd=old)
    libbpf.call("bpf_link_update", link.fd, fd, ctypes.byref(options), doing="update")


def exchange(link: Link, new: Program | Map, *, old: Program | Map) -> None:
    """Update it if the present program is the one that is said to be."""
    update_wrongly(link, new.fd, flags=_REPLACE, old=old.fd)


def require_detached(link: Link, stage: Stage, row: Row) -> None:
    """Assert that a link has lost its target, and answers still."""
    info = link.info
    assert (info.id, info.prog_id) == (link.id, stage.prog_id)
    assert {name: getattr(info, name) for name in row.detached} == row.detached


def own_holders(link: Link) -> set[int]:
    """Descriptors of this process that hold a link; anybody else's would be a failure."""
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
    """Start a process that has a link's descriptor, and kill it in the end."""
    with subprocess.Popen(_SLEEP, pass_fds=[link.fd]) as process:
        try:
            yield process
        finally:
            process.kill()
