"""What a worker tells of its items, on the way to the controller: few messages, and short ones.

xdist sends six messages for each item, which execnet serializes in Python, string by string. In an
emulated guest that takes a quarter of the time of a short test. Here events go as JSON, which C
writes and reads, and what all events of an item would repeat is told once.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

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

_SHAPED = {"location", "keywords", "user_properties", "sections", "longrepr"}

_SCALARS = {str, int, float, bool, type(None)}


class Packing:
    """Packs the events of a worker, whose order stays."""

    def __init__(self, send: Callable[[object], None]) -> None:
        self._send = send
        self._told: Details = {}
        self._held: list[tuple[str, Details]] = []

    @classmethod
    def start(cls, config: pytest.Config) -> None:
        """Have the worker that this process is send its events so."""
        # xdist 3.8 gives its WorkerInteractor no name.
        for plugin in config.pluginmanager.get_plugins():
            if hasattr(plugin, "sendevent"):
                plugin.sendevent = cls(plugin.channel.send).sendevent

    def sendevent(self, name: str, **details: Any) -> None:
        """Send an event; that a test was torn down well waits for its item to be finished.

        A worker that dies in between is seen to have died in that item's teardown, as it did.
        """
        plain = _plain(name, details)
        if plain is None:
            self._flush()
            self._send((name, details))
            return
        self._held.append((name, self._news(plain)))
        well = plain.get("when") == "teardown" and plain.get("outcome") == "passed"
        if not well:
            self._flush()

    def _news(self, plain: Details) -> Details:
        told = self._told
        news = {
            key: value
            for key, value in plain.items()
            if key not in _REPEATED or key not in told or told[key] != value
        }
        told.update((key, news[key]) for key in _REPEATED if key in news)
        return news

    def _flush(self) -> None:
        if self._held:
            held, self._held = self._held, []
            self._send(json.dumps(held))


def unpacking(receive: Callable[[Any], None]) -> Callable[[Any], None]:
    """Return what takes a worker's messages, and gives its events to `receive` as xdist's are."""
    told: Details = {}

    def take(message: Any) -> None:
        if type(message) is not str:
            receive(message)
            return
        for name, news in json.loads(message):
            told.update((key, news[key]) for key in _REPEATED if key in news)
            receive((name, _details(name, news, told)))

    return take


def _plain(name: str, details: Details) -> Details | None:
    """Return an event as JSON can carry it, for `_details` to make the same of; None if it can't.

    What plugins add to a report may be anything that execnet takes, and so may a traceback. A
    report that lacks what is told once would be given it.
    """
    if name not in _EVENTS:
        return None
    if name != "testreport":
        return details
    report = details["data"]
    return _plain_report(report) if _REPEATED.keys() <= report.keys() else None


def _plain_report(report: Details) -> Details | None:
    shaped = (*report["user_properties"], *report["sections"], report["location"])
    if (
        any(type(value) is not int or value != 1 for value in report["keywords"].values())
        or not all(map(_is_plain, (*shaped, report["longrepr"])))
        or any(type(value) not in _SCALARS for key, value in report.items() if key not in _SHAPED)
    ):
        return None
    # Copies: they are compared with the next report's.
    keywords, properties = list(report["keywords"]), list(report["user_properties"])
    return {**report, "keywords": keywords, "user_properties": properties}


def _is_plain(value: object) -> bool:
    if type(value) is tuple:
        return all(type(part) in _SCALARS for part in value)
    return value is None or type(value) is str


def _details(name: str, news: Details, told: Details) -> Details:
    repeated = {key: told[key] for key, events in _REPEATED.items() if name in events}
    details = {**repeated, **news}
    for key in ("location", "longrepr"):
        if type(details.get(key)) is list:
            details[key] = tuple(details[key])
    if name != "testreport":
        return details
    details["keywords"] = dict.fromkeys(details["keywords"], 1)
    for key in ("user_properties", "sections"):
        details[key] = [tuple(pair) for pair in details[key]]
    return {"data": details}
