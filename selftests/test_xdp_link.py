"""The kernel's `xdp_link`: one XDP program per device and mode, by a link or without.

Ported from tools/testing/selftests/bpf/prog_tests/xdp_link.c (Linux 5.9).

Beyond upstream, each refusal's errno, another mode than the present program's, devices without a
native mode, and that programs run.

Elsewhere: updates, detaching and info are in the conformance rows xdp-native, xdp-generic and
xdp-dummy.
"""

from __future__ import annotations

import contextlib
import errno
from functools import partial
from typing import TYPE_CHECKING

import pytest

from pytest_bpflink import BpfError, XdpFlags, XdpLinkInfo
from pytest_bpflink.binding import libbpf
from pytest_bpflink.selftests.conformance.network_stages import (
    DRV_MODE,
    SKB_MODE,
    OnDevice,
    OnDummy,
    send_frame,
)
from pytest_bpflink.selftests.support.absence import MACVLAN, VETH, made_or_absent

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_bpflink import Device, Program

pytestmark = pytest.mark.guest_only

_FIRST, _SECOND = (True, False), (False, True)


@pytest.fixture
def stage(request: pytest.FixtureRequest) -> OnDevice:
    """A pair of veth devices; the second sends."""
    make = partial(OnDevice, request, "on_xdp", sender=1)
    return made_or_absent(request.config, "veth", make, options=VETH)


@pytest.fixture
def device(stage: OnDevice) -> Device:
    target: Device = stage.device
    return target


@pytest.fixture
def first(stage: OnDevice) -> Program:
    return stage.object.program("on_xdp")


@pytest.fixture
def second(stage: OnDevice) -> Program:
    return stage.object.program("on_xdp_alt")


@pytest.fixture
def legacy(device: Device, first: Program) -> Iterator[Program]:
    """The first program, attached over netlink."""
    _attach(device, first.fd)
    yield first
    _detach(device)


def test_netlink_refuses_link(
    legacy: Program, second: Program, device: Device, stage: OnDevice
) -> None:
    """A link beside a program attached over netlink is EBUSY, to this program and to another."""
    for program in (legacy, second):
        with pytest.raises(BpfError) as refused:
            program.attach(device)
        assert refused.value.errno == errno.EBUSY
    assert stage.ran() == _FIRST


def test_link_refuses_netlink(stage: OnDevice, device: Device, second: Program) -> None:
    """Netlink can neither replace nor detach the program of a link: EBUSY."""
    link = stage.attach()
    for change in (partial(_attach, device, second.fd), partial(_detach, device)):
        with pytest.raises(BpfError) as refused:
            change()
        assert refused.value.errno == errno.EBUSY
    assert stage.ran() == _FIRST
    assert link.info == XdpLinkInfo(link.id, stage.prog_id, device.ifindex)


def test_link_refuses_link(stage: OnDevice, device: Device, second: Program) -> None:
    """A second link is EBUSY, until the first is detached."""
    link = stage.attach()
    with pytest.raises(BpfError) as refused:
        second.attach(device)
    assert refused.value.errno == errno.EBUSY
    assert stage.ran() == _FIRST

    link.detach()
    with second.attach(device):
        assert stage.ran() == _SECOND


@pytest.mark.parametrize("held", ["native", "generic"])
@pytest.mark.parametrize("by", ["link", "netlink"])
def test_other_mode(
    stage: OnDevice, device: Device, first: Program, second: Program, held: str, by: str
) -> None:
    """A link in another mode than the present program's is EEXIST, and so is a program."""
    present, wanted = (DRV_MODE, SKB_MODE) if held == "native" else (SKB_MODE, DRV_MODE)
    with contextlib.ExitStack() as undo:
        if by == "link":
            undo.enter_context(first.attach(device, **present))
        else:
            _attach(device, first.fd, **present)
            undo.callback(_detach, device, **present)
        for attach in (partial(second.attach, device), partial(_attach, device, second.fd)):
            with pytest.raises(BpfError) as refused:
                attach(**wanted)
            assert refused.value.errno == errno.EEXIST
        assert stage.ran() == _FIRST
    with second.attach(device, **wanted):
        assert stage.ran() == _SECOND


@pytest.mark.usefixtures("own_target")
def test_device_without_native_mode(request: pytest.FixtureRequest) -> None:
    """A dummy device refuses the native mode, EOPNOTSUPP; by default it has the generic mode.

    In the generic mode the program sees what the device receives, and nothing that it sends.
    """
    make = partial(OnDummy, request, "on_xdp")
    stage = made_or_absent(request.config, "dummy", make, options=MACVLAN)
    with pytest.raises(BpfError) as refused:
        stage.object.program("on_xdp").attach(stage.device, **DRV_MODE)
    assert refused.value.errno == errno.EOPNOTSUPP
    stage.attach()
    assert stage.ran() == _FIRST

    before = stage.counts()
    send_frame(stage.device)
    assert stage.counts() == before

    with pytest.raises(BpfError) as refused:
        stage.object.program("on_xdp_alt").attach(stage.device, **SKB_MODE)
    assert refused.value.errno == errno.EBUSY  # EEXIST if the present link were in another mode


def test_impossible_flags(device: Device, first: Program) -> None:
    """Two modes at once, and netlink's own flags, are EINVAL."""
    for flags in (XdpFlags.SKB_MODE | XdpFlags.DRV_MODE, XdpFlags(1)):
        with pytest.raises(BpfError) as refused:
            first.attach(device, flags=flags)
        assert refused.value.errno == errno.EINVAL


@pytest.mark.usefixtures("own_target")
def test_device_gone(stage: OnDevice, device: Device, second: Program) -> None:
    """When its device goes a link loses the device's index at once, and an update is ENOLINK."""
    link = stage.attach()
    device.remove()
    assert link.info == XdpLinkInfo(link.id, stage.prog_id, 0)
    with pytest.raises(BpfError) as refused:
        link.update(second)
    assert refused.value.errno == errno.ENOLINK


def _attach(device: Device, fd: int, *, flags: int = 0) -> None:
    with device.netns.entered():
        libbpf.call("bpf_xdp_attach", device.ifindex, fd, flags, None, doing="attach over netlink")


def _detach(device: Device, *, flags: int = 0) -> None:
    with device.netns.entered():
        libbpf.call("bpf_xdp_detach", device.ifindex, flags, None, doing="detach over netlink")
