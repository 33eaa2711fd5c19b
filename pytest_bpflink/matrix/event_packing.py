"""Packs a worker's events into few, short messages, and unpacks them in the controller.

xdist sends six messages for each item, which execnet serializes in Python, string by string. In an
emulated guest this takes a quarter of the time of a short test. `Packing` serializes events in C,
sends a value that several events share only once, and holds back events that the controller need
not know at once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pytest_bpflink.matrix.plain_values import (
    SCALARS,
    DamagedError,
    dumps,
    loads,
    plain,
    sealed,
    unsealed,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    Details = dict[str, Any]

# The events of an item, which share values. All other events, such as warnings, are sent whole.
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

# Marks an event that is sent with all its values.
_WHOLE = "whole"

# Plugins may change these values of a report, so each report gets a copy.
_COPIED = {"keywords", "user_properties"}

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
        self._held.append(packed or dumps((name, plain(details), _WHOLE)))
        if packed is None or not self._may_wait(name, details):
            self.flush()

    def flush(self) -> None:
        """Send the events that are held back."""
        if self._held:
            held, self._held = self._held, []
            self._send(sealed(self._number, dumps(held)))
            self._number += 1

    def _may_wait(self, name: str, details: Details) -> bool:
        if name == "testreport":
            report = details["data"]
            return (report.get("when"), report.get("outcome")) == ("teardown", "passed")
        return name != "logstart" and self._is_next_queued()

    def _pack(self, name: str, details: Details) -> bytes | None:
        """Return an event's new values as bytes; None if it must be sent whole.

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
            if not all(map(_is_plain, news.values())):
                return None
            if not all(_is_plain(details["data"][key]) for key in news.keys() & _COPIED):
                return None
            packed = dumps((name, news))
        except Exception:  # noqa: BLE001 (a plugin's value may raise anything when it is compared)
            return None
        for key in news.keys() & _REPEATED.keys():
            sent[key] = news[key]
        return packed


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
        # The third kind of message is xdist's end marker.
        if type(message) not in {bytes, tuple}:
            self._receive(message)
        elif not self._is_damaged:
            try:
                for event in self._unpack(message):
                    self._receive(event)
            except DamagedError as error:
                self._is_damaged = True
                self._damaged(str(error))

    def _unpack(self, message: object) -> list[tuple[str, Details]]:
        if not isinstance(message, bytes):
            raise DamagedError("it is not packed")
        held = loads(unsealed(self._number, message))
        self._number += 1
        try:
            return [self._event(*loads(packed)) for packed in held]
        except (AttributeError, KeyError, TypeError) as error:
            raise DamagedError(f"it has no event: {error!r}") from None

    def _event(self, name: str, news: Details, whole: object = None) -> tuple[str, Details]:
        if whole == _WHOLE and type(name) is str and type(news) is dict:
            return name, news
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


def _is_plain(value: Any) -> bool:
    """Whether a value is unpacked as it is: `dumps` writes bytes-like values as bytes."""
    kind = type(value)
    if kind in _SEQUENCES:
        return all(map(_is_plain, value))
    if kind is dict:
        return all(map(_is_plain, value)) and all(map(_is_plain, value.values()))
    return kind in SCALARS
