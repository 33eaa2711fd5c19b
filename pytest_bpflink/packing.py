"""Reports on their way from a worker: packed as JSON, which C writes and reads.

execnet serializes in Python, string by string. In an emulated guest that takes a quarter of the
time of a short test, and a run of some thousand tests waits for the controller to read it all.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Generator

_PACKED = "bpflink_packed"

# What each report has, and in a shape that is known. The rest is execnet's: a longrepr has tuples,
# and plugins add what they like. The node id is left for whoever looks at what is sent.
_PLAIN = ("location", "outcome", "when", "duration", "start", "stop", "sections")

_SCALARS = (str, int, float, bool, type(None))


class ReportPacking:
    """Packs reports in workers, around every other plugin's hook, and unpacks them again."""

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_report_to_serializable(
        self,
    ) -> Generator[None, dict[str, Any] | None, dict[str, Any] | None]:
        """Pack what the others made of a report."""
        data = yield
        return pack(data) if data else data

    @pytest.hookimpl(tryfirst=True)
    def pytest_report_from_serializable(self, data: dict[str, Any]) -> None:
        """Unpack it before the others see it."""
        unpack(data)


def pack(data: dict[str, Any]) -> dict[str, Any]:
    """Return a report's data with most of it in one string."""
    plain = {name: data[name] for name in _PLAIN if name in data}
    keywords = data.get("keywords", {})
    if all(type(value) is int and value == 1 for value in keywords.values()):
        plain["keywords"] = list(keywords)
    properties = data.get("user_properties", [])
    if all(type(value) in _SCALARS for _, value in properties):
        plain["user_properties"] = properties
    try:
        packed = json.dumps(plain)
    except (TypeError, ValueError):  # somebody's own class, which is no more execnet's
        return data
    rest = {name: value for name, value in data.items() if name not in plain}
    return {_PACKED: packed, **rest}


def unpack(data: dict[str, Any]) -> None:
    """Put everything back where it was, tuples as tuples; what is not packed stays as it is."""
    packed = data.pop(_PACKED, None)
    if packed is None:
        return
    plain = json.loads(packed)
    for name in ("sections", "user_properties"):
        if name in plain:
            plain[name] = [tuple(pair) for pair in plain[name]]
    if "keywords" in plain:
        plain["keywords"] = dict.fromkeys(plain["keywords"], 1)
    if plain.get("location"):
        plain["location"] = tuple(plain["location"])
    data.update(plain)
