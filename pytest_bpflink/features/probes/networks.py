"""Probes of links to network namespaces, to devices in them, and to maps of sockets."""

from __future__ import annotations

import ctypes
import errno
import socket
import struct
from functools import partial
from typing import TYPE_CHECKING

from pytest_bpflink.binding import libbpf, opts
from pytest_bpflink.binding.uapi import AttachType, LinkType, MapType, ProgType, XdpFlags
from pytest_bpflink.bpf.attaching.netns import NetNs
from pytest_bpflink.errors import BpfError
from pytest_bpflink.features.probes.program import linked, loaded, new_map, require_run, uncounted

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_bpflink.bpf.attaching.netns import Device

_LOCAL = "127.0.0.1"
_NEXT = -1  # TCX_NEXT, NETKIT_NEXT
_XDP_PASS = 2
_LOCAL_OUT = 3  # NF_INET_LOCAL_OUT


def datagram() -> None:
    """Send a datagram to a closed port."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.sendto(b"probe", (_LOCAL, 9))


def _frame(device: Device) -> None:
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as sender:
        sender.bind((device.name, 0))
        sender.send(bytes(12) + struct.pack("!H", 0x88B5) + bytes(46))


def netns(
    kind: LinkType,
    prog_type: ProgType,
    attach_type: AttachType,
    options: opts.Options | None = None,
    *,
    to: Callable[[NetNs], int],
    returns: int = 1,
) -> Callable[[], None]:
    """Return the probe of a program on a namespace or on its loopback, which a datagram passes."""

    def probe() -> None:
        with (
            loaded(prog_type, attach_type, returns=returns) as program,
            NetNs.create() as made,
            made.entered(),
            linked(program.fd, to(made), attach_type, options) as link,
        ):
            require_run(program, link, kind, datagram)

    return probe


def flow_dissector() -> None:
    """Probe a flow dissector on raw packets.

    EEXIST means that it is there: a flow dissector of the initial namespace excludes others.
    """
    attach_type = AttachType.FLOW_DISSECTOR
    with (
        loaded(ProgType.FLOW_DISSECTOR, attach_type, returns=0) as program,
        NetNs.create() as made,
        made.entered(),
    ):
        try:
            link = linked(program.fd, made.fileno(), attach_type)
        except BpfError as error:
            if error.errno == errno.EEXIST:
                return
            raise
        with link:
            require_run(program, link, LinkType.NETNS, partial(_frame, made.lo))


def netfilter() -> None:
    """Probe a program on a netfilter hook."""
    libbpf.require("bpf_program__attach_netfilter")
    netns(
        LinkType.NETFILTER,
        ProgType.NETFILTER,
        AttachType.NETFILTER,
        opts.NetfilterLinkOptions(pf=socket.AF_INET, hooknum=_LOCAL_OUT, priority=-128),
        to=lambda _netns: 0,
    )()


def netkit(attach_type: AttachType) -> Callable[[], None]:
    """Return the probe of a program on a netkit device, or on its peer."""

    def probe() -> None:
        with (
            loaded(ProgType.SCHED_CLS, attach_type, returns=_NEXT) as program,
            NetNs.create() as made,
        ):
            primary, peer = made.netkit()
            sender = primary if attach_type is AttachType.NETKIT_PRIMARY else peer
            with made.entered(), linked(program.fd, primary.ifindex, attach_type) as link:
                require_run(program, link, LinkType.NETKIT, partial(_frame, sender))

    return probe


def sockmap_link() -> None:
    """Probe a link to a map of sockets: a socket in the map sends."""
    attach_type = AttachType.SK_MSG_VERDICT
    with (
        loaded(ProgType.SK_MSG, attach_type) as program,
        new_map(MapType.SOCKMAP) as sockets,
        linked(program.fd, sockets, attach_type) as link,
    ):
        require_run(program, link, LinkType.SOCKMAP, partial(_send_through, sockets))


def sockmap(prog_type: ProgType, attach_type: AttachType) -> Callable[[], None]:
    """Return the probe of a program that is attached to a map of sockets without a link."""

    def probe() -> None:
        doing = f"attach a program for {attach_type.name} to a map"
        with uncounted(prog_type, attach_type) as program, new_map(MapType.SOCKMAP) as sockets:
            libbpf.call("bpf_prog_attach", program.fd, sockets, attach_type, 0, doing=doing)
            libbpf.call("bpf_prog_detach2", program.fd, sockets, attach_type, doing="detach it")

    return probe


def _send_through(sockets: int) -> None:
    with (
        socket.create_server((_LOCAL, 0)) as server,
        socket.create_connection(server.getsockname()) as sender,
        server.accept()[0] as receiver,
    ):
        key, value = ctypes.c_uint32(0), ctypes.c_uint32(sender.fileno())
        doing = "put a socket into a map"
        libbpf.call(
            "bpf_map_update_elem", sockets, ctypes.byref(key), ctypes.byref(value), 0, doing=doing
        )
        sender.sendall(b"probe")
        receiver.settimeout(1)
        receiver.recv(16)


def _fd(made: NetNs) -> int:
    return made.fileno()


def _lo(made: NetNs) -> int:
    return made.lo.ifindex


def _tcx(attach_type: AttachType) -> Callable[[], None]:
    return netns(LinkType.TCX, ProgType.SCHED_CLS, attach_type, to=_lo, returns=_NEXT)


EFFECTS: dict[AttachType, Callable[[], None]] = {
    AttachType.SK_LOOKUP: netns(LinkType.NETNS, ProgType.SK_LOOKUP, AttachType.SK_LOOKUP, to=_fd),
    AttachType.FLOW_DISSECTOR: flow_dissector,
    AttachType.XDP: netns(
        LinkType.XDP,
        ProgType.XDP,
        AttachType.XDP,
        opts.LinkCreateOptions(flags=XdpFlags.SKB_MODE),
        to=_lo,
        returns=_XDP_PASS,
    ),
    AttachType.NETFILTER: netfilter,
    AttachType.TCX_INGRESS: _tcx(AttachType.TCX_INGRESS),
    AttachType.TCX_EGRESS: _tcx(AttachType.TCX_EGRESS),
    AttachType.NETKIT_PRIMARY: netkit(AttachType.NETKIT_PRIMARY),
    AttachType.NETKIT_PEER: netkit(AttachType.NETKIT_PEER),
}
"""Probes by attach type that see a program run."""

ACCEPTED: dict[AttachType, Callable[[], None]] = {
    AttachType.SK_MSG_VERDICT: sockmap(ProgType.SK_MSG, AttachType.SK_MSG_VERDICT),
    AttachType.SK_SKB_VERDICT: sockmap(ProgType.SK_SKB, AttachType.SK_SKB_VERDICT),
    AttachType.SK_SKB_STREAM_PARSER: sockmap(ProgType.SK_SKB, AttachType.SK_SKB_STREAM_PARSER),
    AttachType.SK_SKB_STREAM_VERDICT: sockmap(ProgType.SK_SKB, AttachType.SK_SKB_STREAM_VERDICT),
}
"""Probes by attach type that attach a program, and do not run it."""
