"""Workers' events about items arrive as they were sent: none is lost, held back, or stale."""

from __future__ import annotations

import enum
import os
import random
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_bpflink import LinkType
from pytest_bpflink.matrix.event_packing import Packing, unpacking
from pytest_bpflink.matrix.plain_values import dumps, sealed

if TYPE_CHECKING:
    from tests.conftest import RunWithFakes

REPORT = {
    "nodeid": "test_it.py::test_it[6.1]",
    "location": ("test_it.py", 3, "test_it[\udcff-6.1]"),
    "keywords": {"test_it": 1, "a mark": 1},
    "outcome": "passed",
    "longrepr": None,
    "when": "call",
    "user_properties": [("text", "x"), ("number", 1.5), ("nothing", None), ("yes", True)],
    "sections": [("Captured stdout call", "said\n")],
    "duration": 0.1 + 0.2,
    "start": 1795260101.471,
    "stop": 1795260101.771,
    "$report_type": "TestReport",
    "item_index": 7,
    "worker_id": "6.1",
    "testrun_uid": "0123",
}


START = ("logstart", {"nodeid": REPORT["nodeid"], "location": REPORT["location"]})
FINISH = ("logfinish", START[1])
COMPLETE = ("runtest_protocol_complete", {"item_index": 7, "duration": 0.1})
SETUP, CALL, TEARDOWN = (
    ("testreport", {"data": {**REPORT, "when": when}}) for when in ("setup", "call", "teardown")
)
ITEM = [START, SETUP, CALL, TEARDOWN, FINISH, COMPLETE]


def sent(events: list[tuple[str, Any]], *, is_next_known: bool = False) -> list[Any]:
    """Return the messages for some events."""
    messages: list[Any] = []
    packing = Packing(messages.append, lambda: is_next_known)
    for name, details in events:
        packing.sendevent(name, **details)
    return messages


def received(messages: list[Any]) -> list[Any]:
    """Return the events that the controller makes of messages."""
    events: list[Any] = []
    take = unpacking(events.append, damaged=pytest.fail)
    for message in messages:
        take(message)
    return events


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"location": None},
        {"longrepr": ("test_it.py", 3, "Skipped: why"), "outcome": "skipped"},
        {"longrepr": "why", "outcome": "failed"},
        {"longrepr": {"reprcrash": {"lineno": 3}, "sections": [("a", "b", "-")]}},
        {"user_properties": [("bytes", b"\0"), ("a tuple", (1, 2)), ("by number", {1: 2})]},
        {"user_properties": [("a list", [1, 2])]},
        {"user_properties": [("number", True)]},
        {"user_properties": [("number", 1)]},
        {"user_properties": [("number", 1.0)]},
        {"user_properties": []},
        {"keywords": {"test_it": 1, "of a plugin": ("a", "b")}},
        {"keywords": {"test_it": True, "a mark": 1}},
        {"keywords": {"another": 1}},
        {"of_a_plugin": [("a", "b")]},
        {"of_a_plugin": 3.5},
        {"sections": [("of a plugin", b"\0")]},
        {"sections": []},
        {"$report_type": "OfAPlugin", "keywords": {}},
    ],
)
def test_packed_events_come_out_the_same(change: dict[str, Any]) -> None:
    changed = ("testreport", {"data": {**REPORT, **change}})
    events = [*ITEM, START, SETUP, changed, TEARDOWN, FINISH, COMPLETE, *ITEM]
    out = received(sent(events))
    assert out == events
    assert [repr(sorted(_data(event).items())) for event in out] == [
        repr(sorted(_data(event).items())) for event in events
    ]


def _data(event: tuple[str, Any]) -> dict[str, Any]:
    data: dict[str, Any] = event[1].get("data", event[1])
    return data


class Awkward(enum.IntEnum):
    """Its repr fails."""

    ONE = 1

    def __repr__(self) -> str:
        raise ValueError


class Text(str):
    """A subclass of str, as in libraries for paths or arrays."""

    __slots__ = ()


@pytest.mark.parametrize(
    ("value", "arrives"),
    [
        (bytearray(b"\0"), "bytearray(b'\\x00')"),
        (Path("/a"), f"{Path('/a')!r}"),
        (LinkType.XDP, "<LinkType.XDP: 6>"),
        (Text("text"), "text"),
        ([{"a": (object,)}], [{"a": ("<class 'object'>",)}]),
        ({(1, LinkType.XDP): {1}}, {(1, "<LinkType.XDP: 6>"): {1}}),
        ("\udcff", "\udcff"),
        (1j, 1j),
    ],
)
def test_a_value_that_can_t_be_sent_arrives_as_its_repr(value: object, arrives: object) -> None:
    def report(value: object) -> tuple[str, Any]:
        return "testreport", {"data": {**REPORT, "user_properties": [("odd", value)]}}

    assert received(sent([*ITEM[:2], report(value), *ITEM[3:]])) == [
        *ITEM[:2],
        report(arrives),
        *ITEM[3:],
    ]


def test_a_value_whose_repr_fails_arrives_as_well() -> None:
    (event,) = received(sent([("other", {"value": Awkward.ONE})]))
    assert "Awkward" in event[1]["value"]


