"""Packs a worker's events into few, short messages, and unpacks them in the controller.

xdist sends six messages for each item, which execnet serializes in Python, string by string. In an
emulated guest this takes a quarter of the time of a short test. `Packing` serializes events in C,
sends a value that several events share only once, and holds back events that the controller need
not know at once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pytest_bpflink.matrix.plain_values import DamagedError, dumps, loads, sealed, unsealed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    Details = dict[str, Any]

# The events of an item. execnet sends all other events, such as warnings, as they are.
_EVENTS = frozenset({"logstart", "testreport", "logfinish", "runtest_protocol_complete"})

# The values that are sent only when they change, and the events that contain each.
_REPEATED = {
    "nodeid": {"logstart", "testreport", "logfinish"},
    "location": {"logstart", "testreport", "logfinish"},
    "keywords": {"testreport"},
    "user_properties": {"testreport"},
    "$report_type": {"testreport"},
    "item_index": {"testreport", "runtest_protocol_complete"},
    "worker_id": {"testreport"},
    "testrun_uid": {"testreport"},
}

# Plugins may change these values of a report, so each report gets a copy.
_COPIED = {"keywords", "user_properties"}

_SCALARS = {str, bytes, int, float, bool, type(None)}
_SEQUENCES = {tuple, list}


class Packing:
    """Packs the events of a worker, in their order.

    `is_next_queued` says whether the worker already has its next item queued.
    """

    def __init__(
        self, send: Callable[[object], None], is_next_queued: Callable[[], bool] = lambda: False
    ) -> None:
        self._send = send
        self._is_next_queued = is_next_queued
        self._sent: Details = {}
        self._held: list[bytes] = []
        self._number = 0

    def sendevent(self, name: str, **details: Any) -> None:
        """Send an event, or hold it back until the next event is sent.

        A passed teardown is held back, and so is the end of an item if the next item is queued. A
        worker that dies meanwhile has died in that item's teardown, as far as the controller knows.
        """
        packed = self._pack(name, details)
        if packed is None:
            self._flush()
            self._send((name, details))
            return
        self._held.append(packed)
        if not self._may_wait(name, details):
            self._flush()

    def _may_wait(self, name: str, details: Details) -> bool:
        if name == "testreport":
            report = details["data"]
            return (report.get("when"), report.get("outcome")) == ("teardown", "passed")
        return name != "logstart" and self._is_next_queued()

    def _pack(self, name: str, details: Details) -> bytes | None:
        """Return an event's new values as bytes; None if a value might be unpacked as another.

        A plugin or a traceback may add any value to a report that execnet takes. A report that
        lacks one of `_REPEATED` would be unpacked with an older event's value.
        """
        if name not in _EVENTS:
            return None
        sent, facts = self._sent, details
        try:
            if name == "testreport":
                facts = details["data"]
                if not _REPEATED.keys() <= facts.keys():
                    return None
                facts = {**facts, **{key: dumps(facts[key]) for key in _COPIED}}
            news = {
                key: value
                for key, value in facts.items()
                if key not in _REPEATED or key not in sent or sent[key] != value
            }
            if not _are_plain(news.values()):
                return None
            for key in news.keys() & _COPIED:
                part = details["data"][key]
                if not _are_plain(part.values() if type(part) is dict else part):
                    return None
            packed = dumps((name, news))
        except ValueError:
            return None
        for key in news.keys() & _REPEATED.keys():
            sent[key] = news[key]
        return packed

    def _flush(self) -> None:
        if self._held:
            held, self._held = self._held, []
            self._send(sealed(self._number, dumps(held)))
            self._number += 1


def unpacking(
    receive: Callable[[Any], None], damaged: Callable[[str], None]
) -> Callable[[Any], None]:
    """Return a function that takes a worker's messages and passes the events to `receive`.

    The events are as xdist sends them. From the first damaged message on no event is passed:
    `damaged` is called once, with the reason.
    """
    unpacker = _Unpacker(receive, damaged)
    return unpacker.take


class _Unpacker:
    def __init__(self, receive: Callable[[Any], None], damaged: Callable[[str], None]) -> None:
        self._receive = receive
        self._damaged = damaged
        self._sent: Details = {}
        self._number = 0
        self._is_damaged = False

    def take(self, message: Any) -> None:
        # xdist's end marker is neither bytes nor a tuple.
        if type(message) not in {bytes, tuple}:
            self._receive(message)
        elif self._is_damaged:
            return
        elif type(message) is tuple:
            self._receive(message)
        else:
            try:
                events = self._unpack(message)
            except DamagedError as error:
                self._is_damaged = True
                self._damaged(str(error))
                return
            for event in events:
                self._receive(event)

    def _unpack(self, message: bytes) -> list[tuple[str, Details]]:
        held = loads(unsealed(self._number, message))
        self._number += 1
        try:
            return [self._event(*loads(packed)) for packed in held]
        except (AttributeError, KeyError, TypeError) as error:
            raise DamagedError(f"it has no event: {error!r}") from None

    def _event(self, name: str, news: Details) -> tuple[str, Details]:
        if name not in _EVENTS:
            raise DamagedError(f"it has an unknown event {name!r}")
        sent = self._sent
        sent.update((key, news[key]) for key in _REPEATED if key in news)
        repeated = {key: sent[key] for key, events in _REPEATED.items() if name in events}
        details = {**repeated, **news}
        if name != "testreport":
            return name, details
        copies = {key: loads(details[key]) for key in _COPIED}
        return name, {"data": {**details, **copies}}


def _are_plain(values: Iterable[object]) -> bool:
    """Whether values are unpacked as they are: `dumps` writes bytes-like values as bytes."""
    return all(
        type(value) in _SCALARS or (type(value) in _SEQUENCES and _are_plain(value))  # type: ignore[arg-type]
        for value in values
    )
