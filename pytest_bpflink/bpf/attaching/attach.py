"""Attaching to places: cgroups, devices, network namespaces, maps, other programs, iterators."""

from __future__ import annotations

import contextlib
import ctypes
from typing import TYPE_CHECKING

from pytest_bpflink.binding import libbpf, opts
from pytest_bpflink.binding.uapi import AttachFlags, AttachType, IterInfo
from pytest_bpflink.bpf.attaching import attach_events as events
from pytest_bpflink.bpf.attaching.cgroup import Cgroup
from pytest_bpflink.bpf.handles import require_program
from pytest_bpflink.bpf.link import Link, attached, created
from pytest_bpflink.bpf.maps.map import Map

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_bpflink.binding.uapi import XdpFlags
    from pytest_bpflink.bpf.attaching.netns import Device, NetNs
    from pytest_bpflink.bpf.handles import ProgramHandle


def to_cgroup(
    program: ProgramHandle,
    cgroup: Cgroup,
    *,
    flags: int = 0,
    relative: ProgramHandle | Link | None = None,
    expected_revision: int = 0,
) -> Link:
    """Attach to a cgroup (5.7)."""
    name = f"{program.name} on {cgroup.path}"
    doing = f"attach {program.name} to {cgroup.path}"
    arguments = program.pointer, cgroup.fileno()
    if not (flags or relative or expected_revision):
        pointer = libbpf.call("bpf_program__attach_cgroup", *arguments, doing=doing)
    else:
        order = _order(flags=flags, relative=relative, expected_revision=expected_revision)
        options = ctypes.byref(order)
        pointer = libbpf.call("bpf_program__attach_cgroup_opts", *arguments, options, doing=doing)
    return attached(pointer, name)


def to_ordered_device(function: str) -> Callable[..., Link]:
    """Return the way to attach by one of libbpf's functions, for tcx (6.6) or netkit (6.7)."""

    def to_device(
        program: ProgramHandle,
        device: Device,
        *,
        flags: int = 0,
        relative: ProgramHandle | Link | None = None,
        expected_revision: int = 0,
    ) -> Link:
        name = f"{program.name} on {device}"
        order = _order(flags=flags, relative=relative, expected_revision=expected_revision)
        options = ctypes.byref(order)
        with device.netns.entered():
            pointer = libbpf.call(
                function, program.pointer, device.ifindex, options, doing=f"attach {name}"
            )
        return attached(pointer, name)

    return to_device


def _order(
    *, flags: int, relative: ProgramHandle | Link | None, expected_revision: int
) -> opts.OrderOptions:
    """Return the options that give a program its place among the programs of one target."""
    if isinstance(relative, Link):
        flags |= AttachFlags.LINK
    elif relative is not None:
        require_program(relative, "attach before or after another program")
    return opts.OrderOptions(
        flags=flags,
        relative_fd=relative.fd if relative else 0,
        expected_revision=expected_revision,
    )


def to_xdp(program: ProgramHandle, device: Device, *, flags: XdpFlags | int = 0) -> Link:
    """Attach to a device (5.9), before the network stack."""
    name = f"{program.name} on {device}"
    with device.netns.entered():
        if not flags:
            pointer = libbpf.call(
                "bpf_program__attach_xdp", program.pointer, device.ifindex, doing=f"attach {name}"
            )
            return attached(pointer, name)
        # bpf_program__attach_xdp() takes no flags.
        return _create(program, device.ifindex, AttachType.XDP, name, flags=flags)


def to_netns(program: ProgramHandle, netns: NetNs) -> Link:
    """Attach a flow dissector or sk_lookup program to a network namespace (5.8)."""
    name = f"{program.name} on {netns}"
    pointer = libbpf.call(
        "bpf_program__attach_netns", program.pointer, netns.fileno(), doing=f"attach {name}"
    )
    return attached(pointer, name)


def to_netfilter(
    program: ProgramHandle,
    netns: NetNs | None,
    *,
    pf: int,
    hooknum: int,
    priority: int = 0,
    flags: int = 0,
) -> Link:
    """Attach to a netfilter hook (6.4) of a namespace, by default this thread's."""
    name = f"{program.name} on netfilter hook {hooknum} at {priority}"
    options = opts.NetfilterOptions(pf=pf, hooknum=hooknum, priority=priority, flags=flags)
    with netns.entered() if netns else contextlib.nullcontext():
        pointer = libbpf.call(
            "bpf_program__attach_netfilter",
            program.pointer,
            ctypes.byref(options),
            doing=f"attach {name}",
        )
    return attached(pointer, name)


def to_sockmap(program: ProgramHandle, sockets: Map) -> Link:
    """Attach to a map of sockets (6.10)."""
    name = f"{program.name} on {sockets.name}"
    pointer = libbpf.call(
        "bpf_program__attach_sockmap", program.pointer, sockets.fd, doing=f"attach {name}"
    )
    return attached(pointer, name)


def to_iterator(
    program: ProgramHandle,
    target: Map | Cgroup | None,
    *,
    order: int = 0,
    tid: int = 0,
    pid: int = 0,
) -> Link:
    """Attach to the iterator that `SEC()` names (5.8), or to that of one map, cgroup or task."""
    info = IterInfo()
    if isinstance(target, Map):
        info.map_fd = target.fd
    elif isinstance(target, Cgroup):
        info.cgroup.order, info.cgroup.cgroup_fd = order, target.fileno()
    elif tid or pid:
        info.task.tid, info.task.pid = tid, pid
    options = opts.IterOptions(link_info=ctypes.addressof(info), link_info_len=ctypes.sizeof(info))
    name = f"{program.name} over {target or program.section}"
    pointer = libbpf.call(
        "bpf_program__attach_iter", program.pointer, ctypes.byref(options), doing=f"attach {name}"
    )
    return attached(pointer, name)


def to_function(
    program: ProgramHandle, target: ProgramHandle | None, *, function: str = ""
) -> Link:
    """Replace a function of another program, or the function that `SEC()` names."""
    name = f"{program.name} in place of {function or program.section}"
    if target is None:
        return events.as_section_says(program)
    pointer = libbpf.call(
        "bpf_program__attach_freplace",
        program.pointer,
        target.fd,
        function.encode(),
        doing=f"attach {name}",
    )
    return attached(pointer, name)


def _create(
    program: ProgramHandle, target: int, attach_type: AttachType, name: str, *, flags: int
) -> Link:
    """`BPF_LINK_CREATE` itself."""
    options = opts.LinkCreateOptions(flags=flags)
    fd = libbpf.call(
        "bpf_link_create",
        program.fd,
        target,
        attach_type,
        ctypes.byref(options),
        doing=f"attach {name}",
    )
    return created(fd, name)
