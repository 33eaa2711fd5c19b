"""Maps that are no plain hashes: of CPUs, of slots, without keys, without types."""

from __future__ import annotations

import errno
import os
import socket
import sys
from typing import TYPE_CHECKING

import pytest

from pytest_bpflink import BpfError, KernelInfo, MapType
from pytest_bpflink.bpf.maps.map_elements import PerCpuCodec

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_bpflink import Map, NetNs, Object

NO_PREALLOC = 1
PACKET = bytes(64)


@pytest.fixture
def loaded(bpf_object: Callable[..., Object]) -> Object:
    return bpf_object("progs/map_kinds.bpf.c")


@pytest.fixture
def traffic(loaded: Object) -> Map:
    return loaded.map("traffic")


@pytest.fixture
def cpus() -> int:
    with open("/sys/devices/system/cpu/possible") as possible:
        return int(possible.read().rpartition("-")[2]) + 1


def test_value_of_each_cpu(loaded: Object, traffic: Map, cpus: int) -> None:
    for cpu in (min(os.sched_getaffinity(0)), max(os.sched_getaffinity(0))):
        before = os.sched_getaffinity(0)
        os.sched_setaffinity(0, {cpu})
        try:
            loaded.program("jump").run(PACKET, repeat=3)
        finally:
            os.sched_setaffinity(0, before)
        assert traffic[5][cpu]["packets"] >= 3
    assert len(traffic[5]) == cpus
    assert traffic.total(5) == {"packets": 6, "bytes": [2, 3]}
    assert dict(traffic) == {5: traffic[5]}


def test_one_value_for_all_cpus(traffic: Map, cpus: int) -> None:
    traffic[1] = {"packets": 2, "bytes": [3, 4]}
    assert traffic[1] == [{"packets": 2, "bytes": [3, 4]}] * cpus
    assert traffic.total(1) == {"packets": 2 * cpus, "bytes": [3 * cpus, 4 * cpus]}


def test_list_of_values_of_an_odd_size(loaded: Object, cpus: int) -> None:
    odd = loaded.map("odd")
    values = [[cpu, 1, 2] for cpu in range(cpus)]
    odd[1] = values
    assert odd[1] == values
    assert odd[0] == [[0, 0, 0]] * cpus
    odd[0] = (7, 8, 9)
    assert odd[0] == [[7, 8, 9]] * cpus


def test_values_of_cpus_are_eight_bytes_apart() -> None:
    """The kernel would write behind a shorter buffer."""
    codec = PerCpuCodec(None, 0, 3, cpus=2)
    assert codec.buffer_size == 16
    assert codec.encode([b"abc", b"def"]) == b"abc\0\0\0\0\0def\0\0\0\0\0"
    assert codec.decode(b"abc\0\0\0\0\0def\0\0\0\0\0") == [b"abc", b"def"]


def test_list_for_another_number_of_cpus(traffic: Map, cpus: int) -> None:
    with pytest.raises(TypeError) as raised:
        traffic[1] = [{"packets": 1}] * (cpus + 1)
    assert str(raised.value) == (
        f"{cpus + 1} values where a per-CPU map takes a list of {cpus}, one for each possible CPU,"
        " or one value for all"
    )


def test_total_of_a_map_of_another_type(loaded: Object) -> None:
    with pytest.raises(TypeError, match="map jumps is no per-CPU map, it has one value for a key"):
        loaded.map("jumps").total(0)


def test_queue_and_stack(loaded: Object) -> None:
    queue, stack = loaded.map("queue"), loaded.map("stack")
    for each in (queue, stack):
        for number in (1, 2, 3):
            each.push(number)
        with pytest.raises(BpfError) as raised:
            each.push(4)
        assert raised.value.errno == errno.E2BIG
    assert (queue.peek(), queue.pop(), queue.pop(), queue.pop()) == (1, 1, 2, 3)
    assert (stack.peek(), stack.pop(), stack.pop(), stack.pop()) == (3, 3, 2, 1)
    for use in (queue.pop, queue.peek, stack.pop, stack.peek):
        with pytest.raises(IndexError, match=r"map (queue|stack) is empty"):
            use()