def test_a_value_that_contains_itself_arrives() -> None:
    endless: list[Any] = []
    endless.append(endless)
    (event,) = received(sent([("other", {"value": endless})]))
    assert "[[...]]" in str(event)


def test_1000_random_reports_arrive() -> None:
    chosen = random.Random(20261129)  # noqa: S311 (repeatable, and no secret)
    scalars = [
        None,
        True,
        0,
        2**70,
        0.5,
        "a",
        "\udc80",
        b"\xff",
        LinkType.XDP,
        Path(),
        object(),
        set,
    ]

    def value(depth: int) -> object:
        kind = chosen.randrange(6) if depth else 0
        parts = [value(depth - 1) for _ in range(chosen.randrange(4))] if kind else []
        return [chosen.choice(scalars), parts, tuple(parts), dict.fromkeys("ab", parts), *scalars][
            kind
        ]

    for _ in range(1000):
        changed = {chosen.choice([*REPORT, "of_a_plugin"]): value(4) for _ in range(3)}
        events = [*ITEM[:2], ("testreport", {"data": {**REPORT, **changed}}), *ITEM[3:]]
        assert [name for name, _ in received(sent(events))] == [name for name, _ in events]


def test_fields_that_a_report_lacks_are_not_added() -> None:
    lacking = ("testreport", {"data": {"nodeid": "another", "$report_type": "OfAPlugin"}})
    events = [*ITEM, lacking, *ITEM]
    assert received(sent(events)) == events


def test_events_that_say_where_a_worker_dies_are_sent_at_once() -> None:
    counts = [len(sent(ITEM[:number])) for number in range(1, 7)]
    assert counts == [1, 2, 3, 3, 4, 5]
    failed = ("testreport", {"data": {**REPORT, "when": "teardown", "outcome": "failed"}})
    assert received(sent([*ITEM[:3], failed])) == [*ITEM[:3], failed]


def test_the_end_of_a_passed_item_is_sent_when_the_next_begins() -> None:
    messages = sent([*ITEM, *ITEM], is_next_known=True)
    assert [len(received(messages[:number])) for number in range(1, 6)] == [1, 2, 3, 7, 8]
    failed = ("testreport", {"data": {**REPORT, "when": "teardown", "outcome": "failed"}})
    assert received(sent([*ITEM[:3], failed], is_next_known=True)) == [*ITEM[:3], failed]


def test_events_that_wait_are_sent_before_later_ones() -> None:
    other = ("warning_recorded", {"nodeid": "", "warning_message_data": {"message_args": ("a",)}})
    events = [*ITEM[:4], other, FINISH, other, COMPLETE, ("workerfinished", {})]
    assert received(sent(events)) == events


def test_values_that_reports_share_are_sent_once() -> None:
    messages = sent(ITEM)
    assert all(type(message) is bytes for message in messages)
    assert b"".join(messages).count(b"test_it.py::test_it") == 1
    assert b"".join(messages).count(b"a mark") == 1


def damage_of(messages: list[Any]) -> tuple[list[Any], list[str]]:
    """Return the events that the controller makes of messages, and why it finds some damaged."""
    events: list[Any] = []
    reasons: list[str] = []
    take = unpacking(events.append, damaged=reasons.append)
    for message in messages:
        take(message)
    return events, reasons


def test_no_event_comes_of_a_damaged_message_nor_of_those_after_it() -> None:
    messages = sent([*ITEM, *ITEM])
    after = len(received(messages[:3]))
    for damaged in (messages[3][:-1], messages[2], b"\xff" * 100, b"", messages[4]):
        events, reasons = damage_of([*messages[:3], damaged, *messages[3:], ("workerready", {})])
        assert len(events) == after
        assert len(reasons) == 1


def test_the_end_of_a_worker_is_known_after_a_damaged_message() -> None:
    end = object()
    assert damage_of([b"", end])[0] == [end]


@pytest.mark.parametrize(
    "value", [None, [None], [dumps(("logstart", {}))], [dumps(("other", {}))], [dumps((1, 2))]]
)
def test_values_that_are_no_events_are_damaged(value: object) -> None:
    events, (reason,) = damage_of([sealed(0, dumps(value))])
    assert events == []
    assert "event" in reason


