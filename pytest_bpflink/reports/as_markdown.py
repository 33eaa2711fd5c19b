"""A run as GitHub's Markdown, for the summary of a CI job: short, and always below a size limit.

The most important sections come first, and a section says how much of it is left out.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from pytest_bpflink.reports.results import NOT_RUN
from pytest_bpflink.reports.text import cut
from pytest_bpflink.reports.words import (
    COST_TITLE,
    TITLES,
    cost_text,
    counting,
    headline,
    kernel_facts,
    shown_outcomes,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from pytest_bpflink.reports.results import Place, Run

# GitHub takes 1 MiB for the summary of a step, and shows nothing of a larger one.
_LIMIT_BYTES = 1_000_000

# Limits of single sections, which leave room for the later ones.
_DIFFERENCES_BYTES = 100_000
_FAILURES_BYTES = 600_000
_SKIPS_BYTES = 100_000
_COSTS_BYTES = 100_000

_TEXT_LIMIT = 8_000
_PLACES = 3

_SIGNS: Final = {
    "error": "💥",
    "failed": "❌",
    "xpassed": "⚠️",
    "skipped": "⏭️",
    "xfailed": "☑️",
    "passed": "✅",
    NOT_RUN: "⬜",
}


def render(run: Run) -> str:
    """Return the file's content."""
    page = _Page(_LIMIT_BYTES)
    page.add(f"## {_escaped(headline(run))}\n\n")
    if run.stopped:
        page.add(f"> **Stopped:** {_escaped(cut(run.stopped, 500))}\n\n")
    _add_kernels(page, run)
    _add_differences(page, run)
    _add_failures(page, run)
    _add_uncollected(page, run)
    _add_skips(page, run)
    _add_costs(page, run)
    _add_matrix(page, run)
    return page.text()


class _Page:
    """Text that stays below a limit in bytes; a sentence says how many blocks did not fit."""

    def __init__(self, limit: int) -> None:
        # Each section may end with this sentence.
        self._left = limit - 2_000
        self._parts: list[str] = []

    def add(self, text: str) -> None:
        self._parts.append(text)
        self._left -= len(text.encode())

    def add_section(
        self, head: str, blocks: Sequence[str], *, what: str, foot: str = "\n", limit: int = 0
    ) -> None:
        """Add head, as many blocks as fit, and foot; nothing if there are no blocks."""
        if not blocks:
            return
        left = min(self._left, limit or self._left) - len((head + foot).encode())
        fitting = 0
        for block in blocks:
            left -= len(block.encode())
            if left < 0:
                break
            fitting += 1
        self.add(head + "".join(blocks[:fitting]) + foot)
        if fitting < len(blocks):
            self._parts.append(
                f"_{len(blocks) - fitting} of {len(blocks)} {what} are left out here:"
                " `--kernel-report FILE.html` has them._\n\n"
            )

    def text(self) -> str:
        return "".join(self._parts)


def _add_kernels(page: _Page, run: Run) -> None:
    counts = {each.id: run.counts(each.id) for each in run.kernels}
    shown = shown_outcomes(counts.values())
    titles = ["Kernel", "Release", "Runs on", "Boot", *(TITLES[name] for name in shown)]
    rows = []
    for each in run.kernels:
        release, where, boot = kernel_facts(each)
        numbers = [str(counts[each.id][name]) for name in shown]
        rows.append([_code(each.id), _escaped(release), _escaped(where), boot, *numbers])
    page.add(_table(titles, rows, right=len(shown)) + "\n")
    for each in run.kernels:
        if each.problem:
            page.add(_folded(f"{_code_in_html(each.id)} could not be tested", each.problem))


def _add_differences(page: _Page, run: Run) -> None:
    ids = [each.id for each in run.kernels]
    rows = [
        _row([
            _code(test),
            *(_sign(run, test, kernel) for kernel in ids),
            _code(difference.changes_at),
        ])
        for test, difference in run.differences().items()
    ]  # fmt: skip
    head = _table(["Test", *map(_code, ids), "Changes at"], [])
    page.add_section(
        f"### {counting(len(rows), 'test')} with another outcome on another kernel\n\n{head}",
        rows,
        what="tests whose outcome differs",
        limit=_DIFFERENCES_BYTES,
    )


def _add_failures(page: _Page, run: Run) -> None:
    blocks = [
        _folded(
            f"{_SIGNS[cause.outcome]} {_places(places)}: {_escaped(cause.reason)}",
            *(f"{section.title}\n{section.text}" for section in cause.sections),
        )
        for cause, places in run.causes().items()
        if cause.outcome in {"error", "failed", "xpassed"}
    ]
    page.add_section("### Failures and errors\n\n", blocks, what="causes", limit=_FAILURES_BYTES)


