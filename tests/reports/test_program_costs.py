"""Reports have the costs of the programs that tests load, and sessions without one ask nothing."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from pytest_bpflink.features.privileges import missing_privileges
from pytest_bpflink.reports import as_html, as_json, as_markdown
from pytest_bpflink.reports.recorder import Recorder
from pytest_bpflink.reports.results import ATTRIBUTE, Cost, Program
from tests.support.kernel_runs import make_run, read, reports
from tests.support.stored_kernels import CACHE

if TYPE_CHECKING:
    from pathlib import Path

SOURCE = """
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

const volatile int times;
int total;

SEC("tc")
int add(struct __sk_buff *skb)
{
	char text[24] = {};

	bpf_probe_read_kernel(text, sizeof(text), (void *)0);
	for (int i = 0; i < times && i < 100; i++)
		total += text[i & 15];
	return 0;
}

SEC("?tc")
int unloaded(struct __sk_buff *skb)
{
	return 0;
}

char LICENSE[] SEC("license") = "GPL";
"""
TESTS = """
import pytest

@pytest.mark.parametrize("times", [1, 50, 2])
def test_loads(bpf_object, times):
    assert bpf_object("add.bpf.c", rodata={"times": times}).program("add").id

def test_fails(bpf_object):
    bpf_object("other.bpf.c", only=["unloaded"])
    assert 0

def test_is_watched(request):
    assert request.config.pluginmanager.hasplugin("bpflink-costs") is EXPECTED
"""


@pytest.fixture
def project(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    monkeypatch.setenv("BPFLINK_CACHE", str(CACHE))
    for name in ("add", "other"):
        (pytester.path / f"{name}.bpf.c").write_text(SOURCE)
    return pytester


def costs(file: Path) -> dict[tuple[str, str], dict[str, Any]]:
    report = read(file)
    return {(each["object"], each["program"]): each["costs"] for each in report["programs"]}


def see(cost: dict[str, Any]) -> None:
    # The first way to load it: the second goes through more instructions, and is the same file.
    assert 10 < cost["instructions"] < 200
    assert cost["size"] > 20
    assert 24 <= cost["stack"] <= 64
    assert cost["microseconds"] > 0


@pytest.mark.skipif(bool(missing_privileges()), reason="loads programs")
@pytest.mark.parametrize("options", [[], ["-n1"]], ids=["alone", "xdist"])
def test_costs_on_this_kernel(project: pytest.Pytester, options: list[str]) -> None:
    project.makepyfile(f"EXPECTED = True\n{TESTS}")
    result = project.runpytest_subprocess("-p", "no:cacheprovider", *options, *reports("report"))
    result.assert_outcomes(passed=4, failed=1)
    found = costs(project.path / "report.json")
    assert [*found] == [("add.bpf.c", "add"), ("other.bpf.c", "unloaded")]
    see(found["add.bpf.c", "add"]["native"])
    assert found["other.bpf.c", "unloaded"]["native"]["instructions"] == 2
    assert "<td>2<small>" in (project.path / "report.html").read_text()
    assert "| `unloaded` | `other.bpf.c` | 2 / " in (project.path / "report.md").read_text()


@pytest.mark.skipif(bool(missing_privileges()), reason="loads programs")
def test_nothing_is_asked_without_a_report(project: pytest.Pytester) -> None:
    project.makepyfile(f"EXPECTED = False\n{TESTS}")
    result = project.runpytest_subprocess("-p", "no:cacheprovider")
    result.assert_outcomes(passed=4, failed=1)


def test_costs_on_other_kernels(project: pytest.Pytester) -> None:
    project.makepyfile(f"EXPECTED = True\n{TESTS}")
    result = project.runpytest_subprocess(
        "-p", "no:cacheprovider", "--kernel", "5.10,7.2", *reports("report"), timeout=300
    )
    result.assert_outcomes(passed=8, failed=2)
    found = costs(project.path / "report.json")
    assert [*found] == [("add.bpf.c", "add"), ("other.bpf.c", "unloaded")]
    for kernel in ("5.10", "7.2"):
        see(found["add.bpf.c", "add"][kernel])
        assert found["other.bpf.c", "unloaded"][kernel]["instructions"] == 2


def recorded(*rows: object) -> dict[Program, dict[str, Cost]]:
    """Return what is recorded of reports with these rows, of which a guest may send any."""
    recorder = Recorder.__new__(Recorder)
    recorder._run = make_run({})
    for row in rows:
        report = pytest.TestReport("t", ("", 0, ""), {}, "passed", None, "call")
        setattr(report, ATTRIBUTE, row)
        recorder._add_costs(report, "6.1")
    return recorder._run.costs


def test_most_expensive_way_counts() -> None:
    rows = [[("a.bpf.c", "p", number, 3, None, 5)] for number in (10, 30, 20)]
    assert recorded(*rows) == {Program("a.bpf.c", "p"): {"6.1": Cost(30, 3, None, 5)}}


@pytest.mark.parametrize(
    "rows",
    [
        5,
        "text",
        [5],
        [("a", "p")],
        [(1, "p", 1, 1, 1, 1)],
        [("a", "p", -1, 1, 1, 1)],
        [("a", "p", True, 1, 1, 1)],
        [("a", "p", 1 << 40, 1, 1, 1)],
        [("a", "p", 1, "x", 1, 1)],
    ],
)
def test_what_a_broken_guest_sends_is_left_out(rows: object) -> None:
    assert recorded(rows) == {}


def test_what_is_unknown_is_shown_as_that() -> None:
    run = make_run({"t": "ppp"})
    run.costs = {Program("a|b.bpf.c", "p<q>"): {"5.10": Cost(1234, 56, None, None)}}
    [row] = as_json.document(run)["programs"]
    assert json.loads(json.dumps(row))["costs"] == {
        "5.10": {"instructions": 1234, "size": 56, "stack": None, "microseconds": None}
    }
    page = as_html.render(run)
    assert "p&lt;q&gt;<small>a|b.bpf.c</small></th><td>1,234<small>56 B</small></td>" in page
    assert "<td></td><td></td></tr>" in page
    text = as_markdown.render(run)
    assert "| `p<q>` | <code>a&#124;b.bpf.c</code> | 1,234 / 56 / - / - |  |  |" in text


def test_run_without_programs_shows_nothing_of_them() -> None:
    run = make_run({"t": "ppp"})
    assert "What verification cost" not in as_markdown.render(run)
    assert '<section id="costs"></section>' in as_html.render(run)
