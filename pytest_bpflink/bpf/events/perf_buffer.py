"""Reads the perf events behind a perf event array, one for each processor.

Each has a buffer of its own. A sample carries its time, by which the events of all processors are
put in order. Layouts are those of `uapi/linux/perf_event.h`.
"""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import select
import struct
import time
from typing import TYPE_CHECKING, NamedTuple

from pytest_bpflink.binding import libbpf
from pytest_bpflink.bpf.events.source import fence
from pytest_bpflink.system.perf_events import TYPE_SOFTWARE, Attributes, open_event

if TYPE_CHECKING:
    from collections.abc import Iterator

_BPF_OUTPUT = 10  # PERF_COUNT_SW_BPF_OUTPUT
_SAMPLE_TIME, _SAMPLE_RAW = 1 << 2, 1 << 10
_RECORD_LOST, _RECORD_SAMPLE = 2, 9

# data_head and data_tail, as indices of 64-bit words of the first page.
_HEAD, _TAIL = 128, 129

_HEADER = struct.Struct("=IHH")  # type, misc, size
_SAMPLE = struct.Struct("=IHHQI")  # header, time, size of the raw data
_LOST = struct.Struct("=IHHQQ")  # header, id, number

_DATA_SIZE = 64 * mmap.PAGESIZE  # 256 KiB for each processor, as a rule


class _Event(NamedTuple):
    time: int
    data: bytes


class PerfBuffers:
    """The buffers of a perf event array, which has their events until `close()`."""

    padding = 7  # the kernel rounds the size of raw data up, and does not tell the real one

    def __init__(self, fd: int, entries: int, *, smallest: int, doing: str) -> None:
        """Open an event on each processor that is online, and put them into the array.

        Raises `OSError`, `BpfError`.
        """
        self._fd = os.dup(fd)
        self._doing = doing
        self._buffers: dict[int, _CpuBuffer] = {}
        self._news = select.poll()
        cpus = libbpf.call("libbpf_num_possible_cpus", doing="count the possible CPUs")
        try:
            for cpu in range(min(cpus, entries)):
                with _excusing_offline():
                    self._add(cpu, smallest)
        except BaseException:
            self.close()
            raise

    @property
    def lost(self) -> int:
        """How many events the kernel told to be lost; one more where it may have more to tell."""
        return sum(buffer.lost + buffer.was_full for buffer in self._buffers.values())

    @property
    def loss(self) -> str:
        """What happened to the events that are lost, as a sentence."""
        least = "at least " if any(buffer.was_full for buffer in self._buffers.values()) else ""
        return f"{least}{self.lost} events found no room in the buffer of their processor"

    def read(self) -> list[bytes]:
        """Take the events that are there, by their times."""
        found = [event for buffer in self._buffers.values() for event in buffer.read()]
        found.sort(key=lambda event: event.time)
        return [event.data for event in found]

    def wait(self, seconds: float) -> None:
        """Return when there may be an event to read, or after so many seconds."""
        self._news.poll(seconds * 1000)

    def close(self) -> None:
        """Take the events out of the array, and unmap the buffers."""
        while self._buffers:
            cpu, buffer = self._buffers.popitem()
            key = struct.pack("=I", cpu)
            try:
                libbpf.call(
                    "bpf_map_delete_elem", self._fd, key, doing=self._doing, answer=errno.ENOENT
                )
            finally:
                buffer.close()
        os.close(self._fd)

    def _add(self, cpu: int, smallest: int) -> None:
        buffer = _CpuBuffer(cpu, smallest)
        self._buffers[cpu] = buffer
        self._news.register(buffer.fd, select.POLLIN)
        key, value = (struct.pack("=I", number) for number in (cpu, buffer.fd))
        libbpf.call("bpf_map_update_elem", self._fd, key, value, 0, doing=self._doing)


class _CpuBuffer:
    """The perf event of one processor, and its buffer."""

    def __init__(self, cpu: int, smallest: int) -> None:
        attributes = Attributes(
            type=TYPE_SOFTWARE,
            config=_BPF_OUTPUT,
            sample_period=1,
            sample_type=_SAMPLE_TIME | _SAMPLE_RAW,
            wakeup_events=1,
            use_clockid=1,
            clockid=time.CLOCK_MONOTONIC,
        )
        self.fd = open_event(attributes, cpu=cpu)
        try:
            self._memory = mmap.mmap(self.fd, mmap.PAGESIZE + _DATA_SIZE)
        except BaseException:
            os.close(self.fd)
            raise
        self._words = memoryview(self._memory)[: mmap.PAGESIZE].cast("Q")
        self._largest = _SAMPLE.size + smallest
        self.lost = 0
        """How many events the kernel told to be lost."""
        self.was_full = False
        """Whether an event may have found no room: the kernel tells of it with the next event."""

    def read(self) -> list[_Event]:
        """Take the events that are there."""
        begin, end = self._words[_TAIL], self._words[_HEAD]
        if begin == end:
            return []
        fence()  # the position is read before the events
        data = self._bytes(begin, end)
        fence()  # the events are read before their room is given back
        self._words[_TAIL] = end
        fence()
        events = list(self._events(data))
        used = self._words[_HEAD] - begin
        self.was_full = used + self._largest >= _DATA_SIZE
        return events

    def close(self) -> None:
        """Close the event."""
        self._words.release()
        self._memory.close()
        os.close(self.fd)

    def _bytes(self, begin: int, end: int) -> bytes:
        first, last = (mmap.PAGESIZE + at % _DATA_SIZE for at in (begin, end))
        if first < last:
            return self._memory[first:last]
        return self._memory[first:] + self._memory[mmap.PAGESIZE : last]

    def _events(self, data: bytes) -> Iterator[_Event]:
        at = 0
        while at < len(data):
            kind, _, size = _HEADER.unpack_from(data, at)
            if kind == _RECORD_SAMPLE:
                *_, when, length = _SAMPLE.unpack_from(data, at)
                start = at + _SAMPLE.size
                self._largest = max(self._largest, size)
                yield _Event(when, data[start : start + length])
            elif kind == _RECORD_LOST:
                self.lost += _LOST.unpack_from(data, at)[-1]
            at += size


@contextlib.contextmanager
def _excusing_offline() -> Iterator[None]:
    """Pass over a processor that is possible, but offline."""
    try:
        yield
    except OSError as error:
        if error.errno != errno.ENODEV:
            raise
