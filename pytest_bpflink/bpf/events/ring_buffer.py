"""Reads a BPF ring buffer through its memory: `Documentation/bpf/ringbuf.rst`.

libbpf's `ring_buffer__poll()` calls back for each event, and each call back to Python waits for the
interpreter while another thread of the test runs.
"""

from __future__ import annotations

import mmap
import os
import select

from pytest_bpflink.bpf.events.source import fence

_BUSY = 1 << 31
_DISCARDED = 1 << 30
_HEADER = 8

# The kernel can use the room of events only when all events of a reading are copied.
_MOST_AT_ONCE = 4096


class RingBuffer:
    """The memory of a ring buffer: two pages with positions, and the events.

    The first position is that up to which a reader has read, the second that up to which programs
    have written. The events are mapped twice, one after the other, so that none is cut at the end.
    """

    padding = 0

    def __init__(self, fd: int, size: int, *, smallest: int) -> None:
        """Map a ring buffer of SIZE bytes, whose events have at least SMALLEST bytes.

        Raises `OSError`.
        """
        page = mmap.PAGESIZE
        self._size = size
        self._read_page = mmap.mmap(fd, page)
        self._memory = mmap.mmap(fd, page + 2 * size, prot=mmap.PROT_READ, offset=page)
        self._read_up_to = memoryview(self._read_page).cast("Q")
        self._written_up_to = memoryview(self._memory).cast("Q")
        self._words = memoryview(self._memory)[page:].cast("I")
        self._largest = _room(smallest)
        self._fd = os.dup(fd)
        self._news = select.poll()
        self._news.register(self._fd, select.POLLIN)
        self.lost = 0
        """How often the buffer was found full. The kernel doesn't count what is lost then."""

    @property
    def loss(self) -> str:
        """What happened to the events that are lost, as a sentence."""
        times = "once" if self.lost == 1 else f"{self.lost} times"
        return f"the ring buffer was found full {times}; a program then finds no room for an event"

    def read(self) -> list[bytes]:
        """Take some of the events that are there; an empty list if there are none."""
        begin, end = self._read_up_to[0], self._written_up_to[0]
        if begin == end:
            return []
        fence()  # the positions are read before the headers
        places, upto = self._complete(begin, end)
        fence()  # the headers are read before the events
        memory = self._memory
        events = [memory[first:last] for first, last in places]
        fence()  # the events are read before their room is given back
        self._read_up_to[0] = upto
        fence()
        self._look_whether_full(begin)
        return events

    def wait(self, seconds: float) -> None:
        """Return when there may be an event to read, or after so many seconds."""
        self._news.poll(seconds * 1000)

    def close(self) -> None:
        """Unmap the memory."""
        for view in (self._read_up_to, self._written_up_to, self._words):
            view.release()
        self._read_page.close()
        self._memory.close()
        os.close(self._fd)

    def _complete(self, begin: int, end: int) -> tuple[list[tuple[int, int]], int]:
        """Return where the complete events lie in the memory, and up to which position."""
        places: list[tuple[int, int]] = []
        words, mask, at = self._words, self._size - 1, begin
        data, longest = mmap.PAGESIZE + _HEADER, 0
        while at < end and len(places) < _MOST_AT_ONCE:
            place = at & mask
            length = words[place >> 2]
            if length & _BUSY:
                break
            if length & _DISCARDED:
                length -= _DISCARDED
            else:
                places.append((place + data, place + data + length))
            longest = max(longest, length)
            at += length + _HEADER + 7 & -8
        self._largest = max(self._largest, _room(longest))
        return places, at

    def _look_whether_full(self, begin: int) -> None:
        """Count where a program may have found no room for an event, up to this moment."""
        if self._written_up_to[0] - begin + self._largest >= self._size:
            self.lost += 1


def _room(length: int) -> int:
    return length + _HEADER + 7 & -8
