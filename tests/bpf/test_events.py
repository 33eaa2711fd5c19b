"""Events that programs write, and events for programs."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
import threading
import time
from typing import TYPE_CHECKING

import pytest

from pytest_bpflink import BpfError, EventsLost, KernelInfo, MapType, UnknownName
from pytest_bpflink.binding.records import RecordDecoder

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pytest_bpflink import Map, Object

PACKET = bytes(range(14))

EVENT = {
    "number": 0,
    "value": -5,
    "kind": 1,
    "is_last": True,
    "name": b"abc",
    "ports": [0, 0, 0, 80],
    "place": {"line": 12, "file": b"x.c"},
}

#: Each map, the program that writes to it, and bytes that the kernel adds to an event.
WAYS = {"ring": ("write_event", 0), "perf": ("write_sample", 4)}


@pytest.fixture
def loaded(bpf_object: Callable[..., Object]) -> Object:
    return bpf_object("progs/events.bpf.c")


@pytest.fixture(params=WAYS)
def filled(request: pytest.FixtureRequest, loaded: Object) -> Map:
    return loaded.map(request.param)


def write(loaded: Object, filled: Map, *, repeat: int = 1) -> None:
    """Have the program of a map write so many events."""
    loaded.program(WAYS[filled.name][0]).run(PACKET, repeat=repeat)


@contextlib.contextmanager
def on_one_cpu() -> Iterator[None]:
    """Keep this thread on the processor that it is on."""
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(allowed)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, allowed)


def test_events_are_typed_and_in_order(loaded: Object, filled: Map) -> None:
    with filled.reading("struct event") as events:
        write(loaded, filled, repeat=3)
        assert list(events) == [EVENT | {"number": number} for number in range(3)]
        assert list(events) == []
        assert events.lost == 0


def test_events_without_a_type_are_bytes(loaded: Object, filled: Map) -> None:
    with filled.reading() as events:
        write(loaded, filled)
        [event] = events
        assert event[:8] == bytes(8)
        assert len(event) == 40 + WAYS[filled.name][1]
        assert events.decode(event, "struct event") == EVENT


def test_iteration_that_ends_early_leaves_the_rest(loaded: Object, filled: Map) -> None:
    with filled.reading("struct event") as events:
        write(loaded, filled, repeat=3)
        for event in events:
            if event["number"] == 1:
                break
        assert events.next()["number"] == 2


def test_next_waits_for_an_event(loaded: Object, filled: Map) -> None:
    with filled.reading("struct event") as events:
        writer = threading.Timer(0.2, write, (loaded, filled))
        writer.start()
        began = time.monotonic()
        assert events.next(within=30) == EVENT
        assert time.monotonic() - began > 0.1
        writer.join()


def test_next_gives_up(filled: Map) -> None:
    with (
        filled.reading() as events,
        pytest.raises(AssertionError, match=f"^no event in map {filled.name} within 0.05 s$"),
    ):
        events.next(within=0.05)


def test_written_without_waking_the_reader(loaded: Object) -> None:
    """BPF_RB_NO_WAKEUP: no poll returns."""
    with loaded.map("ring").reading() as events:
        writer = threading.Timer(0.1, loaded.program("write_packet").run, (PACKET,))
        writer.start()
        began = time.monotonic()
        assert events.next(within=30) == PACKET
        assert time.monotonic() - began < 20
        writer.join()


def test_events_around_the_end_of_the_buffer(loaded: Object) -> None:
    """Of 24 and of 32 bytes with their headers, in a buffer of 4096."""
    written: list[bytes] = []
    read: list[bytes] = []
    with loaded.map("ring").reading() as events:
        for number in range(300):
            packet = bytes([number % 256]) * (15 + number % 8)
            loaded.program("write_packet").run(packet)
            written.append(packet)
            read += events
    assert read == written


def test_samples_around_the_end_of_the_buffer(loaded: Object) -> None:
    with loaded.map("perf").reading("struct event") as events:
        numbers = []
        for _ in range(20):
            write(loaded, loaded.map("perf"), repeat=500)
            numbers += [event["number"] for event in events]
    assert numbers == list(range(10000))


def test_discarded_events_are_none(loaded: Object) -> None:
    with loaded.map("ring").reading() as events:
        loaded.program("discard").run(PACKET, repeat=60)
        loaded.program("write_packet").run(PACKET)
        assert list(events) == [PACKET]
        loaded.program("discard").run(PACKET, repeat=50)
        assert list(events) == []


def test_discarded_events_leave_no_room_for_others(loaded: Object) -> None:
    with loaded.map("ring").reading() as events:
        loaded.program("discard").run(PACKET, repeat=100)
        loaded.program("write_packet").run(bytes(32))
        assert loaded.bss["refused"] == 1
        with pytest.raises(EventsLost):
            list(events)


def test_events_lost_are_told_before_others_are_given(loaded: Object, filled: Map) -> None:
    """After them come the events that were not lost."""
    with filled.reading("struct event") as events:
        write(loaded, filled, repeat=10_000)
        with pytest.raises(EventsLost, match=f"read the events of map {filled.name}: ENOBUFS"):
            list(events)
        assert loaded.bss["refused"] > 0
        assert len(list(events)) == loaded.bss["written"]


def test_events_lost_and_not_read_are_told_at_the_end(loaded: Object, filled: Map) -> None:
    with pytest.raises(EventsLost) as raised, filled.reading("struct event"):
        write(loaded, filled, repeat=10_000)
    assert raised.value.errno == errno.ENOBUFS
    assert raised.value.lost >= 1


def test_error_of_the_test_goes_first(loaded: Object, filled: Map) -> None:
    def fail() -> None:
        with filled.reading():
            write(loaded, filled, repeat=10_000)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError) as raised:
        fail()
    assert "ENOBUFS" in raised.value.__notes__[0]


def test_events_lost_that_are_allowed(loaded: Object, filled: Map) -> None:
    with filled.reading("struct event", allow_lost=True) as events:
        write(loaded, filled, repeat=10_000)
        assert len(list(events)) == loaded.bss["written"]
        assert events.lost == 1


def test_lost_samples_are_counted(loaded: Object) -> None:
    """The kernel tells with the next sample of the processor."""
    perf = loaded.map("perf")
    with perf.reading("struct event", allow_lost=True) as events, on_one_cpu():
        write(loaded, perf, repeat=10_000)
        refused = loaded.bss["refused"]
        list(events)
        write(loaded, perf)
        list(events)
        assert events.lost == refused > 1


def test_buffer_that_was_not_full_lost_nothing(loaded: Object) -> None:
    """101 events of 32 bytes, with headers of 8, leave 56 of 4096."""
    with loaded.map("ring").reading() as events:
        loaded.program("write_packet").run(bytes(32), repeat=101)
        assert loaded.bss["refused"] == 0
        assert len(list(events)) == 101
        assert events.lost == 0


def test_each_reader_begins_where_the_last_ended(loaded: Object, filled: Map) -> None:
    with filled.reading("struct event") as events:
        write(loaded, filled)
        events.next()
    with filled.reading("struct event") as events:
        write(loaded, filled)
        assert [event["number"] for event in events] == [1]


def test_perf_event_array_is_empty_after_reading(loaded: Object) -> None:
    with loaded.map("perf").reading():
        pass
    write(loaded, loaded.map("perf"))
    assert loaded.bss["refused"] == 1


def test_object_that_is_closed_while_its_events_are_read(loaded: Object, filled: Map) -> None:
    before = set(os.listdir("/proc/self/fd"))
    with filled.reading("struct event") as events:
        write(loaded, filled)
        loaded.close()
        # The next files get the numbers of the object's.
        others = [os.open("/dev/null", os.O_RDONLY) for _ in range(20)]
        assert events.next() == EVENT
        with pytest.raises(AssertionError, match="no event in map"):
            events.next(within=0.05)
    for other in others:
        os.close(other)
    assert set(os.listdir("/proc/self/fd")) < before


def test_reading_without_with_ends_with_the_reader(filled: Map) -> None:
    before = set(os.listdir("/proc/self/fd"))
    filled.reading()
    assert set(os.listdir("/proc/self/fd")) == before


def test_reading_after_the_end(filled: Map) -> None:
    with filled.reading() as events:
        pass
    with pytest.raises(BpfError, match="its `with` block has ended") as raised:
        events.next()
    assert raised.value.errno == errno.EBADF


@pytest.mark.parametrize(("type_name", "size"), [("struct event", 40), ("struct place", 8)])
def test_event_of_another_size(loaded: Object, type_name: str, size: int) -> None:
    told = f"read an event of map ring as {type_name}: .* 14 bytes, and {type_name} has {size}"
    with loaded.map("ring").reading(type_name) as events:
        loaded.program("write_packet").run(PACKET)
        with pytest.raises(BpfError, match=told) as raised:
            events.next()
        assert raised.value.errno == errno.EBADMSG


@pytest.mark.parametrize(
    ("type_name", "packet", "value"),
    [
        ("struct text", bytes(4) + b"abc\0def---", {"length": 0, "text": b"abc"}),
        (
            "struct numbers",
            (7).to_bytes(4, sys.byteorder) + 5 * (258).to_bytes(2, sys.byteorder),
            {"length": 7, "number": [258] * 5},
        ),
    ],
)
def test_event_that_ends_with_an_array(
    loaded: Object, type_name: str, packet: bytes, value: object
) -> None:
    with loaded.map("ring").reading(type_name) as events:
        loaded.program("write_packet").run(packet)
        assert events.next() == value


@pytest.mark.parametrize(
    "type_name", ["struct event", "struct bits", "struct choice", "unsigned int"]
)
def test_events_are_decoded_as_variables_are(loaded: Object, type_name: str) -> None:
    btf = loaded.btf
    assert btf
    type_id = btf.find(type_name)
    decoder = RecordDecoder(btf, type_id, type_name)
    for pattern in (bytes(range(1, 100)), bytes(range(255, 150, -1)), bytes(100)):
        data = pattern[: decoder.size]
        assert decoder.decode(data) == btf.decode(type_id, data)


def test_type_that_the_object_does_not_have(filled: Map) -> None:
    with pytest.raises(UnknownName) as raised:
        filled.reading("struct evnt")
    assert "struct choice, struct event, " in str(raised.value)
    assert "`struct evnt *unused __attribute__((unused));`" in str(raised.value)


def test_map_without_events(loaded: Object) -> None:
    with pytest.raises(TypeError, match="no ring buffer or perf event array, but ARRAY"):
        loaded.map("events.bss").reading()
    with pytest.raises(TypeError, match="is no user ring buffer, but RINGBUF"):
        loaded.map("ring").writing()


needs_user_rings = pytest.mark.skipif(
    KernelInfo().version < (6, 1), reason="user ring buffers came with 6.1"
)


@pytest.fixture
def commanded(bpf_object: Callable[..., Object]) -> Object:
    return bpf_object("progs/commands.bpf.c")


@needs_user_rings
def test_program_takes_what_is_written(commanded: Object) -> None:
    commands = commanded.map("commands")
    assert commands.type is MapType.USER_RINGBUF
    with commands.writing("struct command") as writer:
        writer.write({"kind": 3, "argument": -4})
        writer.write({"kind": 4})
    commanded.program("drain").run(PACKET)
    assert commanded.bss["drained"] == 2
    assert commanded.bss["last"] == {"kind": 4, "argument": 0}


@needs_user_rings
def test_bytes_are_written_as_they_are(commanded: Object) -> None:
    with commanded.map("commands").writing() as writer:
        writer.write(bytes([9] * 16))
        with pytest.raises(TypeError, match=r"without a type, writing\(\) takes bytes, not 9"):
            writer.write(9)
    commanded.program("drain").run(PACKET)
    assert commanded.bss["last"]["kind"] == 0x09090909


@needs_user_rings
def test_writing_to_a_full_buffer(commanded: Object) -> None:
    with commanded.map("commands").writing() as writer:
        for _ in range(170):
            writer.write(bytes(16))
        with pytest.raises(BpfError, match="full until a program drains it") as raised:
            writer.write(bytes(16))
        assert raised.value.errno == errno.ENOSPC
        commanded.program("drain").run(PACKET)
        writer.write(bytes(16))
    with pytest.raises(BpfError, match="its `with` block has ended"):
        writer.write(bytes(16))
