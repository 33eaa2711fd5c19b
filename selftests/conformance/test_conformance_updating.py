"""Links of any type: which updates one takes, and which mistake an update returns first."""

from __future__ import annotations

import errno
import itertools
import threading
import time
from typing import TYPE_CHECKING

import pytest

from pytest_bpflink import LinkType, Program
from pytest_bpflink.selftests.conformance.checks import (
    FIRST,
    NONE,
    SECOND,
    each,
    exchange,
    full_row,
    not_updatable,
    updatable,
    update,
    update_wrongly,
)
from pytest_bpflink.selftests.conformance.outcomes import OK

if TYPE_CHECKING:
    from pytest_bpflink import KernelInfo, Link
    from pytest_bpflink.selftests.conformance.outcomes import Outcomes
    from pytest_bpflink.selftests.conformance.row import Row
    from pytest_bpflink.selftests.conformance.stages import Stage

pytestmark = pytest.mark.guest_only

_UNKNOWN_FLAG = 1 << 31
_REPLACE = 1 << 2
_NOT_OPEN = 10**6
_PACKETS, _UPDATES = 100, 30  # at least


@updatable
def test_update(link: Link, stage: Stage, outcome: Outcomes) -> None:
    """After an update the link is the same, and the second program runs instead of the first.

    A compare-exchange whose old program is not the present one is EPERM.
    """
    assert outcome("update", update, link, stage.second) == OK
    assert stage.ran() == SECOND
    assert link.info.id == link.id
    if isinstance(stage.second, Program):
        assert link.info.prog_id == stage.second.id

    wrong = outcome("update from a wrong program", exchange, link, stage.first, old=stage.first)
    assert wrong == errno.EPERM
    assert stage.ran() == SECOND
    right = outcome("update from the right program", exchange, link, stage.first, old=stage.second)
    assert right == OK
    assert stage.ran() == FIRST

    link.destroy()
    assert stage.ran() == NONE


@not_updatable
def test_update_refused(link: Link, stage: Stage, row: Row, outcome: Outcomes) -> None:
    """A link that can't be updated returns the row's errno, and its program runs on."""
    assert outcome("update", update, link, stage.second) == row.update
    assert stage.ran() == FIRST


@each(lambda row: row.counts_packets)
def test_no_packet_missed(link: Link, stage: Stage) -> None:
    """While a link is updated over and over, exactly one of the two programs sees each packet."""
    packets, updates = 0, 0
    before, done = stage.counts(), threading.Event()

    def swap() -> None:
        nonlocal updates
        for new in itertools.cycle((stage.second, stage.first)):
            if done.is_set():
                return
            update(link, new)
            updates += 1

    swapping = threading.Thread(target=swap)
    swapping.start()
    try:
        while (packets < _PACKETS or updates < _UPDATES) and swapping.is_alive():
            stage.trigger()
            packets += 1
            time.sleep(0.001)  # lets the other thread update, which waits for grace periods
    finally:
        done.set()
        swapping.join()
    first, second = (now - then for now, then in zip(stage.counts(), before, strict=True))
    assert first + second == packets
    assert updates >= _UPDATES
    assert min(first, second) > 0


@each(lambda row: row.sibling)
def test_update_to_other_attach_type(
    link: Link, stage: Stage, row: Row, outcome: Outcomes, bpf_kernel: KernelInfo
) -> None:
    """A program of the same type for another hook is refused, or runs where it is not meant to."""
    source, name = row.sibling
    others = stage.load(source, name, f"{name}_alt")
    before = others.bss[f"{name}_calls"]
    sibling = others.program(name)
    result = outcome("update to another attach type", update, link, sibling)
    assert result == row.takes_sibling(bpf_kernel)
    assert link.info.prog_id == (stage.prog_id if result else sibling.id)
    assert stage.ran() == (FIRST if result else NONE)
    assert (others.bss[f"{name}_calls"] > before) is (not result)
    link.destroy()
    assert stage.ran() == NONE


@each(lambda row: row.retargeted)
def test_update_to_other_target(link: Link, stage: Stage, row: Row, outcome: Outcomes) -> None:
    """A program for the same hook that names another target is refused, and the first runs on."""
    source, name = row.retargeted
    if row.link_type is LinkType.STRUCT_OPS:
        result = outcome("update to another target", update, link, stage.object.map(name))
    else:
        with stage.load_anew(source, name) as others:
            result = outcome("update to another target", update, link, others.program(name))
    assert result == row.takes_retargeted
    assert link.info.prog_id == stage.prog_id
    assert stage.ran() == FIRST


@full_row
def test_wrong_updates(link: Link, stage: Stage, row: Row, outcome: Outcomes) -> None:
    """A program of another type is refused, and the present program runs on.

    For every type an unknown flag is EINVAL and a bad descriptor of the new program EBADF, detached
    or not: the kernel checks both before it calls the type's own code.
    """
    other = stage.of_other_type()
    result = outcome("update to another program type", update_wrongly, link, other.fd)
    assert result == (row.update or errno.EINVAL)
    assert stage.ran() == FIRST
    for state in ("", " when detached") if row.detach == OK else ("",):
        for mistake, expected, fd, options in (
            ("with an unknown flag", errno.EINVAL, _NOT_OPEN, {"flags": _UNKNOWN_FLAG}),
            ("to a bad descriptor", errno.EBADF, _NOT_OPEN, {"old": stage.first.fd}),
            ("with an old program, no flag", errno.EINVAL, stage.second.fd, {"old": _NOT_OPEN}),
        ):
            operation = f"update {mistake}{state}"
            assert outcome(operation, update_wrongly, link, fd, **options) == expected
        if not state:
            assert stage.ran() == FIRST
            if row.detach == OK:
                link.detach()


@each(lambda row: row.precedence)
def test_which_error_wins(link: Link, stage: Stage, row: Row, outcome: Outcomes) -> None:
    """An update with several mistakes returns the one that is first in the row's `precedence`."""
    mistaken, other = stage.second, stage.of_other_type()
    ways = {
        frozenset({errno.EPERM}): (stage.second.fd, mistaken.fd),
        frozenset({errno.EINVAL}): (other.fd, stage.first.fd),
        frozenset({errno.EPERM, errno.EINVAL}): (other.fd, mistaken.fd),
    }
    for gone in (set(), {errno.ENOLINK}) if row.detach == OK else (set(),):
        if gone:
            link.detach()
        for wrong, (new, old) in ways.items():
            expected = next(number for number in row.precedence if number in wrong | gone)
            names = " + ".join(sorted(errno.errorcode[one] for one in wrong | gone))
            result = outcome(f"{names}", update_wrongly, link, new, flags=_REPLACE, old=old)
            assert result == expected, names