def _add_uncollected(page: _Page, run: Run) -> None:
    blocks = [
        _folded(
            f"{_SIGNS[each.outcome]} {_code_in_html(each.nodeid)}{_escaped(each.where)}:"
            f" {_escaped(each.reason)}",
            each.text,
        )
        for each in run.uncollected
    ]
    page.add_section("### Not collected\n\n", blocks, what="files", limit=_SKIPS_BYTES)


def _add_skips(page: _Page, run: Run) -> None:
    rows = []
    for cause, places in run.causes().items():
        if cause.outcome not in {"skipped", "xfailed"}:
            continue
        kernels = dict.fromkeys(place.kernel for place in places)
        rows.append(_row([
            _SIGNS[cause.outcome],
            _escaped(cause.reason),
            ", ".join(map(_code, kernels)),
            str(len(places)),
        ]))  # fmt: skip
    head = _table(["", "Reason", "Kernels", "Items"], [])
    page.add_section(
        f"<details><summary>Why items were skipped</summary>\n\n{head}",
        rows,
        what="reasons",
        foot="\n</details>\n\n",
        limit=_SKIPS_BYTES,
    )


def _add_costs(page: _Page, run: Run) -> None:
    ids = [each.id for each in run.kernels]
    rows = [
        _row([
            _code(program.name),
            _code(program.object),
            *(cost_text(costs[kernel]) if kernel in costs else "" for kernel in ids),
        ])
        for program, costs in sorted(run.costs.items())
    ]  # fmt: skip
    head = _table(["Program", "Object", *map(_code, ids)], [])
    page.add_section(
        f"<details><summary>What verification cost: {COST_TITLE}</summary>\n\n{head}",
        rows,
        what="programs",
        foot="\n</details>\n\n",
        limit=_COSTS_BYTES,
    )


def _add_matrix(page: _Page, run: Run) -> None:
    ids = [each.id for each in run.kernels]
    legend = " ".join(f"{_SIGNS[name]} {title}" for name, title in TITLES.items())
    head = _table(["Test", *map(_code, ids)], [])
    rows = [
        _row([_code(test), *(_sign(run, test, kernel) for kernel in ids)]) for test in run.tests
    ]
    page.add_section(
        f"<details><summary>All {counting(len(rows), 'test')}</summary>\n\n{legend}\n\n{head}",
        rows,
        what="tests",
        foot="\n</details>\n\n",
    )


def _places(places: Sequence[Place]) -> str:
    """Return the tests of `places`, each once, with its kernels."""
    by_test: dict[str, list[str]] = {}
    for place in places:
        by_test.setdefault(place.test, []).append(place.kernel)
    # Mostly all tests have the same kernels, which are then named once.
    alike = all(kernels == by_test[places[0].test] for kernels in by_test.values())
    names = [
        _code_in_html(test) + ("" if alike else _on(kernels))
        for test, kernels in list(by_test.items())[:_PLACES]
    ]
    if len(by_test) > len(names):
        names.append(f"and {counting(len(by_test) - len(names), 'more test')}")
    return ", ".join(names) + (_on(by_test[places[0].test]) if alike else "")


def _on(kernels: Sequence[str]) -> str:
    return f" on {', '.join(map(_escaped, kernels))}"


def _sign(run: Run, test: str, kernel: str) -> str:
    result = run.tests[test].get(kernel)
    return _SIGNS[result.outcome] if result else ""


# Markdown


def _table(titles: Sequence[str], rows: Iterable[Sequence[str]], *, right: int = 0) -> str:
    rules = ["---"] * (len(titles) - right) + ["--:"] * right
    return "".join(map(_row, [titles, rules, *rows]))


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |\n"


def _folded(summary: str, *texts: str) -> str:
    """Return texts that a click on the summary shows; the summary is HTML."""
    blocks = "".join(map(_block, texts))
    return f"<details><summary>{summary}</summary>\n\n{blocks}</details>\n\n"


def _block(text: str) -> str:
    text = cut(text, _TEXT_LIMIT)
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}text\n{text}\n{fence}\n\n"


def _code(text: str) -> str:
    """Return a name as code: in backquotes if its characters allow it, else as HTML."""
    if re.search(r"[`|\\\n]|^ | $|^$", text):
        return f"<code>{_escaped(text)}</code>"
    return f"`{text}`"


def _code_in_html(text: str) -> str:
    return f"<code>{_escaped(text)}</code>"


def _escaped(text: str) -> str:
    """Escape Markdown and HTML, and the signs of GitHub's references (`@`, `#`)."""
    # An underscore within a word is no Markdown.
    signs = r"(?<!\w)_|_(?!\w)|[\\`*\[\]<>#|@~&$]"
    return re.sub(signs, lambda sign: f"&#{ord(sign[0])};", text).replace("\n", " ")
