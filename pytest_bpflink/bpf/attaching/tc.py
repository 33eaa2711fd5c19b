"""Attaching to traffic control (tc) as before tcx: by a filter in the clsact qdisc of a device.

A filter is no BPF link: no descriptor and no pin holds the program, but the filter itself.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
from typing import TYPE_CHECKING, Self

from pytest_bpflink.binding import libbpf
from pytest_bpflink.binding.opts import TcHook, TcOptions
from pytest_bpflink.binding.uapi import Direction, ProgType
from pytest_bpflink.bpf.handles import require_program
from pytest_bpflink.errors import BpfError, WrongArgument
from pytest_bpflink.introspection.ids import note_made
from pytest_bpflink.introspection.tc_filters import has_filters

if TYPE_CHECKING:
    from pytest_bpflink.bpf.handles import DeviceHandle, ProgramHandle


class TcFilter:
    """A program in a classic tc filter, the legacy way to attach: there is no BPF link.

    It outlives its process, and lasts until `detach()`, the end of a `with` block, `NetNs.close()`
    of the namespace through which its device was found, or the device's end.
    """

    def __init__(
        self, device: DeviceHandle, name: str, direction: Direction, priority: int, handle: int
    ) -> None:
        self._device = device
        self._name = name
        self.direction = direction
        """Whether the program sees received packets or those to be sent."""
        self.priority = priority
        """The filter's place: the lowest number is first. The kernel's choice where none was given.
        """
        self.handle = handle
        """The filter's number among those of one priority."""
        self._attached = True
        device.netns.before_closing.append(self._clean_up)

    def detach(self) -> None:
        """Remove the filter, and the clsact qdisc if it was made for a filter and has none left.

        Does nothing a second time. Raises `BpfError`: ENOENT, or EINVAL where the qdisc is gone,
        for a filter that somebody else removed; ENODEV after the device is gone.
        """
        if not self._attached:
            return
        self._attached = False
        device = self._device
        device.netns.before_closing.remove(self._clean_up)
        hook = TcHook(ifindex=device.ifindex, attach_point=self.direction)
        filter_ = TcOptions(handle=self.handle, priority=self.priority)
        with device.netns.entered():
            libbpf.call(
                "bpf_tc_detach",
                ctypes.byref(hook),
                ctypes.byref(filter_),
                doing=f"detach {self._name}",
            )
            if device.ifindex in device.netns.clsact and not has_filters(device.ifindex):
                device.netns.clsact.discard(device.ifindex)
                hook = TcHook(ifindex=device.ifindex, attach_point=_CLSACT)
                doing = f"remove the clsact qdisc of {device}"
                libbpf.call("bpf_tc_hook_destroy", ctypes.byref(hook), doing=doing)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.detach()

    def __repr__(self) -> str:
        where = f"{self.direction.name}, priority {self.priority}, handle {self.handle}"
        return f"<TcFilter {self._name}, {where}{'' if self._attached else ' detached'}>"

    def _clean_up(self) -> None:
        with contextlib.suppress(BpfError):  # a test may have removed it, or the device
            self.detach()


_CLSACT = Direction.INGRESS | Direction.EGRESS


def tc_attach(
    device: DeviceHandle,
    program: ProgramHandle,
    *,
    direction: Direction,
    priority: int = 0,
    handle: int = 0,
) -> TcFilter:
    """Attach by a filter; see `Device.tc_attach()`."""
    require_program(program, f"attach to {device} by a tc filter")
    name = f"{program.name} to {device} by a tc filter"
    if program.type is not ProgType.SCHED_CLS:
        hint = f'it takes a program in SEC("tc"), and this one is of {program.type.name}'
        raise WrongArgument(f"attach {name}", hint=hint)
    if not isinstance(direction, Direction):
        hint = f"direction is Direction.INGRESS or EGRESS, not {direction!r}"
        raise WrongArgument(f"attach {name}", hint=hint)
    hook = TcHook(ifindex=device.ifindex, attach_point=direction)
    options = TcOptions(prog_fd=program.fd, handle=handle, priority=priority)
    with device.netns.entered():
        _make_clsact(device, hook)
        note_made("program", program.id)  # the filter alone may keep it alive
        try:
            libbpf.call(
                "bpf_tc_attach", ctypes.byref(hook), ctypes.byref(options), doing=f"attach {name}"
            )
        except BpfError as error:
            if error.errno == errno.EEXIST:
                error.hint = f"priority {priority} has a filter with handle {handle} already"
            raise
    return TcFilter(device, name, direction, options.priority, options.handle)


def _make_clsact(device: DeviceHandle, hook: TcHook) -> None:
    """Make the qdisc with both hooks, unless the device has one."""
    doing = f"make a clsact qdisc on {device}"
    made = libbpf.call("bpf_tc_hook_create", ctypes.byref(hook), doing=doing, answer=errno.EEXIST)
    if made == 0:
        device.netns.clsact.add(device.ifindex)
