"""Programs that run by themselves, on packets and contexts of the tests."""

from __future__ import annotations

import errno
import socket
import sys
from typing import TYPE_CHECKING

import pytest

from pytest_bpflink import (
    BpfError,
    KernelInfo,
    NotSupported,
    ProgType,
    RunFlags,
    TcAction,
    Verdict,
    XdpAction,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_bpflink import NetNs, Object, Program

PACKET = bytes(range(64))

_ALL = socket.htons(3)  # ETH_P_ALL


@pytest.fixture
def loaded(bpf_object: Callable[..., Object]) -> Object:
    return bpf_object("progs/runs.bpf.c")


@pytest.fixture
def xdp(loaded: Object) -> Program:
    return loaded.program("prepend")


def test_xdp_changes_a_packet(xdp: Program) -> None:
    result = xdp.run(PACKET)
    assert result.retval is XdpAction.PASS
    assert result.data == b"\x07" + PACKET
    assert result.ctx is None


def test_xdp_drops_a_packet(xdp: Program) -> None:
    result = xdp.run(b"\xff" * 14)
    assert result.retval is XdpAction.DROP
    assert result.data == b"\xff" * 14


def test_packet_that_gives_its_bytes(xdp: Program) -> None:
    class Packet:
        def __bytes__(self) -> bytes:
            return PACKET

    for packet in (Packet(), bytearray(PACKET), memoryview(PACKET)):
        assert xdp.run(packet).data == b"\x07" + PACKET


def test_program_runs_as_often_as_asked(loaded: Object) -> None:
    result = loaded.program("prepend").run(b"\xff" * 14, repeat=1000)
    assert loaded.bss["ran"] == 1000
    assert 0 < result.duration < 1_000_000


def test_tc_context_is_typed_both_ways(loaded: Object) -> None:
    """The kernel takes the Ethernet header off before it counts `len`."""
    result = loaded.program("classify").run(bytes(28), ctx={"mark": 6})
    assert loaded.bss["argument"] == 6
    assert result.ctx["mark"] == 8
    assert result.ctx["cb"] == [0, 9, 0, 0, 0]
    assert result.retval in {TcAction.UNSPEC, TcAction.SHOT}


@pytest.mark.parametrize(("length", "retval"), [(14, TcAction.UNSPEC), (15, TcAction.SHOT)])
def test_tc_action(loaded: Object, length: int, retval: TcAction) -> None:
    assert loaded.program("classify").run(bytes(length)).retval is retval


@pytest.mark.parametrize(("length", "retval"), [(54, 0), (55, 1)])
def test_cgroup_skb(loaded: Object, length: int, retval: int) -> None:
    """Behind the Ethernet header are 40 or 41 bytes; the type of an IPv4 packet is asked for."""
    packet = bytes(12) + b"\x08\0" + bytes([0x45]) + bytes(length - 15)
    assert loaded.program("egress").run(packet).retval == retval


def test_socket_filter(loaded: Object) -> None:
    assert loaded.program("filter").run(PACKET).retval in {50, 64}


def test_flow_dissector(loaded: Object) -> None:
    keys = loaded.program("dissect").run(PACKET).data
    assert int.from_bytes(keys[2:4], sys.byteorder) == 30


def test_raw_tracepoint(loaded: Object) -> None:
    result = loaded.program("raw").run(ctx=bytes(8) + (77).to_bytes(8, sys.byteorder))
    assert loaded.bss["argument"] == 77
    assert result.retval == -3
    assert (result.data, result.ctx) == (b"", None)


def test_cpu_that_is_not_there(loaded: Object) -> None:
    with pytest.raises(BpfError) as raised:
        loaded.program("raw").run(ctx=bytes(16), flags=RunFlags.ON_CPU, cpu=1 << 20)
    assert raised.value.errno == errno.ENXIO


@pytest.mark.skipif(KernelInfo().version < (5, 15), reason="XDP contexts came with 5.15")
def test_xdp_context(loaded: Object, netns: NetNs) -> None:
    with netns.entered():
        index = netns.lo.ifindex
        result = loaded.program("prepend").run(PACKET, ctx={"ingress_ifindex": index})
    assert result.ctx["data_end"] - result.ctx["data"] == len(PACKET) + 1
    assert result.ctx["ingress_ifindex"] == index


@pytest.mark.skipif(KernelInfo().version < (5, 18), reason="live frames came with 5.18")
def test_live_frames(loaded: Object, netns: NetNs) -> None:
    """Frames that the program passes go on to the stack, where a socket receives them."""
    with netns.entered(), socket.socket(socket.AF_PACKET, socket.SOCK_RAW, _ALL) as receiver:
        receiver.bind(("lo", 0))
        receiver.settimeout(10)
        loaded.program("prepend").run(
            PACKET, flags=RunFlags.XDP_LIVE_FRAMES, repeat=5, batch_size=2
        )
        frames = [receiver.recv(100) for _ in range(5)]
    assert frames == [b"\x07" + PACKET] * 5
    assert loaded.bss["ran"] == 5


@pytest.mark.skipif(KernelInfo().version < (5, 18), reason="live frames came with 5.18")
def test_batch_of_live_frames_that_is_too_large(xdp: Program) -> None:
    with pytest.raises(BpfError) as raised:
        xdp.run(PACKET, flags=RunFlags.XDP_LIVE_FRAMES, batch_size=257)
    assert raised.value.errno == errno.E2BIG


@pytest.mark.skipif(KernelInfo().version < (5, 14), reason="syscall came with 5.14")
def test_syscall(bpf_object: Callable[..., Object]) -> None:
    result = bpf_object("progs/runs_later.bpf.c").program("add").run(ctx={"left": 3, "right": 4})
    assert result.ctx == {"left": 3, "right": 4, "result": 7}
    assert result.retval == -5


@pytest.mark.skipif(KernelInfo().version < (5, 14), reason="sk_lookup came with 5.13")
@pytest.mark.parametrize(("port", "verdict"), [(80, Verdict.PASS), (81, Verdict.DROP)])
def test_sk_lookup(bpf_object: Callable[..., Object], port: int, verdict: Verdict) -> None:
    program = bpf_object("progs/runs_later.bpf.c").program("lookup")
    assert program.run(ctx={"local_port": port, "family": 2}).retval is verdict


def test_type_that_can_not_run_by_itself(loaded: Object) -> None:
    with pytest.raises(NotSupported) as raised:
        loaded.program("event").run()
    assert raised.value.errno == errno.EOPNOTSUPP
    assert str(raised.value) == (
        "run program event: EOPNOTSUPP (Operation not supported);"
        " the kernel can't run programs of type PERF_EVENT by themselves"
    )
    assert loaded.program("event").type is ProgType.PERF_EVENT


def test_packet_without_a_header(loaded: Object) -> None:
    """XDP programs run on such packets before 5.18 or so."""
    with pytest.raises(BpfError, match="takes a packet with an Ethernet header") as raised:
        loaded.program("classify").run(b"short")
    assert raised.value.errno == errno.EINVAL


@pytest.mark.parametrize("data", [14, "text"])
def test_packet_of_a_wrong_type(xdp: Program, data: object) -> None:
    with pytest.raises(TypeError, match="run program prepend: data is bytes"):
        xdp.run(data)  # type: ignore[arg-type]


def test_field_that_there_is_not(loaded: Object) -> None:
    with pytest.raises(TypeError, match="no member 'marc'; there are: len, pkt_type, mark"):
        loaded.program("classify").run(PACKET, ctx={"marc": 1})
