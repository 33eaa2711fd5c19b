"""Many entries of a map by one system call: `BPF_MAP_LOOKUP_BATCH` (5.6)."""

from __future__ import annotations

import ctypes
import errno
from itertools import chain
from typing import TYPE_CHECKING

from pytest_bpflink.binding import libbpf
from pytest_bpflink.binding.uapi import MapType
from pytest_bpflink.errors import BpfError

if TYPE_CHECKING:
    from collections.abc import Iterator

BATCHED = frozenset(
    {
        MapType.HASH,
        MapType.LRU_HASH,
        MapType.ARRAY,
        MapType.PERCPU_HASH,
        MapType.LRU_PERCPU_HASH,
        MapType.PERCPU_ARRAY,
    }
)
"""Types of maps that some kernels read in batches: per-CPU arrays since 5.13, the others 5.6."""

# Bytes of keys and values of a batch.
_BATCH = 1 << 18

# Entries of a batch, at least: a batch has whole buckets of a hash, which have a few entries each.
_FEWEST = 64

_ENOTSUPP = 524


def in_batches(
    fd: int, sizes: tuple[int, int], max_entries: int, *, doing: str
) -> Iterator[tuple[bytes, bytes]] | None:
    """Return the keys and values of a map; None where the kernel does not read it in batches.

    `sizes` are those of a key and of a value. The first batch is read at once, each further one
    when it is needed. Raises `BpfError`.
    """
    reader = _Reader(fd, sizes, max_entries, doing)
    try:
        first = reader.read()
    except BpfError as error:
        if error.errno in {_ENOTSUPP, errno.EINVAL}:
            return None
        raise
    return chain(first, reader.rest())


class _Reader:
    def __init__(self, fd: int, sizes: tuple[int, int], max_entries: int, doing: str) -> None:
        self._fd = fd
        self._key_size, self._value_size = sizes
        self._doing = doing
        # Where a batch ends: a key, or of a hash the number of a bucket.
        self._here: ctypes.Array[ctypes.c_char] | None = None
        self._ended = False
        self._make_room(min(max_entries, max(_FEWEST, _BATCH // sum(sizes))))

    def read(self) -> Iterator[tuple[bytes, bytes]]:
        """Read the next batch."""
        following = ctypes.create_string_buffer(max(self._key_size, 4))
        while True:
            count = ctypes.c_uint32(self._room)
            try:
                result = libbpf.call(
                    "bpf_map_lookup_batch",
                    self._fd,
                    self._here,
                    following,
                    self._keys,
                    self._values,
                    ctypes.byref(count),
                    None,
                    doing=self._doing,
                    answer=errno.ENOENT,
                )
                break
            except BpfError as error:
                if error.errno != errno.ENOSPC:  # a bucket with more entries than there is room
                    raise
                self._make_room(2 * self._room)
        self._ended = result == -errno.ENOENT
        self._here = following
        return self._entries(count.value)

    def rest(self) -> Iterator[tuple[bytes, bytes]]:
        """Yield the entries of all further batches."""
        while not self._ended:
            yield from self.read()

    def _make_room(self, entries: int) -> None:
        self._room = entries
        self._keys = ctypes.create_string_buffer(entries * self._key_size)
        self._values = ctypes.create_string_buffer(entries * self._value_size)

    def _entries(self, count: int) -> Iterator[tuple[bytes, bytes]]:
        return zip(
            _cut(self._keys, self._key_size, count),
            _cut(self._values, self._value_size, count),
            strict=True,
        )


def _cut(buffer: ctypes.Array[ctypes.c_char], size: int, count: int) -> list[bytes]:
    data = ctypes.string_at(buffer, size * count)
    return [data[at : at + size] for at in range(0, size * count, size)]
