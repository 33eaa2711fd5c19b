"""The page of --kernel-report FILE.html, in a real browser."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import pytest

from pytest_bpflink.reports import files, text
from pytest_bpflink.reports.results import Result, Section
from tests.support.chromium import Chromium
from tests.support.kernel_runs import HOSTILE, make_run

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from pytest_bpflink.reports.results import Run

DESK, PHONE = (1280, 900), (390, 844)

TESTS = {
    "test_pin.py::test_pin[raw_tp]": "ppp",
    "test_pin.py::test_pin[tcx]": "ssp",
    "test_pin.py::test_update": "ppf",
    "test_order.py::test_order": "fff",
    "test_order.py::TestCase::test_once": "p--",
}


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chromium]:
    """Start a browser, one for all tests: starting it takes longest."""
    with Chromium(tmp_path_factory.mktemp("profile")) as chromium:
        yield chromium


class Page:
    """A report in a browser, and its visible parts."""

    def __init__(self, browser: Chromium, run: Run, directory: Path) -> None:
        self.browser = browser
        file = directory / "report.html"
        files.write(run, file)
        browser.open(file)

    @property
    def tests(self) -> list[str]:
        """The whole names of the visible tests."""
        return self.seen("#tests tbody th[scope=row]", "firstChild.textContent")

    @property
    def columns(self) -> list[str]:
        return self.seen("#tests thead th")[1:]

    @property
    def said(self) -> str:
        return str(self.browser.run("form.querySelector('output').textContent"))

    def seen(self, selector: str, attribute: str = "textContent") -> list[Any]:
        """Return an attribute of each visible element, also of those below the screen."""
        found: list[Any] = self.browser.run(
            f"[...document.querySelectorAll({selector!r})]"
            f".filter(e => e.checkVisibility()).map(e => e.{attribute})"
        )
        return found

    def style(self, selector: str, name: str, pseudo: str = "") -> str:
        return str(
            self.browser.run(
                f"getComputedStyle(document.querySelector({selector!r}), {pseudo!r})[{name!r}]"
            )
        )


@pytest.fixture
def page(browser: Chromium, tmp_path: Path) -> Iterator[Page]:
    """Show a small report on a desktop's screen."""
    browser.screen(*DESK)
    yield Page(browser, make_run(TESTS), tmp_path)
    assert browser.complaints == []


def test_everything_is_there_and_nothing_else_is_requested(page: Page) -> None:
    assert page.tests == [name.partition("::")[2] for name in TESTS]
    assert page.columns == ["5.10", "6.1", "6.12"]
    assert page.said == "5 tests"
    assert page.seen("#kernels tbody th") == ["5.10", "6.1", "6.12"]
    assert page.seen("#tests .file") == ["test_pin.py", "test_order.py"]
    assert page.seen("#tests small") == ["changes at 6.12", "changes at 6.12"]
    assert [request.partition(":")[0] for request in page.browser.requests] == ["file"]


def test_reasons_are_seen_without_a_click_the_worst_first(
    browser: Chromium, tmp_path: Path
) -> None:
    """Among many kernels and tests, the few failures are at the top, each reason once."""
    kernels = ("5.10", "5.15", "6.1", "6.6", "6.12", "6.18", "7.2")
    tests = {f"test_a.py::test_{number}": "ssppppp" for number in range(40)}
    tests["test_b.py::test_order"] = "ppppffp"
    tests["test_b.py::test_c"] = "pppeppp"
    run = make_run(tests, kernels=kernels)
    run.tests["test_b.py::test_order"]["6.18"].reason = "assert on 6.12"
    browser.screen(*DESK)
    page = Page(browser, run, tmp_path)

    rows = page.seen("#reasons tr", "innerText")
    assert [row.split("\t") for row in rows] == [
        ["error", "test_c on 6.6", "did not boot"],
        ["failed", "test_order on 6.12, 6.18", "assert on 6.12"],
        [
            "skipped",
            "\n".join([*(f"test_{n} on 5.10, 5.15" for n in range(4)), "and 36 more tests"]),
            "needs link:tcx, which came with 6.6",
        ],
    ]
    bottom = page.seen("#reasons tr", "getBoundingClientRect().bottom")[1]
    assert bottom < DESK[1]  # in view, before any scrolling
    browser.click("#reasons td.failed a")
    assert "assert test_b.py::test_order[6.12]" in page.seen("#details section")[0]


def test_outcomes_are_beside_the_names(page: Page) -> None:
    """The name's column is as wide as the longest name, and not as the page."""
    longest = page.seen("#tests th[scope=row]", "firstChild.textContent").index(
        "TestCase::test_once"
    )
    right = page.seen("#tests th[scope=row]", "getBoundingClientRect().right")[longest]
    left = page.seen("#tests tr:not(.file) td:nth-child(2)", "getBoundingClientRect().left")
    assert left == [right] * len(TESTS)
    assert right < 330


