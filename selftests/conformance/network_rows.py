"""Rows for network namespaces, devices, netfilter and maps of sockets."""

from __future__ import annotations

import errno
import socket
from typing import TYPE_CHECKING, Any

from pytest_bpflink import AttachType, LinkType
from pytest_bpflink.selftests.conformance import network_stages as network
from pytest_bpflink.selftests.conformance.outcomes import OK
from pytest_bpflink.selftests.conformance.row import TARGET_FIRST, TARGET_LAST, Row, always, row_of
from pytest_bpflink.selftests.support.absence import MACVLAN, VETH

if TYPE_CHECKING:
    from pytest_bpflink.selftests.conformance import stages


def _netns(name: str, stage: type[stages.Stage], attach_type: AttachType, **more: Any) -> Row:
    return row_of(
        name,
        LinkType.NETNS,
        stage,
        more.pop("since"),
        info=lambda it: {"netns_ino": it.netns.ino, "attach_type": attach_type},
        update=OK,
        detach=OK,
        detached={"netns_ino": 0},
        precedence=TARGET_LAST,
        many_targets=True,
        counts_packets=True,
        target_ends=True,
        **more,
    )


def _device(name: str, link_type: LinkType, since: str, program: str, **more: Any) -> Row:
    attach_type = more.pop("attach_type", None)
    holder = more.pop("holder", "device")
    stage = more.pop("stage", network.OnDevice)
    extra = {} if attach_type is None else {"attach_type": attach_type}
    return row_of(
        name,
        link_type,
        stage,
        since,
        program=program,
        # A netkit peer's program is attached through the primary, and the info names the peer.
        info=lambda stage: {"ifindex": getattr(stage, holder).ifindex} | extra,
        update=OK,
        detach=OK,
        detached={"ifindex": 0},
        precedence=TARGET_FIRST,
        many_targets=True,
        target_ends=True,
        counts_packets=True,
        **more,
    )


def _xdp(name: str, **more: Any) -> Row:
    return _device(
        name,
        LinkType.XDP,
        "5.9",
        "xdp",
        again=always(errno.EBUSY),
        alone=True,
        sibling=("net", "on_devmap"),
        **more,
    )


def _ordered(name: str, link_type: LinkType, attach_type: AttachType, **more: Any) -> Row:
    return _device(
        name,
        link_type,
        more.pop("since"),
        name,
        attach_type=attach_type,
        libbpf="1.3",
        again=always(errno.EEXIST),
        distinct=True,
        **more,
    )


NETWORK = [
    _netns(
        "flow_dissector",
        network.Dissected,
        AttachType.FLOW_DISSECTOR,
        since="5.8",
        again=always(errno.E2BIG),
        alone=True,
    ),
    _netns("sk_lookup", network.InNetNs, AttachType.SK_LOOKUP, since="5.9"),
    _xdp("xdp-native", options={"sender": 1} | network.DRV_MODE, config=VETH),
    _xdp("xdp-generic", options={"sender": 1} | network.SKB_MODE, config=VETH),
    # A dummy device has no native mode, so the kernel takes the generic one.
    _xdp("xdp-dummy", stage=network.OnDummy, config=MACVLAN),
    row_of(
        "netfilter",
        LinkType.NETFILTER,
        network.InNetNs,
        "6.4",
        libbpf="1.3",
        options={"pf": socket.AF_INET, "hooknum": 3, "priority": -128},
        info=lambda _stage: {"pf": 2, "hooknum": 3, "priority": -128, "flags": 0},
        update=errno.EOPNOTSUPP,
        detach=OK,
        many_targets=True,
        again=always(errno.EBUSY),
        alone=True,
    ),
    _ordered(
        "tcx_ingress",
        LinkType.TCX,
        AttachType.TCX_INGRESS,
        since="6.6",
        options={"sender": 1},
        config=VETH,
        sibling=("net", "on_tcx_egress"),
        takes_sibling=always(OK),
    ),
    _ordered(
        "tcx_egress",
        LinkType.TCX,
        AttachType.TCX_EGRESS,
        since="6.6",
        options={"sender": 0},
        config=VETH,
        sibling=("net", "on_tcx_ingress"),
        takes_sibling=always(OK),
    ),
    _ordered(
        "netkit_primary",
        LinkType.NETKIT,
        AttachType.NETKIT_PRIMARY,
        since="6.7",
        options={"kind": "netkit", "sender": 0},
        sibling=("net", "on_netkit_peer"),
        takes_sibling=always(OK),
    ),
    _ordered(
        "netkit_peer",
        LinkType.NETKIT,
        AttachType.NETKIT_PEER,
        options={"kind": "netkit", "sender": 1},
        holder="sender",
        since="6.7",
        sibling=("net", "on_netkit_primary"),
        takes_sibling=always(OK),
    ),
]


def _sockmap(name: str, attach_type: AttachType, *, sends: bool, **more: Any) -> Row:
    return row_of(
        name,
        LinkType.SOCKMAP,
        network.Sockets,
        "6.10",
        libbpf="1.5",
        options={"sends": sends},
        info=lambda stage: {"map_id": stage.target.id, "attach_type": attach_type},
        update=OK,
        detach=OK,
        detached={"map_id": 0},
        precedence=TARGET_LAST,
        many_targets=True,
        counts_packets=True,
        again=always(errno.EBUSY),
        alone=True,
        **more,
    )


SOCKMAPS = [
    _sockmap("sk_msg", AttachType.SK_MSG_VERDICT, sends=True),
    _sockmap("sk_skb", AttachType.SK_SKB_VERDICT, sends=False, sibling=("sockmap", "on_stream")),
]
