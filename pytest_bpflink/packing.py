"""What a worker tells of its items, on the way to the controller: few messages, and short ones.

xdist sends six messages for each item, which execnet serializes in Python, string by string. In an
emulated guest that takes a quarter of the time of a short test. Here C packs the events, what all
events of an item would repeat is told once, and what need not be known at once goes with the next.
"""

from __future__ import annotations

import marshal
from functools import partial
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    import pytest

    Details = dict[str, Any]

# Of one item. What else there is, warnings say, is execnet's.
_EVENTS = frozenset({"logstart", "testreport", "logfinish", "runtest_protocol_complete"})

# What is told once, and in which events it is.
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

# Of these each report has its own, which plugins may change.
_OWN = {"keywords", "user_properties"}

_SCALARS = {str, bytes, int, float, bool, type(None)}
_SEQUENCES = {tuple, list}

# Every Python writes it and reads what others wrote, and the same is always written the same.
_FORMAT = 2


class Packing:
    """Packs the events of a worker, whose order stays.

    `is_next_known` says whether the worker goes on with another item without being told more.
    """

    def __init__(
        self, send: Callable[[object], None], is_next_known: Callable[[], bool] = lambda: False
    ) -> None:
        self._send = send
        self._is_next_known = is_next_known
        self._told: Details = {}
        self._held: list[bytes] = []

    @classmethod
    def start(cls, config: pytest.Config) -> None:
        """Have the worker that this process is send its events so."""
        # xdist 3.8 gives its WorkerInteractor no name.
        for plugin in config.pluginmanager.get_plugins():
            if hasattr(plugin, "sendevent"):
                packing = cls(plugin.channel.send, partial(_is_next_known, plugin))
                plugin.sendevent = packing.sendevent

    def sendevent(self, name: str, **details: Any) -> None:
        """Send an event; that an item went well to its end waits until the next one begins.

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
        return name != "logstart" and self._is_next_known()

    def _pack(self, name: str, details: Details) -> bytes | None:
        """Return what is new in an event; None if it is not certain to arrive as it is.

        What plugins add to a report may be anything that execnet takes, and so may a traceback. A
        report that lacks what is told once would be given it.
        """
        if name not in _EVENTS:
            return None
        told, facts = self._told, details
        try:
            if name == "testreport":
                facts = details["data"]
                if not _REPEATED.keys() <= facts.keys():
                    return None
                facts = {**facts, **{key: marshal.dumps(facts[key], _FORMAT) for key in _OWN}}
            news = {
                key: value
                for key, value in facts.items()
                if key not in _REPEATED or key not in told or told[key] != value
            }
            if not _are_plain(news.values()):
                return None
            for key in news.keys() & _OWN:
                part = details["data"][key]
                if not _are_plain(part.values() if type(part) is dict else part):
                    return None
            packed = marshal.dumps((name, news), _FORMAT)
        except ValueError:
            return None
        for key in news.keys() & _REPEATED.keys():
            told[key] = news[key]
        return packed

    def _flush(self) -> None:
        if self._held:
            held, self._held = self._held, []
            self._send(marshal.dumps(held, _FORMAT))


def unpacking(receive: Callable[[Any], None]) -> Callable[[Any], None]:
    """Return what takes a worker's messages, and gives its events to `receive` as xdist's are."""
    told: Details = {}

    def take(message: Any) -> None:
        if type(message) is not bytes:
            receive(message)
            return
        for packed in marshal.loads(message):  # noqa: S302 - it has no code to run
            name, news = marshal.loads(packed)  # noqa: S302
            told.update((key, news[key]) for key in _REPEATED if key in news)
            receive((name, _details(name, news, told)))

    return take


def _are_plain(values: Iterable[object]) -> bool:
    """Whether they arrive as they are: marshal would make bytes of what is like them."""
    return all(
        type(value) in _SCALARS or (type(value) in _SEQUENCES and _are_plain(value))  # type: ignore[arg-type]
        for value in values
    )


def _details(name: str, news: Details, told: Details) -> Details:
    repeated = {key: told[key] for key, events in _REPEATED.items() if name in events}
    details = {**repeated, **news}
    if name != "testreport":
        return details
    own = {key: marshal.loads(details[key]) for key in _OWN}  # noqa: S302
    return {"data": {**details, **own}}


def _is_next_known(worker: Any) -> bool:
    """Whether xdist's WorkerInteractor has the item in its queue that it needs to begin the next.

    The queue of xdist 3.6 can't be looked into.
    """
    return bool(getattr(worker.torun, "_items", ()))