@pytest.mark.parametrize(
    ("letters", "said"),
    [
        ("e", "project: 1 error on 1 kernel"),
        ("ee", "project: 2 errors on 2 kernels"),
        ("ef", "project: 1 error, 1 failed on 2 kernels"),
    ],
)
def test_one_is_singular(browser: Chromium, tmp_path: Path, letters: str, said: str) -> None:
    browser.screen(*PHONE)
    run = make_run({"test_a.py::test_a": letters}, kernels=("5.10", "6.1")[: len(letters)])
    page = Page(browser, run, tmp_path)

    assert page.seen("h1") == [said]
    assert page.said == "1 test"
    assert page.seen("#kernels td.error", "dataset.title")[0] == "error"


def test_the_policy_stops_other_scripts_and_requests(page: Page) -> None:
    page.browser.run("document.body.insertAdjacentHTML('beforeend',"
                     "'<img src=http://localhost/x onerror=\"window.evil=1\">')")  # fmt: skip
    page.browser.run("document.body.append(Object.assign(document.createElement('script'),"
                     "{textContent: 'window.evil = 1'}))")  # fmt: skip
    page.browser.run("new Promise(done => setTimeout(done, 100))")

    assert page.browser.run("window.evil") is None
    complaints = [said for said in page.browser.complaints if "Content Security Policy" in said]
    assert any("'http://localhost/x' violates" in said for said in complaints)
    assert len(complaints) == 3  # the image, its handler, the script
    page.browser.complaints.clear()


def test_filters_by_outcome(page: Page) -> None:
    page.browser.click("[value=failed]")

    assert page.tests == ["test_update", "test_order"]
    assert page.said == "2 of 5 tests"

    page.browser.click("[value=skipped]")
    assert page.tests == ["test_pin[tcx]", "test_update", "test_order"]

    page.browser.click("[value=failed]")
    page.browser.click("[value=skipped]")
    assert len(page.tests) == 5


def test_filters_by_kernel(page: Page) -> None:
    page.browser.click("[name=kernel][value='6.12']")

    assert page.columns == ["6.12"]
    assert "TestCase::test_once" not in page.tests  # which ran on the first kernel only
    assert page.seen("#tests td") == ["passed", "passed", "failed", "failed"]

    # Outcomes are then filtered by that kernel.
    page.browser.click("[value=skipped]")
    assert page.tests == []
    page.browser.click("[name=kernel][value='5.10']")
    assert page.tests == ["test_pin[tcx]"]
    assert page.columns == ["5.10", "6.12"]


def test_filters_by_difference(page: Page) -> None:
    page.browser.click("[name=differs]")

    assert page.tests == ["test_pin[tcx]", "test_update"]
    assert page.seen("#tests .file") == ["test_pin.py"]


@pytest.mark.parametrize(
    ("typed", "found"),
    [
        ("UPDATE", ["test_update"]),
        ("order.py once", ["TestCase::test_once"]),
        ("which came with 6.6", ["test_pin[tcx]"]),
        ("assert 6.12", ["test_update", "test_order"]),
        ("[raw_tp]", ["test_pin[raw_tp]"]),
        ("absent", []),
    ],
)
def test_filters_by_text_of_names_and_reasons(page: Page, typed: str, found: list[str]) -> None:
    page.browser.click("[name=text]")
    page.browser.type(typed)

    assert page.tests == found


def test_if_filters_leave_nothing_all_can_be_shown_again(page: Page) -> None:
    page.browser.click("[name=text]")
    page.browser.type("absent")
    page.browser.click("#nothing button")

    assert len(page.tests) == 5
    assert page.seen("#nothing") == []


def test_a_cell_leads_to_what_happened_and_back(page: Page) -> None:
    page.browser.click("#tests tr:nth-child(4) td.failed a")

    (panel,) = page.seen("#details section")
    assert "assert on 6.12" in panel
    assert "test_pin.py::test_update on 6.12" in panel
    assert "E   assert test_pin.py::test_update[6.12]" in panel
    box = page.browser.run(
        "(b => [b.right, b.top, b.bottom])"
        "(document.querySelector('#details section:target').getBoundingClientRect())"
    )
    assert box == [page.browser.run("document.documentElement.clientWidth"), 0, DESK[1]]

    page.browser.press("Escape")
    assert page.seen("#details section") == []
    page.browser.click("#tests td.skipped a")
    assert len(page.seen("#details section")) == 1
    page.browser.click("#details section:target .close")
    assert page.seen("#details section") == []


def test_closing_leaves_the_page_where_it_was(browser: Chromium, tmp_path: Path) -> None:
    browser.screen(*DESK)
    page = Page(browser, make_run({f"t.py::test_{n}": "ppf" for n in range(300)}), tmp_path)
    page.browser.click("#tests tr:nth-child(200) td.failed a")
    before = browser.run("scrollY")

    browser.press("Escape")

    assert before > 1000
    assert browser.run("scrollY") == before