DAMAGE = """
    import os, time, pytest

    @pytest.mark.parametrize("number", range(6))
    def test_x(number, request):
        if number != 2 or "native" in request.node.name:
            return
        (worker,) = [
            plugin
            for plugin in request.config.pluginmanager.get_plugins()
            if hasattr(plugin, "sendevent")
        ]
        send = worker.channel.send
        {damage}
        time.sleep(60)
"""


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param("send(os.urandom(500))", id="random"),
        pytest.param("send(last[0][:-1])", id="cut"),
        pytest.param("send(last[0])", id="repeated"),
    ],
)
def test_an_item_whose_guest_sends_damaged_bytes_is_an_error_and_the_others_run(
    pytester: pytest.Pytester, with_fakes: RunWithFakes, damage: str
) -> None:
    pytester.makepyfile(DAMAGE.format(damage=damage))
    pytester.makeconftest(
        """
        import builtins, pytest

        builtins.last = []

        @pytest.hookimpl(tryfirst=True)
        def pytest_collection_finish(session):
            for plugin in session.config.pluginmanager.get_plugins():
                if hasattr(plugin, "sendevent"):
                    packing = plugin.sendevent.__self__
                    send = packing._send

                    def remember(message, send=send):
                        last[:] = [message]
                        send(message)

                    packing._send = remember
        """
    )

    result = with_fakes("--kernel", "native,good")

    result.assert_outcomes(passed=11, failed=1)
    result.stdout.fnmatch_lines(
        [
            (
                "kernel good: the worker sent a damaged message (it*) in the call of this test;"
                f" the kernel (Linux {os.uname().release}) may be the cause"
            )
        ]
    )
    result.stdout.no_fnmatch_line("*INTERNALERROR*")


def test_reports_of_workers_are_as_without_them(
    pytester: pytest.Pytester, with_fakes: RunWithFakes
) -> None:
    """Plugins here see them so, with the changes that other plugins made in the worker."""
    pytester.makepyfile(
        test_it="""
        import pytest

        @pytest.mark.mine
        def test_it(record_property):
            record_property("answer", 42)
            record_property("both", (4, 2))
            print("said")

        def test_skipped():
            pytest.skip("why not")
        """
    )
    pytester.makeini("[pytest]\nmarkers = mine: of this test\njunit_family = xunit1")
    pytester.makeconftest(
        """
        import pytest

        @pytest.hookimpl(wrapper=True)
        def pytest_report_to_serializable(config):
            data = yield
            data["sections"].append(("worker", config.workerinput["workerid"]))
            return data

        def pytest_runtest_logreport(report):
            if report.when == "call":
                print(report.keywords.get("mine"), report.location, report.user_properties[-2:])
                print([title for title, _ in report.sections], type(report.sections[0]))
                print(type(report.longrepr))
        """
    )
    result = with_fakes("-rs", "--kernel", "6.1")
    result.assert_outcomes(passed=1, skipped=1)
    output = result.stdout.str()
    assert "1 ('test_it.py', 2, 'test_it[6.1]') [('answer', 42), ('both', (4, 2))]" in output
    assert "['Captured stdout call', 'worker'] <class 'tuple'>" in output
    assert "<class 'tuple'>" in output
    assert "why not" in output


def test_odd_values_end_no_session(
    pytester: pytest.Pytester, with_fakes: RunWithFakes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In plain pytest, each test passes, or fails by its own assertion."""
    # For `pytester`, which reads the output as UTF-8.
    monkeypatch.setenv("PYTHONIOENCODING", "utf-8:backslashreplace")
    pytester.makepyfile(
        test_odd="""
        import dataclasses, os, pathlib, warnings
        from pytest_bpflink import LinkType

        class ProbeWarning(UserWarning):
            pass

        @dataclasses.dataclass
        class Record:
            number: int

        def test_name(): assert os.fsdecode(b"f\\xf6\\xf6") == "foo"
        def test_enum(record_property): record_property("type", LinkType.XDP)
        def test_path(record_property): record_property("path", pathlib.Path("/a"))
        def test_record(record_property): record_property("record", Record(3))
        def test_text(record_property): record_property("text", "\\udcff")
        def test_printed(): print("printed \\udcff")
        def test_warns(): warnings.warn("old probe", ProbeWarning)
        def test_warns_oddly(): warnings.warn("\\udcff", UserWarning)
        """
    )

    result = with_fakes(
        "--kernel", "native,good", "-W", "default", "--junitxml=x.xml",
        "--kernel-report", "x.html", "--kernel-report", "x.json", "--kernel-report", "x.md",
    )  # fmt: skip

    result.assert_outcomes(passed=14, failed=2, warnings=4)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["*test_odd.ProbeWarning: old probe*"])
    properties = (pytester.path / "x.xml").read_text()
    assert "&lt;LinkType.XDP: 6&gt;" in properties
    assert "Record(number=3)" in properties


def test_a_guest_s_warning_names_no_function_to_call(
    pytester: pytest.Pytester, with_fakes: RunWithFakes
) -> None:
    pytester.makepyfile(
        test_it="""
        def test_it(request):
            (worker,) = [
                plugin
                for plugin in request.config.pluginmanager.get_plugins()
                if hasattr(plugin, "sendevent")
            ]
            data = dict.fromkeys(["filename", "lineno", "file", "line", "source", "module"])
            data |= {"filename": "x", "lineno": 1, "message_str": "said"}
            data |= {"message_module": "os", "message_class_name": "system"}
            data |= {"message_args": ["touch called"]}
            data |= {"category_module": "os", "category_class_name": "system"}
            worker.sendevent(
                "warning_recorded",
                warning_message_data=data, when="runtest", nodeid="", location=None,
            )
        """
    )

    result = with_fakes("--kernel", "good", "-W", "default")

    result.assert_outcomes(passed=1, warnings=1)
    result.stdout.fnmatch_lines(["*os.system: said*"])
    assert not (pytester.path / "called").exists()
