"""A run as an HTML page: one file, which needs no other files and no network.

`page.html`, `page.css` and `page.js` are the parts of the page. Where a CI server forbids scripts,
the page shows everything, and only its filters are missing.
"""

from __future__ import annotations

import base64
import hashlib
from html import escape
from importlib import resources
from string import Template
from typing import TYPE_CHECKING

from pytest_bpflink.reports.results import OUTCOMES
from pytest_bpflink.reports.text import line
from pytest_bpflink.reports.words import (
    SINGULAR,
    TITLES,
    counting,
    duration,
    headline,
    kernel_facts,
    shown_outcomes,
    title,
)

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from pytest_bpflink.reports.results import (
        Cause,
        Cost,
        Difference,
        Place,
        Result,
        Run,
        RunKernel,
    )

# Characters. Browsers load the whole page; readers of JSON, which has all details, ask for parts.
_DETAILS_LIMIT = 20_000_000

_PLACES = 12

# The rows of the list of reasons, and the tests that each names.
_REASONS, _TESTS_NAMED = 60, 4

# The widest column of names, in characters, beside the outcomes.
_NAME = 70


def render(run: Run) -> str:
    """Return the file's content."""
    script = _part("page.js")
    causes = run.causes()
    numbers = {cause: number for number, cause in enumerate(causes)}
    counts = {each.id: run.counts(each.id) for each in run.kernels}
    shown = shown_outcomes(counts.values())
    return Template(_part("page.html")).substitute(
        script=script,
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        style=_part("page.css") + _columns(run),
        project=escape(run.project),
        headline=escape(headline(run)),
        verdict="good" if run.exit_status == 0 else "bad",
        began=run.began.isoformat(timespec="seconds"),
        began_text=run.began.strftime("%Y-%m-%d %H:%M UTC"),
        seconds=duration(run.seconds),
        stopped=_stopped(run),
        kernel_head="".join(f'<th scope="col">{TITLES[name]}</th>' for name in shown),
        kernel_rows="".join(_kernel(each, counts[each.id], shown) for each in run.kernels),
        uncollected=_uncollected(run),
        reasons=_reasons(causes, numbers),
        kernel_filters="".join(_filter("kernel", each.id, each.id) for each in run.kernels),
        outcome_filters="".join(
            _filter("outcome", name, SINGULAR[name], sum(each[name] for each in counts.values()))
            for name in shown
        ),
        differing=len(run.differences()),
        test_head="".join(f'<th scope="col">{escape(each.id)}</th>' for each in run.kernels),
        tests="".join(_files(run, numbers)),
        costs=_costs(run),
        details="".join(_details(causes)),
    )


