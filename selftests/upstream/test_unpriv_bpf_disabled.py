"""The kernel's `unpriv_bpf_disabled`: what a process without privilege may do with links.

Ported from tools/testing/selftests/bpf/prog_tests/unpriv_bpf_disabled.c (Linux 5.19), as far as
links go, with the names of its subtests, called by a thread without capabilities.

Beyond upstream, the link that such a process makes is seen to run, and is pinned and opened by
it, and all of that is asked with bpf(2) open to everybody as well.

Elsewhere: descriptors that were inherited, pins by their mode, and links by id with CAP_SYS_ADMIN
are in test_link_lifetime.py, and of every type in conformance/test_conformance_access.py.

Left out: kernels before 5.19 (c8644cd0efe7), which close all of bpf(2) to such a process; maps,
ring and perf buffers, BTF, and queries of programs, which are no matter of links.
"""

from __future__ import annotations

import errno
import os
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pytest_bpflink import (
    AttachType,
    BpfError,
    Link,
    Map,
    MapType,
    PerfEvent,
    eventually,
    link_ids,
)
from pytest_bpflink.selftests.conformance.checks import FIRST, NONE
from pytest_bpflink.selftests.conformance.event_stages import PageFaults
from pytest_bpflink.selftests.support.link_create import link_create
from pytest_bpflink.selftests.support.path_fd import get_at, opened, pin_at
from pytest_bpflink.selftests.support.stranger import as_stranger

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pytest_bpflink import BpfFs

pytestmark = [
    pytest.mark.guest_only,  # it changes a setting of the whole machine
    pytest.mark.kernel(">=5.19"),
    pytest.mark.bpf_requires("link:perf_event", since="5.15"),
    # arm64 warns of what processors leak then.
    pytest.mark.allow_dmesg("WARNING: Unprivileged eBPF is enabled"),
]

_SETTING = Path("/proc/sys/kernel/unprivileged_bpf_disabled")


@pytest.fixture(params=["open", "closed"])
def is_closed(request: pytest.FixtureRequest) -> Iterator[bool]:
    """Open bpf(2) to everybody, or close it to processes without privilege."""
    before = _SETTING.read_text()
    if before.strip() == "1":
        pytest.skip("unprivileged_bpf_disabled is 1, which no process can change")
    _SETTING.write_text("2" if request.param == "closed" else "0")
    yield request.param == "closed"
    _SETTING.write_text(before)


@pytest.fixture
def stage(request: pytest.FixtureRequest) -> PageFaults:
    return PageFaults(request, "on_perf_event")


@pytest.fixture
def make(stage: PageFaults) -> Callable[[], Link]:
    """Make a link of the descriptors of a program and a perf event."""
    program, event = stage.object.program("on_perf_event"), stage.target
    assert isinstance(event, PerfEvent)
    return lambda: link_create(program.fd, AttachType.PERF_EVENT, target=event.fileno())


@pytest.mark.usefixtures("is_closed")
def test_unpriv_bpf_disabled_positive(
    make: Callable[[], Link], stage: PageFaults, bpffs_factory: Callable[..., BpfFs]
) -> None:
    """A link is made and pinned by a process that has descriptors and no privilege."""
    with (
        as_stranger(make) as link,
        bpffs_factory(mode=0o777) as bpffs,
        opened(bpffs) as directory,
    ):
        assert stage.ran() == FIRST
        assert as_stranger(lambda: link.info.prog_id) == stage.prog_id
        # Through the descriptor it needs no right to the directories above the mount.
        pin = f"/proc/self/fd/{directory}/link"
        as_stranger(pin_at, link.fd, pin)
        link.destroy()
        assert stage.ran() == FIRST
        os.close(as_stranger(get_at, pin))
    eventually(lambda: stage.ran() == NONE, what="the program stops after umount")


@pytest.mark.usefixtures("is_closed")
def test_unpriv_bpf_disabled_negative(make: Callable[[], Link], stage: PageFaults) -> None:
    """Ids of links are for CAP_SYS_ADMIN, however bpf(2) is set: EPERM, for each that is asked."""
    with make() as link:
        for ask in (
            lambda: Link.by_id(link.id),
            lambda: Link.by_id(2**31 - 1),
            lambda: next(link_ids()),
            lambda: next(link_ids(after=link.id)),
        ):
            with pytest.raises(BpfError) as refused:
                as_stranger(ask)
            assert refused.value.errno == errno.EPERM
        assert stage.ran() == FIRST


def test_map_create_fails(is_closed: bool) -> None:  # noqa: FBT001 - a fixture
    """The setting is in force: a process without privilege makes a map only if bpf(2) is open."""
    make = partial(Map.create, MapType.ARRAY, key_size=4, value_size=4, max_entries=1)
    if not is_closed:
        as_stranger(make).close()
        return
    with pytest.raises(BpfError) as refused:
        as_stranger(make)
    assert refused.value.errno == errno.EPERM
