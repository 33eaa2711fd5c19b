"""The formats of --kernel-report, with the worst text that tests and consoles can print."""

from __future__ import annotations

import json
import re
import resource
from contextlib import contextmanager
from html.parser import HTMLParser
from typing import TYPE_CHECKING

import pytest

from pytest_bpflink.reports import as_html, as_json, as_markdown, files, text
from pytest_bpflink.reports.results import Result, Run, RunKernel, Section, Uncollected
from tests.support.kernel_runs import HOSTILE, kernel, make_run

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

CLEAN = text.clean(HOSTILE)


@pytest.fixture
def hostile() -> Run:
    """Return a run in which every text is hostile."""
    run = make_run({f"test_a.py::test_x[{CLEAN}]": "pfs"})
    for result in next(iter(run.tests.values())).values():
        result.reason, result.sections = CLEAN, (Section(CLEAN, CLEAN),)
    run.project = CLEAN
    run.stopped = CLEAN
    run.kernels = [kernel("5.10"), kernel("6.1"), kernel("6.12", problem=CLEAN)]
    run.uncollected = [Uncollected(CLEAN, "error", CLEAN, CLEAN)]
    return run


def test_no_text_moves_a_cursor_or_hides_what_is_beside_it() -> None:
    assert "red " in CLEAN
    assert CLEAN.encode()
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e]|\[31m|title", CLEAN)
    assert r"\x00\x08\x9b \udc80 \u202e" in CLEAN
    assert text.clean("a\tb\r\nc\n") == "a\tb\nc\n"


def test_text_that_is_cut_says_so_and_keeps_beginning_and_end() -> None:
    cut = text.cut("a" * 100 + "b" * 100, 90)

    assert cut.startswith("a" * 30 + "\n[... 110 characters are left out here")
    assert cut.endswith("\n" + "b" * 60)
    assert text.cut("short", 5) == "short"


# Differences


@pytest.mark.parametrize(
    ("letters", "changes_at", "by_outcome"),
    [
        ("ppp", None, {}),
        ("spp", "6.1", {"skipped": ["5.10"], "passed": ["6.1", "6.12"]}),
        ("ppf", "6.12", {"passed": ["5.10", "6.1"], "failed": ["6.12"]}),
        ("pfp", "6.1", {"passed": ["5.10", "6.12"], "failed": ["6.1"]}),
        # A kernel that did not boot, was not reached, or has no such item does not count.
        ("pep", None, {}),
        ("pn-", None, {}),
        ("fep", "6.12", {"failed": ["5.10"], "passed": ["6.12"]}),
    ],
)
def test_the_first_kernel_where_an_outcome_changes(
    letters: str, changes_at: str | None, by_outcome: dict[str, list[str]]
) -> None:
    difference = make_run({"t": letters}).differences().get("t")

    assert (difference and difference.changes_at) == changes_at
    assert (difference.by_outcome if difference else {}) == by_outcome


def test_the_first_kernel_is_by_release_in_any_order_of_kernels() -> None:
    run = make_run({"t": "ppff"}, kernels=("7.2", "6.12", "5.10", "6.1"))

    assert run.differences()["t"].changes_at == "6.12"
    assert str(run.differences()["t"]) == (
        "failed on 5.10, 6.1; passed on 6.12, 7.2; changes at 6.12"
    )


def test_the_worst_differences_come_first() -> None:
    run = make_run({"skips": "spp", "fails": "pfp", "skips too": "sps"})

    assert list(run.differences()) == ["fails", "skips", "skips too"]


# HTML


class Elements(HTMLParser):
    """The names of a page's elements, and its texts."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.names: set[str] = set()
        self.texts: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: object) -> None:
        del attrs
        self.names.add(tag)

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def test_html_takes_nothing_for_markup(hostile: Run) -> None:
    page = Elements(as_html.render(hostile))

    plain = Elements(as_html.render(make_run({"t": "pfs"})))
    assert page.names - plain.names <= {"details", "summary"}
    # Project, problem, uncollected, test, details: each is unchanged.
    assert sum(CLEAN in said for said in page.texts) >= 10
    assert not any(evil in as_html.render(hostile) for evil in ("<img", "</script></", "\x1b"))


def test_html_has_common_texts_once_and_says_how_much_it_leaves_out() -> None:
    run = make_run({f"test_a.py::test_{n}": "pef" for n in range(100)})
    page = as_html.render(run)
    assert page.count("did not boot") == 3  # in the list of reasons, as reason and as text
    assert "<li>and 88 more</li>" in page

    for results in run.tests.values():
        results["6.12"].sections = (Section("Failure", results["6.12"].nodeid * 30_000),)
    large = as_html.render(run)
    assert len(large) < 25_000_000
    assert "Left out, since the page would be too large" in large
    assert "assert on 6.12" in large


# Markdown


def test_markdown_takes_nothing_for_markup(hostile: Run) -> None:
    page = as_markdown.render(hostile)

    outside = re.sub(r"^(````*)text\n.*?^\1$", "", page, flags=re.MULTILINE | re.DOTALL)
    assert "<script" not in outside
    assert "<img" not in outside
    assert "@all" not in outside
    assert "#1" not in outside.replace("&#1", "")
    # The fence is longer than any in the text.
    assert "\n```text\n" in page
    # Differences and the matrix: a row stays a row, with its columns.
    rows = [row for row in outside.splitlines() if row.startswith("| <code>")]
    assert [len(re.split(r"(?<!\\)\|", row)) for row in rows] == [7, 6]


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("test_pin[raw_tp]", "`test_pin[raw_tp]`"),
        ("a|b", "<code>a&#124;b</code>"),
        ("a`b", "<code>a&#96;b</code>"),
        ("a\\|b", "<code>a&#92;&#124;b</code>"),
        ("<b>", "`<b>`"),
    ],
)
def test_markdown_shows_ids_as_code(name: str, shown: str) -> None:
    assert f"\n| {shown} | ✅ | ❌ | ⏭️ |\n" in as_markdown.render(make_run({name: "pfs"}))


def test_a_fence_is_longer_than_any_in_its_text() -> None:
    run = make_run({"t": "ppf"})
    run.tests["t"]["6.12"].sections = (Section("Failure", "````\n</details>"),)

    assert "\n`````text\nFailure\n````\n</details>\n`````\n" in as_markdown.render(run)


def test_markdown_stays_below_the_limit_and_says_how_much_it_leaves_out() -> None:
    run = make_run({f"test_a.py::test_{n}[{'x' * 100}]": "pfs" for n in range(5000)})
    for results in run.tests.values():
        results["6.1"].sections = (Section("Failure", results["6.1"].nodeid * 1000),)

    page = as_markdown.render(run)

    assert 800_000 < len(page.encode()) < 1 << 20
    left_out = re.findall(r"^_(\d+) of 5000 ([\w ]+) are left out here", page, re.MULTILINE)
    assert [what for _, what in left_out] == ["tests whose outcome differs", "causes", "tests"]
    assert all(0 < int(number) < 5000 for number, _ in left_out)
    assert page.count("<details>") == page.count("</details>")
    # The table of kernels is complete.
    assert "| `6.12` | 6.12.0-7-amd64 (6.12.176) | kvm | 1.5 s | 0 | 0 | 5000 | 0 |" in page


# JSON


def test_json_keeps_everything(hostile: Run) -> None:
    (test,) = hostile.tests.values()
    test["6.1"].nodeid = HOSTILE

    report = json.loads(as_json.render(hostile))

    (said,) = report["tests"]
    assert said["results"]["6.1"]["nodeid"] == HOSTILE
    assert report["details"][said["results"]["6.1"]["details"]] == [{"title": CLEAN, "text": CLEAN}]


# Files


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """Let no file grow beyond a size in bytes, as on a disk that gets full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    file = tmp_path / "r.json"
    file.write_text("old")

    with largest_file(100), pytest.raises(files.Unwritable, match=r"r\.json was not .*too large"):
        files.write(make_run({"t": "ppp"}), file)

    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"r.json": "old"}


def test_a_link_stays_a_link_and_a_new_file_has_the_usual_mode(tmp_path: Path) -> None:
    (tmp_path / "usual").touch()
    link = tmp_path / "link.json"
    link.symlink_to(tmp_path / "r.json")

    (file,) = files.checked(["link.json", "./link.json"], tmp_path)
    files.write(make_run({"t": "ppp"}), file)

    assert link.is_symlink()
    assert json.loads((tmp_path / "r.json").read_text())["tests"]
    assert (tmp_path / "r.json").stat().st_mode == (tmp_path / "usual").stat().st_mode


def test_a_kernel_without_items_or_facts_is_shown(tmp_path: Path) -> None:
    run = make_run({})
    run.kernels = [RunKernel(each.kernel) for each in run.kernels]
    run.tests["t"] = {"6.1": Result("t", "passed")}

    for ending in ("html", "md", "json"):
        files.write(run, tmp_path / f"r.{ending}")
        assert "5.10" in (tmp_path / f"r.{ending}").read_text()
