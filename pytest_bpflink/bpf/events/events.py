"""Events that programs write to a map, as Python values, none of them lost unseen."""

from __future__ import annotations

import errno
import time
from collections import deque
from typing import TYPE_CHECKING, Any, Self

from pytest_bpflink.bpf.events.opening import decoder_of
from pytest_bpflink.errors import BpfError, EventsLost

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_bpflink.binding.btf import Btf
    from pytest_bpflink.binding.records import RecordDecoder
    from pytest_bpflink.bpf.events.source import Source

# Programs may write without waking a reader: BPF_RB_NO_WAKEUP.
_LONGEST_WAIT = 0.02


class Events:
    """The events of a ring buffer or perf event array, until the end of a `with` block.

    An iteration takes the events that are there, and ends; `next()` waits for one. Each event is
    taken once. Where the type is given, an event is its Python value, typed through BTF as
    `Object.bss` is; else bytes.

    No event is lost unseen: `EventsLost` is raised where events are read, or at the end of the
    block, unless `reading()` was given `allow_lost=True`.
    """

    def __init__(
        self,
        source: Source,
        name: str,
        *,
        btf: Btf | None,
        decoder: RecordDecoder | None,
        allow_lost: bool,
    ) -> None:
        self._source: Source | None = source
        self._name = name
        self._btf = btf
        self._allow_lost = allow_lost
        self._padding = source.padding
        self._decoders: dict[str, RecordDecoder] = {}
        self._decoder = decoder
        if decoder:
            self._decoders[decoder.name] = decoder
        self._pending: deque[bytes] = deque()
        self._lost, self._loss = 0, ""
        self._told = 0

    @property
    def lost(self) -> int:
        """How many events are lost, as far as is known by now.

        For a perf event array the kernel counts them, and tells the number with the event after;
        until then it is one, if the buffer was full. For a ring buffer the kernel doesn't count
        them: it is how often the buffer was found without room for another event, of the type or
        as large as any that came. Of a larger one only the program knows.
        """
        self._take()
        return self._lost

    def next(self, *, within: float = 1.0) -> Any:
        """Return the next event; wait for it for so many seconds at most.

        Raises `AssertionError` if none comes, `EventsLost`, and `BpfError` with EBADMSG for an
        event that has not the size of the type.
        """
        __tracebackhide__ = True
        deadline = time.monotonic() + within
        while not self._pending and not self._fetch():
            left = deadline - time.monotonic()
            if left <= 0:
                raise AssertionError(f"no event in map {self._name} within {within:g} s")
            self._open().wait(min(left, _LONGEST_WAIT))
        return self._decoded(self._pending.popleft())

    def decode(self, data: bytes, type_name: str) -> Any:
        """Return the value of an event read as bytes: for a map with events of several types.

        Raises `UnknownName` for a type that the object does not have, and `BpfError` as `next()`.
        """
        return self._decode(data, self._decoder_of(type_name))

    def close(self) -> None:
        """End reading; idempotent."""
        if self._source is not None:
            source, self._source = self._source, None
            source.close()

    def __iter__(self) -> Iterator[Any]:
        """Take the events that are there, and end. Raises as `next()` does."""
        while self._pending or self._fetch():
            yield self._decoded(self._pending.popleft())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _kind: object, error: BaseException | None, _traceback: object) -> None:
        __tracebackhide__ = True
        if self._source is None:
            return
        self._take()
        self.close()
        if self._lost <= self._told or self._allow_lost:
            return
        if error is None:
            raise self._events_lost()
        error.add_note(str(self._events_lost()))

    def __del__(self) -> None:
        if getattr(self, "_source", None) is not None:
            self.close()

    def __repr__(self) -> str:
        return f"<Events of {self._name}{' closed' if self._source is None else ''}>"

    def _fetch(self) -> bool:
        """Take more events; whether there are any. Raises `EventsLost` for what wasn't told yet."""
        __tracebackhide__ = True
        self._take()
        if self._lost > self._told and not self._allow_lost:
            self._told = self._lost
            raise self._events_lost()
        return bool(self._pending)

    def _take(self) -> None:
        if self._source is not None:
            self._pending += self._source.read()
            self._lost, self._loss = self._source.lost, self._source.loss

    def _events_lost(self) -> EventsLost:
        return EventsLost(self._name, self._lost, self._loss)

    def _open(self) -> Source:
        if self._source is None:
            raise BpfError(
                errno.EBADF, f"read events of map {self._name}", hint="its `with` block has ended"
            )
        return self._source

    def _decoded(self, data: bytes) -> Any:
        return data if self._decoder is None else self._decode(data, self._decoder)

    def _decode(self, data: bytes, decoder: RecordDecoder) -> Any:
        beyond = len(data) - decoder.size
        if beyond and (beyond < 0 or (beyond > self._padding and not decoder.is_open_ended)):
            doing = f"read an event of map {self._name} as {decoder.name}"
            sizes = f"it has {len(data)} bytes, and {decoder.name} has {decoder.size}"
            hint = f"{sizes}; reading() without a type gives bytes"
            raise BpfError(errno.EBADMSG, doing, hint=hint)
        return decoder.decode(data)

    def _decoder_of(self, type_name: str) -> RecordDecoder:
        if type_name not in self._decoders:
            self._decoders[type_name] = decoder_of(self._btf, type_name)
        return self._decoders[type_name]