def _part(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")


def _columns(run: Run) -> str:
    """Return the columns' style; on a narrow page, without columns, it names each cell's kernel."""
    longest = max((len(_name(test)) for test in run.tests), default=0)
    rules = [f"#tests{{--kernels:{len(run.kernels)};--name:{min(longest, _NAME)}}}"]
    for column, each in enumerate(run.kernels, start=2):
        name = "".join(f"\\{ord(sign):x} " for sign in each.id)
        rules.append(f'#tests tbody td:nth-child({column}){{--kernel:"{name}"}}')
    return "\n".join(rules)


def _filter(kind: str, value: str, title: str, count: int | None = None) -> str:
    number = "" if count is None else f" <b>{count}</b>"
    return (
        f'<label class="{escape(value) if kind == "outcome" else "kernel"}">'
        f'<input type="checkbox" name="{kind}" value="{escape(value)}">'
        f"<span>{escape(title)}{number}</span></label>"
    )


# The head


def _stopped(run: Run) -> str:
    return f'<p class="stopped">Stopped: {escape(line(run.stopped))}</p>' if run.stopped else ""


def _kernel(row: RunKernel, counts: Counter[str], shown: Sequence[str]) -> str:
    release, where, boot = kernel_facts(row)
    unbooted = "" if row.boot_seconds or row.guests_lost else " none"
    lost = f"<p>{row.guests_lost} lost</p>" if row.guests_lost else ""
    numbers = "".join(
        f'<td class="{name if counts[name] else "none"}" data-title="{title(name, counts[name])}">'
        f"{counts[name]}</td>"
        for name in shown
    )
    return (
        f'<tr><th scope="row">{escape(row.id)}</th><td class="release">{escape(release)}</td>'
        f'<td class="where" title="{escape(row.kernel.reason)}">{escape(where)}</td>'
        f'<td class="boot{unbooted}">{boot}{lost}</td>{numbers}'
        f'<td class="share">{_bar(counts)}</td></tr>\n' + _problem(row, columns=len(shown) + 5)
    )


def _bar(counts: Counter[str]) -> str:
    """Return the shares of outcomes as a picture, beside the numbers."""
    total = counts.total()
    if not total:
        return ""
    start, bars = 0.0, []
    for name in reversed(OUTCOMES):
        width = 100 * counts[name] / total
        if width:
            bars.append(f'<rect class="{name}" x="{start:.2f}" width="{width:.2f}" height="1"/>')
        start += width
    return (
        '<svg class="bar" viewBox="0 0 100 1" preserveAspectRatio="none" aria-hidden="true">'
        f"{''.join(bars)}</svg>"
    )


def _problem(row: RunKernel, *, columns: int) -> str:
    if not row.problem:
        return ""
    first, _, _ = row.problem.partition("\n")
    return (
        f'<tr class="problem"><td colspan="{columns}"><details><summary>{escape(line(first))}'
        f"</summary><pre>{escape(row.problem)}</pre></details></td></tr>\n"
    )


def _uncollected(run: Run) -> str:
    if not run.uncollected:
        return ""
    entries = "".join(
        f'<details class="{each.outcome}"><summary>{escape(str(each))}'
        f"</summary><pre>{escape(each.text)}</pre></details>\n"
        for each in run.uncollected
    )
    return f"<h2>Not collected</h2>\n{entries}"


# What happened, and why


def _reasons(causes: Mapping[Cause, Sequence[Place]], numbers: Mapping[Cause, int]) -> str:
    """Return a list of reasons, each once, the worst first; each leads to its first details."""
    first: dict[tuple[str, str], int] = {}
    places: dict[tuple[str, str], list[Place]] = {}
    for cause, where in causes.items():
        key = cause.outcome, cause.reason
        first.setdefault(key, numbers[cause])
        places.setdefault(key, []).extend(where)
    if not first:
        return ""
    rows = "".join(
        f'<tr><td class="{key[0]}"><a href="#c{number}">{SINGULAR[key[0]]}</a></td>'
        f"<td>{_where(places[key])}</td><td>{escape(key[1])}</td></tr>\n"
        for key, number in list(first.items())[:_REASONS]
    )
    left = len(first) - _REASONS
    more = f"<p>and {counting(left, 'more reason')}, in the table of tests</p>\n"
    table = f'<h2>Reasons</h2>\n<table id="reasons"><tbody>\n{rows}</tbody></table>\n'
    return table + (more if left > 0 else "")


def _where(places: Sequence[Place]) -> str:
    kernels: dict[str, list[str]] = {}
    for test, kernel in places:
        kernels.setdefault(test, []).append(kernel)
    named = [
        f"<code>{escape(_name(test))}</code> on {escape(', '.join(dict.fromkeys(on)))}"
        for test, on in list(kernels.items())[:_TESTS_NAMED]
    ]
    left = len(kernels) - len(named)
    return "<br>".join([*named, *([f"and {counting(left, 'more test')}"] if left else [])])


# The matrix


def _files(run: Run, numbers: Mapping[Cause, int]) -> Iterator[str]:
    """Yield the rows of tests, grouped by file."""
    ids = [each.id for each in run.kernels]
    differences = run.differences()
    files: dict[str, list[str]] = {}
    for test in run.tests:
        files.setdefault(test.partition("::")[0], []).append(test)
    for file, tests in files.items():
        rows = "".join(
            _row(test, [run.tests[test].get(id_) for id_ in ids], numbers, differences.get(test))
            for test in tests
        )
        yield (
            f'<tbody><tr class="file"><th scope="rowgroup" colspan="{len(ids) + 1}">{escape(file)}'
            f"</th></tr>\n{rows}</tbody>\n"
        )


def _row(
    test: str,
    results: Iterable[Result | None],
    numbers: Mapping[Cause, int],
    difference: Difference | None,
) -> str:
    change = f"<small>changes at {escape(difference.changes_at)}</small>" if difference else ""
    cells = "".join(_cell(result, numbers) for result in results)
    return f'<tr><th scope="row">{escape(_name(test))}{change}</th>{cells}</tr>\n'


def _name(test: str) -> str:
    """Return the name of a test without its file."""
    return test.partition("::")[2] or test


def _cell(result: Result | None, numbers: Mapping[Cause, int]) -> str:
    if result is None:
        return "<td></td>"
    word = SINGULAR[result.outcome]
    if result.cause:
        word = f'<a href="#c{numbers[result.cause]}">{word}</a>'
    return f'<td class="{result.outcome}">{word}</td>'


# What verification cost


def _costs(run: Run) -> str:
    if not run.costs:
        return ""
    heads = "".join(f'<th scope="col">{escape(each.id)}</th>' for each in run.kernels)
    rows = "".join(
        f'<tr><th scope="row">{escape(program.name)}<small>{escape(program.object)}</small></th>'
        f"{''.join(_cost(costs.get(each.id)) for each in run.kernels)}</tr>\n"
        for program, costs in sorted(run.costs.items())
    )
    return (
        f"<details><summary>What it cost to verify {counting(len(run.costs), 'program')}</summary>"
        "<p>Instructions that the verifier went through, and bytes of machine code, bytes of stack,"
        " and time.</p>"
        f'<div><table><thead><tr><th scope="col">program</th>{heads}</tr></thead>\n'
        f"<tbody>{rows}</tbody></table></div></details>"
    )


def _cost(cost: Cost | None) -> str:
    if cost is None:
        return "<td></td>"
    facts = [f"{cost.size:,} B"]
    if cost.stack is not None:
        facts.append(f"stack {cost.stack:,} B")
    if cost.microseconds is not None:
        facts.append(f"{cost.microseconds:,} µs")
    return f"<td>{cost.instructions:,}<small>{', '.join(facts)}</small></td>"


# Details, to which cells lead


def _details(causes: Mapping[Cause, Sequence[Place]]) -> Iterator[str]:
    left = _DETAILS_LIMIT
    for number, (cause, places) in enumerate(causes.items()):
        texts = "".join(
            f"<h3>{escape(section.title)}</h3><pre>{escape(section.text)}</pre>"
            for section in cause.sections
        )
        left -= len(texts)
        if left < 0:
            texts = "<p>Left out, since the page would be too large; the JSON report has it.</p>"
        where = "".join(
            f"<li><code>{escape(test)}</code> on {escape(kernel)}</li>"
            for test, kernel in places[:_PLACES]
        )
        if len(places) > _PLACES:
            where += f"<li>and {len(places) - _PLACES} more</li>"
        yield (
            f'<section class="{cause.outcome}" id="c{number}" tabindex="-1">'
            f'<a class="close" href="#_" aria-label="Close">&times;</a>'
            f'<h2><span class="{cause.outcome}">{SINGULAR[cause.outcome]}</span> '
            f'<span class="reason">{escape(cause.reason)}</span></h2>'
            f"<ul>{where}</ul>{texts}</section>\n"
        )