def test_a_narrow_page_is_complete_and_names_each_cells_kernel(
    browser: Chromium, tmp_path: Path
) -> None:
    browser.screen(*PHONE)
    run = make_run(TESTS | {"test_pin.py::test_" + "long_" * 60: "pfs"})
    page = Page(browser, run, tmp_path)

    assert browser.run("document.documentElement.scrollWidth") == PHONE[0]
    # No element extends beyond the page; long text scrolls within its element.
    assert page.seen("body *", "getBoundingClientRect().right > 390 && e.tagName") == [False] * len(
        page.seen("body *")
    )
    assert page.columns == []
    cells = "#tests tr:nth-child(4) td"
    sign = page.style(f"{cells}.failed", "content", "::before")
    assert sign.replace('"', "").split() == ["6.12", "✗"]
    # Cells are below the name, never on it.
    tops = page.seen("#tests tr:nth-child(2) > *", "getBoundingClientRect().top")
    assert tops[0] < min(tops[1:])
    # Labels have room for a finger, and text can be read.
    assert min(page.seen("#filters label", "getBoundingClientRect().height")) >= 30
    assert float(page.style(cells, "fontSize").removesuffix("px")) >= 12

    browser.click("[value=failed]")
    assert page.tests[:2] == ["test_update", "test_" + "long_" * 60]
    browser.click("#tests td.failed a")
    assert browser.run(
        "document.querySelector('#details section:target').getBoundingClientRect().width"
    ) == PHONE[0]  # fmt: skip
    assert browser.run("document.documentElement.scrollWidth") == PHONE[0]


# Relative luminance, and contrast: https://www.w3.org/TR/WCAG22/#dfn-contrast-ratio
CONTRAST = """
    (() => {
        const numbers = (colour) => {
            const context = document.createElement("canvas").getContext("2d");
            context.fillStyle = colour;
            context.fillRect(0, 0, 1, 1);
            return [...context.getImageData(0, 0, 1, 1).data].slice(0, 3);
        };
        const light = (colour) => numbers(colour).map((c) => c / 255)
            .map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4))
            .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
        const page = light(getComputedStyle(document.body).backgroundColor);
        return [page, ...[...document.querySelectorAll("h1, header p, #tests td, #tests th, small")]
            .filter((e) => e.textContent)
            .map((e) => light(getComputedStyle(e).color))
            .map((ink) => (Math.max(ink, page) + 0.05) / (Math.min(ink, page) + 0.05))];
    })()
"""


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_every_colour_can_be_read(browser: Chromium, tmp_path: Path, *, dark: bool) -> None:
    browser.screen(*DESK, dark=dark)
    run = make_run({"t.py::test_a": "pfs", "t.py::test_b": "enn"})
    results = run.tests["t.py::test_b"]
    results["6.1"], results["6.12"] = Result("b", "xfailed"), Result("b", "xpassed")
    Page(browser, run, tmp_path)

    page, *contrasts = browser.run(CONTRAST)

    assert (page < 0.05) if dark else (page > 0.9)
    assert len(contrasts) >= 12
    assert min(contrasts) >= 4.5
    assert browser.run("matchMedia('(prefers-color-scheme: dark)').matches") is dark


def test_without_scripts_everything_is_there_but_the_filters(page: Page) -> None:
    page.browser.call("Emulation.setScriptExecutionDisabled", value=True)
    try:
        page.browser.reload()
        page.browser.call("Emulation.setScriptExecutionDisabled", value=False)

        assert page.tests == [name.partition("::")[2] for name in TESTS]
        assert page.seen("#filters") == []
        page.browser.click("#tests td.failed a")
        assert len(page.seen("#details section")) == 1
    finally:
        page.browser.call("Emulation.setScriptExecutionDisabled", value=False)


def test_text_of_tests_and_consoles_is_no_markup(browser: Chromium, tmp_path: Path) -> None:
    said = text.clean(HOSTILE)
    run = make_run({f"{said}::{said}": "pfs"})
    (results,) = run.tests.values()
    results["6.1"].reason, results["6.1"].sections = said, (Section(said, said),)
    browser.screen(*DESK)
    page = Page(browser, run, tmp_path)

    assert page.tests == [said]
    assert page.seen("#tests .file") == [said]
    browser.click("#tests td.failed a")
    assert page.seen("#details pre") == [said]
    assert page.seen("#details .reason") == [said]
    assert browser.run("document.querySelectorAll('img, b b, body script').length") == 1
    assert browser.complaints == []


def test_thirty_thousand_results_are_no_burden(browser: Chromium, tmp_path: Path) -> None:
    """On a slow machine the page takes a second, and a filter a fifth of a second."""
    kernels = ("5.10", "6.1", "6.6", "6.12", "6.18", "7.2")
    letters = ("pppppp", "sspppp", "pppppp", "ppppfp", "pppepp")
    run = make_run(
        {f"test_{n // 100}.py::test_x[{n}]": letters[n % 5] for n in range(5000)}, kernels=kernels
    )
    browser.screen(*DESK)
    began = time.monotonic()
    page = Page(browser, run, tmp_path)
    assert page.said == "5000 tests"
    opened = time.monotonic() - began

    began = time.monotonic()
    browser.click("[value=failed]")
    assert page.said == "1000 of 5000 tests"
    filtered = time.monotonic() - began

    assert (tmp_path / "report.html").stat().st_size < 4_000_000
    assert opened < 10
    assert filtered < 3
