"""Makes docs/link-types.md of a run: what links of each type answered, on each kernel.

    pytest selftests --kernel 5.10,6.1,6.12,6.18,7.2 --bpf-libbpf newest --junitxml run.xml
    python -m pytest_bpflink.selftests.link_types run.xml > docs/link-types.md

Knows the properties that `outcomes` writes; what they mean is the tests' business.
"""

from __future__ import annotations

import re
import sys
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

from pytest_bpflink.selftests.conformance import ROWS
from pytest_bpflink.selftests.outcomes import PREFIX, WINDOW

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_TOPICS = {
    "Attaching": ("attach twice", "attach anew", "attach to another target too"),
    "Updating": (
        "update",
        "update from a wrong program",
        "update to another program type",
        "update to another attach type",
        "update when detached",
        "update when its target is gone",
    ),
    "Detaching": (
        "detach",
        "detach twice",
        "detach when its target is gone",
        "unload its module",
    ),
    "Without privilege, but with a descriptor": (
        "info, unprivileged",
        "update, unprivileged",
        "detach, unprivileged",
    ),
}
_NOTHING = "-"
_WINS = "Which error of an update wins"

_INTRODUCTION = """\
# Link types

What `bpf_link`s answer, as seen by `selftests/` on {kernels}, with libbpf {libbpfs}. Made by
`python -m pytest_bpflink.selftests.link_types` of a run's JUnit file, and not to be edited.

A cell holds what the newest of these kernels answered: `OK`, an errno, or `{nothing}` where it was
not asked or is not there. An answer in **bold** is not the same on all kernels: see
"Where kernels differ" below.
"""


@dataclass
class Seen:
    """What one run saw: answers and windows by row and operation, then by kernel release."""

    answers: dict[tuple[str, str], dict[str, set[str]]] = field(
        default_factory=lambda: defaultdict(lambda: defaultdict(set))
    )
    absent: dict[str, dict[str, str]] = field(default_factory=lambda: defaultdict(dict))
    """Why a row was skipped, by row and release."""
    releases: list[str] = field(default_factory=list)
    libbpfs: list[str] = field(default_factory=list)


def read(junit: Path) -> Seen:
    """Collect what a run's tests wrote down. Raises ValueError for a file of another run."""
    seen = Seen()
    libbpfs: set[str] = set()
    releases: set[str] = set()
    for case in ET.parse(junit).iter("testcase"):  # noqa: S314 - pytest's own file
        properties = [
            (one.get("name", "").removeprefix(PREFIX), one.get("value", ""))
            for one in case.iter("property")
            if one.get("name", "").startswith(PREFIX)
        ]
        if not properties:
            continue
        (_, where), *answers = properties
        row, release, libbpf = where.split()
        releases.add(release)
        libbpfs.add(libbpf)
        for operation, answer in answers:
            seen.answers[row, operation][release].add(answer)
        skipped = case.find("skipped")
        if skipped is not None:
            seen.absent[row][release] = skipped.get("message", "")
    if not releases:
        raise ValueError(f"{junit} is not of a run of selftests/ with --junitxml")
    seen.releases = sorted(releases, key=_version)
    seen.libbpfs = sorted(libbpfs)
    return seen


def page(seen: Seen) -> str:
    """Write the page."""
    kernels = ", ".join(f"Linux {release}" for release in seen.releases)
    parts = [
        _INTRODUCTION.format(nothing=_NOTHING, kernels=kernels, libbpfs=", ".join(seen.libbpfs))
    ]
    parts += _table("Types", ("link", "type", "since", "missing on"), _types(seen))
    operations = list(dict.fromkeys(operation for _, operation in seen.answers))
    same = dict(_same_for_all(seen, operations))
    lines = [f"- {operation}: {answer}" for operation, answer in same.items()]
    parts.append("\n".join(["\n## The same for all\n", *lines, ""]))
    wins = tuple(one for one in operations if re.fullmatch(r"E[A-Z]+( \+ E[A-Z]+)*", one))
    for topic, asked in (*_TOPICS.items(), (_WINS, wins)):
        shown = [one for one in asked if one in operations and one not in same]
        rows = list(_answers(seen, shown))
        parts += _table(topic, ("link", *shown), rows)
    short = [_short(release) for release in seen.releases]
    parts += _table("Where kernels differ", ("link", "operation", *short), _differences(seen))
    parts += _table("Windows, in ms", ("link", "after", *short), _windows(seen))
    return "".join(parts)


def _types(seen: Seen) -> Iterator[tuple[str, ...]]:
    for row in ROWS:
        missing = ", ".join(_short(one) for one in seen.releases if one in seen.absent[row.id])
        yield row.id, row.link_type.name, row.since, missing


def _same_for_all(seen: Seen, operations: Iterable[str]) -> Iterator[tuple[str, str]]:
    for operation in operations:
        given = {
            answer
            for (_, asked), kernels in seen.answers.items()
            if asked == operation
            for answers in kernels.values()
            for answer in answers
        }
        if len(given) == 1 and not operation.startswith(WINDOW):
            yield operation, given.pop()


def _answers(seen: Seen, operations: list[str]) -> Iterator[tuple[str, ...]]:
    for row in ROWS:
        cells = [_cell(seen, seen.answers.get((row.id, one), {})) for one in operations]
        if any(cell != _NOTHING for cell in cells):
            yield row.id, *cells


def _cell(seen: Seen, kernels: dict[str, set[str]]) -> str:
    newest = next((one for one in reversed(seen.releases) if one in kernels), None)
    if newest is None:
        return _NOTHING
    answer = _said(kernels[newest])
    return f"**{answer}**" if _differ(kernels) else answer


def _differences(seen: Seen) -> Iterator[tuple[str, ...]]:
    for (row, operation), kernels in _in_order(seen):
        if not operation.startswith(WINDOW) and _differ(kernels):
            yield row, operation, *(_said(kernels.get(one, set())) for one in seen.releases)


def _windows(seen: Seen) -> Iterator[tuple[str, ...]]:
    for (row, operation), kernels in _in_order(seen):
        if operation.startswith(WINDOW):
            after = operation.removeprefix(WINDOW)
            yield row, after, *(_said(kernels.get(one, set())) for one in seen.releases)


def _in_order(seen: Seen) -> list[tuple[tuple[str, str], dict[str, set[str]]]]:
    places = {row.id: place for place, row in enumerate(ROWS)}
    return sorted(seen.answers.items(), key=lambda one: places.get(one[0][0], len(places)))


def _differ(kernels: dict[str, set[str]]) -> bool:
    return len({_said(answers) for answers in kernels.values()}) > 1


def _said(answers: set[str]) -> str:
    return " or ".join(sorted(answers)) or _NOTHING


def _table(title: str, columns: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> Iterator[str]:
    lines = list(rows)
    if lines:
        yield f"\n## {title}\n\n"
        for cells in (columns, ("---",) * len(columns), *lines):
            yield f"| {' | '.join(cells)} |\n"


def _short(release: str) -> str:
    return ".".join(str(part) for part in _version(release)[:2])


def _version(release: str) -> tuple[int, ...]:
    found = re.match(r"[\d.]+\d", release)
    return tuple(int(part) for part in found[0].split(".")) if found else ()


if __name__ == "__main__":
    sys.stdout.write(page(read(Path(sys.argv[1]))))
