"""How the events of a map are read: the buffer by the map's type, the values by the object's."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from pytest_bpflink.binding.records import RecordDecoder
from pytest_bpflink.binding.uapi import MapType
from pytest_bpflink.bpf.events.perf_buffer import PerfBuffers
from pytest_bpflink.bpf.events.ring_buffer import RingBuffer
from pytest_bpflink.errors import BpfError, UnknownName

if TYPE_CHECKING:
    from pytest_bpflink.binding.btf import Btf
    from pytest_bpflink.bpf.events.source import Source

_OVERWRITES = 1 << 19  # BPF_F_RB_OVERWRITE (6.19)


def open_source(
    map_type: MapType, fd: int, *, name: str, size: int, flags: int, smallest: int
) -> Source:
    """Open the buffer of a map for reading, with SIZE bytes or entries.

    Raises `TypeError` for a map of another type, and `BpfError`.
    """
    doing = f"read the events of map {name}"
    if map_type is MapType.RINGBUF and flags & _OVERWRITES:
        raise BpfError(errno.EOPNOTSUPP, doing, hint="it overwrites: BPF_F_RB_OVERWRITE")
    try:
        # The sources duplicate the descriptor: its number may be another map's by the time of
        # close(), if the object is closed before.
        if map_type is MapType.RINGBUF:
            return RingBuffer(fd, size, smallest=smallest)
        if map_type is MapType.PERF_EVENT_ARRAY:
            return PerfBuffers(fd, size, smallest=smallest, doing=doing)
    except BpfError:
        raise
    except OSError as error:
        raise BpfError(error.errno or 0, doing) from error
    refusal = f"map {name} is no ring buffer or perf event array, but {map_type.name}"
    if map_type is MapType.USER_RINGBUF:
        refusal += ", which a test writes to: writing()"
    raise TypeError(refusal)


def decoder_of(btf: Btf | None, type_name: str) -> RecordDecoder:
    """Return the decoder of a type of an object. Raises as `find_type()`."""
    types, type_id = find_type(btf, type_name)
    return RecordDecoder(types, type_id, type_name)


def find_type(btf: Btf | None, type_name: str) -> tuple[Btf, int]:
    """Return the types of an object, and the number of one of them.

    Raises `UnknownName`, and `TypeError` for an object without types.
    """
    if btf is None:
        raise TypeError(f"the object has no BTF, so {type_name} is not known: compile it with -g")
    try:
        return btf, btf.find(type_name)
    except UnknownName as error:
        error.hint += (
            "; clang keeps the types that maps, functions and global variables name, so add"
            f" `{type_name} *unused __attribute__((unused));`"
        )
        raise
