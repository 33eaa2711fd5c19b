"""A worker's events on the way to the controller: few messages, and short ones.

xdist sends six messages for each item, which execnet serializes in Python, string by string. In an
emulated guest that takes a quarter of the time of a short test. Here C packs the events, a value
that all events of an item would repeat is sent once, and an event that need not be known at once
goes with the next.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pytest_bpflink.matrix.plain_values import DamagedError, dumps, loads, sealed, unsealed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    Details = dict[str, Any]

# The events of an item. execnet sends the others as they are, those of warnings among them.
_EVENTS = frozenset({"logstart", "testreport", "logfinish", "runtest_protocol_complete"})

# The values that are sent once, and the events that have them.
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

# Each report has a copy of these, which plugins may change.
_OWN = {"keywords", "user_properties"}

_SCALARS = {str, bytes, int, float, bool, type(None)}
_SEQUENCES = {tuple, list}


class Packing:
    """Packs the events of a worker, whose order stays.

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
        """Send an event; the end of an item that went well waits until the next item begins.

        A worker that dies in between is seen to have died in that item's teardown.
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
        """Return the values of an event that are new; None if one might arrive as another.

        A plugin may add to a report whatever execnet takes, and so may a traceback. A report that
        lacks a value which is sent once would be given it.
        """
        if name not in _EVENTS:
            return None
        sent, facts = self._sent, details
        try:
            if name == "testreport":
                facts = details["data"]
                if not _REPEATED.keys() <= facts.keys():
                    return None
                facts = {**facts, **{key: dumps(facts[key]) for key in _OWN}}
            news = {
                key: value
                for key, value in facts.items()
                if key not in _REPEATED or key not in sent or sent[key] != value
            }
            if not _are_plain(news.values()):
                return None
            for key in news.keys() & _OWN:
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
    """Return the function that takes a worker's messages, and gives its events to `receive`.

    `receive` is given events as xdist has them. Of a message that is damaged it is given nothing,
    nor of those that follow: `damaged` is called once, with the reason.
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
        # xdist's mark of the end is no tuple.
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
        own = {key: loads(details[key]) for key in _OWN}
        return name, {"data": {**details, **own}}


def _are_plain(values: Iterable[object]) -> bool:
    """Whether values arrive as they are: `dumps` makes bytes of values that are like bytes."""
    return all(
        type(value) in _SCALARS or (type(value) in _SEQUENCES and _are_plain(value))  # type: ignore[arg-type]
        for value in values
    )