def test_full_queue_loses_the_oldest(loaded: Object) -> None:
    queue = loaded.map("queue")
    for number in (1, 2, 3, 4):
        queue.push(number, exist=True)
    assert [queue.pop(), queue.pop(), queue.pop()] == [2, 3, 4]


@pytest.mark.skipif(KernelInfo().version < (5, 16), reason="bloom filters came with 5.16")
def test_bloom_filter(bpf_object: Callable[..., Object]) -> None:
    bloom = bpf_object("progs/bloom.bpf.c").map("filter")
    bloom.push(7)
    assert 7 in bloom
    assert any(number not in bloom for number in range(8, 40))


def test_program_in_a_slot(loaded: Object) -> None:
    jumps, jump = loaded.map("jumps"), loaded.program("jump")
    assert jump.run(PACKET).retval == 1
    jumps[0] = loaded.program("jumped")
    assert jump.run(PACKET).retval == 23
    assert dict(jumps) == {0: loaded.program("jumped").id}
    del jumps[0]
    assert jump.run(PACKET).retval == 1
    assert dict(jumps) == {}


def test_map_in_a_map(loaded: Object) -> None:
    outer, inner = loaded.map("outer"), loaded.map("inner")
    outer[3] = inner
    assert dict(outer) == {3: inner.id}


def test_device_in_a_map(loaded: Object, netns: NetNs) -> None:
    devices = loaded.map("devices")
    with netns.entered():
        devices[1] = netns.lo
        assert dict(devices) == {1: netns.lo.ifindex}


def test_socket_in_a_map(loaded: Object) -> None:
    sockets = loaded.map("sockets")
    with socket.create_server(("127.0.0.1", 0)) as server:
        sockets[4] = server
        assert list(sockets) == [4]


def test_update_of_an_entry_that_must_exist(traffic: Map) -> None:
    traffic[3] = {"packets": 3}
    traffic.update(3, {"packets": 4}, exist=True)
    assert traffic[3][0]["packets"] == 4
    with pytest.raises(BpfError) as raised:
        traffic.update(9, {"packets": 5}, exist=True)
    assert raised.value.errno == errno.ENOENT
    assert 9 not in traffic


def test_update_of_an_entry_that_must_not_exist(traffic: Map) -> None:
    traffic.update(3, {"packets": 3}, exist=False)
    with pytest.raises(BpfError) as raised:
        traffic.update(3, {"packets": 4}, exist=False)
    assert raised.value.errno == errno.EEXIST
    assert traffic[3][0]["packets"] == 3
    traffic.update(3, {"packets": 5})
    assert traffic[3][0]["packets"] == 5


@pytest.mark.skipif(KernelInfo().version < (5, 14), reason="it came with 5.14 for hashes")
def test_lookup_and_delete(loaded: Object) -> None:
    untyped = loaded.map("untyped")
    untyped[7] = b"twelve bytes"
    assert untyped.lookup_and_delete(7) == b"twelve bytes"
    assert dict(untyped) == {}
    with pytest.raises(KeyError, match="7"):
        untyped.lookup_and_delete(7)


def test_what_a_map_is(loaded: Object) -> None:
    untyped = loaded.map("untyped")
    assert untyped.type is MapType.HASH
    assert (untyped.max_entries, untyped.flags) == (4, NO_PREALLOC)
    assert (untyped.key_size, untyped.value_size) == (2, 12)


@pytest.mark.parametrize(("key", "error"), [(b"seven", TypeError), (1 << 16, OverflowError)])
def test_key_without_a_type(loaded: Object, key: object, error: type[Exception]) -> None:
    untyped = loaded.map("untyped")
    untyped[513] = b"twelve bytes"
    untyped[b"ab"] = b"other bytes."
    assert set(untyped) == {513, int.from_bytes(b"ab", sys.byteorder)}
    with pytest.raises(error):
        untyped[key] = b"twelve bytes"
