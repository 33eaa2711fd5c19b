"""Reports arrive from workers as they were sent."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from pytest_bpflink.packing import pack, unpack

if TYPE_CHECKING:
    from conftest import RunWithFakes

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
}


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"location": None},
        {"longrepr": ("test_it.py", 3, "Skipped: why"), "outcome": "skipped"},
        {"user_properties": [("bytes", b"\0"), ("a tuple", (1, 2)), ("by number", {1: 2})]},
        {"keywords": {"test_it": 1, "of a plugin": ("a", "b")}},
        {"of_a_plugin": [("a", "b")]},
        {"sections": [("of a plugin", b"\0")]},
    ],
)
def test_what_is_packed_comes_out_the_same(change: dict[str, Any]) -> None:
    data = {**REPORT, **change}
    packed = pack(dict(data))
    assert packed["$report_type"] == "TestReport"
    unpack(packed)
    assert packed == data
    assert repr(sorted(packed.items())) == repr(sorted(data.items()))


def test_most_of_a_report_is_one_string() -> None:
    packed = pack(dict(REPORT))
    assert sorted(packed) == ["$report_type", "bpflink_packed", "longrepr", "nodeid"]


def test_reports_of_workers_are_as_without_them(
    pytester: pytest.Pytester, with_fakes: RunWithFakes
) -> None:
    """Here, as those of a run without workers, and as other plugins of the worker made them."""
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
