"""Links of any type: who may open one, and what its descriptor allows without privilege."""

from __future__ import annotations

import ctypes
import errno
import os
from typing import TYPE_CHECKING

import pytest

from pytest_bpflink import Link, LinkType
from pytest_bpflink.binding import libbpf
from pytest_bpflink.binding.opts import ObjGetOptions
from pytest_bpflink.selftests.conformance.checks import FIRST, NONE, SECOND, full_row, update
from pytest_bpflink.selftests.conformance.outcomes import OK
from pytest_bpflink.selftests.support.stranger import as_stranger

if TYPE_CHECKING:
    from pathlib import Path

    from pytest_bpflink import KernelInfo
    from pytest_bpflink.selftests.conformance.outcomes import Outcomes
    from pytest_bpflink.selftests.conformance.row import Row
    from pytest_bpflink.selftests.conformance.stages import Stage

pytestmark = pytest.mark.guest_only

_READ_ONLY = 1 << 3  # BPF_F_RDONLY


@full_row
def test_refused(link: Link, stage: Stage, row: Row, pin: Path, outcome: Outcomes) -> None:
    """Opening a pin read-only is refused, and so is opening an id without privilege.

    Only a link to an iterator makes a file to read.
    """
    link.pin(pin)
    options = ObjGetOptions(file_flags=_READ_ONLY)
    opened = outcome("open a pin read-only", _open, pin, options)
    assert opened == errno.EINVAL
    assert outcome("open by id, unprivileged", as_stranger, Link.by_id, link.id) == errno.EPERM
    made = outcome("make an iterator", _make_iterator, link)
    assert made == (OK if row.link_type is LinkType.ITER else errno.EINVAL)
    assert stage.ran() == FIRST


@full_row
def test_inheritor(
    link: Link, stage: Stage, row: Row, outcome: Outcomes, bpf_kernel: KernelInfo
) -> None:
    """A descriptor is enough to read a link's info, to update and to detach it, without privilege.

    Before 5.19 `kernel.unprivileged_bpf_disabled` refuses all of bpf(2); since then it allows the
    commands that take a descriptor (c8644cd0efe7).
    """
    refused = bpf_kernel.version < (5, 19)

    def allowed(result: int) -> int:
        return errno.EPERM if refused else result

    def ask() -> object:
        return link.info

    assert outcome("info, unprivileged", as_stranger, ask) == allowed(OK)
    updated = outcome("update, unprivileged", as_stranger, update, link, stage.second)
    assert updated == allowed(row.update)
    assert stage.ran() == (SECOND if updated == OK else FIRST)
    detached = outcome("detach, unprivileged", as_stranger, link.detach)
    assert detached == allowed(row.detach)
    if detached == OK:
        assert stage.ran() == NONE


def _open(pin: Path, options: ObjGetOptions) -> None:
    doing = f"open {pin} read-only"
    os.close(libbpf.call("bpf_obj_get_opts", os.fsencode(pin), ctypes.byref(options), doing=doing))


def _make_iterator(link: Link) -> None:
    os.close(libbpf.call("bpf_iter_create", link.fd, doing="make an iterator"))
