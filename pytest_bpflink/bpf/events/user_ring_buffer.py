"""Writes to a BPF user ring buffer, which a program reads by `bpf_user_ringbuf_drain()` (6.1)."""

from __future__ import annotations

import ctypes
import errno
from typing import TYPE_CHECKING, Any, Self

from pytest_bpflink.binding import libbpf
from pytest_bpflink.errors import BpfError

if TYPE_CHECKING:
    from pytest_bpflink.binding.btf import Btf


class EventWriter:
    """Writes events to a user ring buffer, until `close()` or the end of a `with` block."""

    def __init__(self, fd: int, name: str, kind: tuple[Btf, int] | None) -> None:
        self._doing = f"write to map {name}"
        self._kind = kind
        self._pointer: int | None = libbpf.call(
            "user_ring_buffer__new", fd, None, doing=self._doing
        )

    def write(self, event: Any) -> None:
        """Write an event: a value of the type that `writing()` was given, or bytes.

        The program sees it when it drains the buffer next. Raises `BpfError`: ENOSPC where the
        buffer is full, E2BIG where the event is larger than the buffer; `TypeError` or
        `OverflowError` for a value that the type can't hold.
        """
        data = self._encode(event)
        try:
            place = libbpf.call(
                "user_ring_buffer__reserve", self._open(), len(data), doing=self._doing
            )
        except BpfError as error:
            if error.errno == errno.ENOSPC:
                error.hint = "it is full until a program drains it by bpf_user_ringbuf_drain()"
            raise
        ctypes.memmove(place, data, len(data))
        libbpf.call("user_ring_buffer__submit", self._open(), place, doing=self._doing)

    def close(self) -> None:
        """End writing; idempotent. What is written stays until a program drains it."""
        if self._pointer is not None:
            pointer, self._pointer = self._pointer, None
            libbpf.call("user_ring_buffer__free", pointer, doing=self._doing)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        if getattr(self, "_pointer", None) is not None:
            self.close()

    def _open(self) -> int:
        if self._pointer is None:
            raise BpfError(errno.EBADF, self._doing, hint="its `with` block has ended")
        return self._pointer

    def _encode(self, event: Any) -> bytes:
        if isinstance(event, bytes):
            return event
        if self._kind is None:
            raise TypeError(f"{self._doing}: without a type, writing() takes bytes, not {event!r}")
        btf, type_id = self._kind
        return btf.encode(type_id, event, bytes(btf.size(type_id)))
