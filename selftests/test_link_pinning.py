"""The kernel's `link_pinning`: a pin keeps a link, and so does a descriptor, without the other.

Ported from tools/testing/selftests/bpf/prog_tests/link_pinning.c (Linux 5.7), in its six steps.
Beyond upstream, tests assert that the pin's file is gone after unpin, who exactly holds the link at
each step, and that the link's id is gone at the end.
"""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

import pytest

from pytest_bpflink import BpfError, DescriptorHolder, Link, PinHolder, eventually
from pytest_bpflink.selftests.support.witness import SyscallWitness

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pytest_bpflink import BpfFs

pytestmark = pytest.mark.parametrize(
    "program",
    [
        "pin_raw_tp",
        pytest.param("pin_tp_btf", marks=pytest.mark.bpf_requires("attach:trace_raw_tp")),
    ],
)


@pytest.fixture
def witness(program: str) -> Iterator[SyscallWitness]:
    with SyscallWitness.of(program) as loaded:
        yield loaded


@pytest.fixture
def link(witness: SyscallWitness, bpf_link: Callable[..., Link], program: str) -> Link:
    return bpf_link(witness.object.program(program))


def test_attach(link: Link, witness: SyscallWitness) -> None:
    """Step 1: the program runs while the descriptor is held, which is the link's only holder."""
    assert witness.runs()
    assert _holders(link) == {_own(link.fd)}


def test_pin(link: Link, witness: SyscallWitness, bpffs: BpfFs) -> None:
    """Steps 2 and 3: a pinned program runs, and after `destroy()` the pin alone keeps the link."""
    pin = bpffs / "link"
    link.pin(pin)

    assert link.pin_path == pin
    assert pin.exists()
    assert witness.runs()
    assert _holders(link) == {_own(link.fd), PinHolder(pin)}

    link.destroy()

    assert witness.runs()
    assert _holders(link) == {PinHolder(pin)}


def test_open_pinned(link: Link, witness: SyscallWitness, bpffs: BpfFs) -> None:
    """Step 4: a link opened from its pin is the same link, and knows its pin."""
    pin, before = bpffs / "link", link.info
    link.pin(pin)
    link.destroy()

    with Link.open(pin) as opened:
        assert opened.pin_path == pin
        assert opened.info == before
        assert _holders(opened) == {_own(opened.fd), PinHolder(pin)}
        assert witness.runs()


def test_unpin(link: Link, witness: SyscallWitness, bpffs: BpfFs) -> None:
    """Steps 5 and 6: after unpin only the descriptor keeps the link, whose close ends it."""
    pin = bpffs / "link"
    link.pin(pin)
    link.destroy()

    with Link.open(pin) as opened:
        opened.unpin()

        assert not pin.exists()
        assert opened.pin_path is None
        assert witness.runs()
        assert _holders(opened) == {_own(opened.fd)}

    # At once on most kernels; on 5.10 a link that was pinned ends about 10 ms later.
    eventually(witness.stopped, what="the program stops after unpin and destroy")
    eventually(lambda: _is_gone(link.id), what="the link's id is gone")
    assert _holders(link) == set()


def _holders(link: Link) -> set[object]:
    return set(link.holders())


def _own(fd: int) -> DescriptorHolder:
    with open("/proc/self/comm", encoding="utf-8") as name:
        return DescriptorHolder(os.getpid(), fd, name.read().strip())


def _is_gone(link_id: int) -> bool:
    try:
        Link.by_id(link_id).destroy()
    except BpfError as error:
        assert error.errno == errno.ENOENT  # noqa: PT017 - the other errno would be the failure
        return True
    return False
