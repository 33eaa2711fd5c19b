"""Makes docs/link-types.md from a run: what links of each type answered on each kernel.

    pytest selftests --kernel 5.10,6.1,6.12,6.18,7.2 --bpf-libbpf newest --junitxml run.xml
    python -m pytest_bpflink.selftests.conformance.page run.xml > docs/link-types.md

It knows the properties that `outcomes` and the kernel matrix write, and parts of skip reasons. It
does not know what the operations are.
"""

from __future__ import annotations

import re
import sys
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

from pytest_bpflink.selftests.conformance.outcomes import PREFIX, WINDOW
from pytest_bpflink.selftests.conformance.rows import ROWS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from pytest_bpflink.selftests.conformance.row import Row

_TOPICS = {
    "Attaching": ("attach twice", "attach anew", "attach to another target too"),
    "Updating": (
        "update",
        "update from a wrong program",
        "update to another program type",
        "update to another attach type",
        "update to another target",
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
_MISTAKES = r"E[A-Z]+( \+ E[A-Z]+)+"  # names that test_which_error_wins gives its operations
_MOST_OTHERS = 2

_INTRODUCTION = """\
# Link types

What links of each type answer to the conformance suite in `selftests/`. Don't edit this page:
`make link-types` made it from a run with libbpf {libbpfs} on

{kernels}

A cell holds the answer of the newest of these kernels that was asked: `OK` or an errno; `{nothing}`
if none was asked, or none has the link. An answer in **bold** is not the same on all kernels: see
[where kernels differ](#where-kernels-differ). "All" of a type means all links that were asked.
"""
_WINDOWS = """
How many milliseconds a link still lived after its last pin was unlinked, or the pin's BPF FS
unmounted; and how often its program still ran in another thread after the last close. From one run.
"""

# Patterns of skip reasons, and the page's words for them: none for a link that is newer than the
# kernel, since the table has the link's release.
_REASONS = {
    r"came with Linux": "",
    r"built without (CONFIG_\w+(?:, CONFIG_\w+)*)": "without {0}",
    r"needs (libbpf [\d.]+)": "needs {0}",
}


@dataclass
class Seen:
    """What one run saw: answers and windows, by row and operation and then by kernel release."""

    answers: dict[tuple[str, str], dict[str, set[str]]] = field(
        default_factory=lambda: defaultdict(lambda: defaultdict(set))
    )
    absent: dict[str, dict[str, str]] = field(default_factory=lambda: defaultdict(dict))
    """Why all tests of a row were skipped, by row and release."""
    releases: dict[str, str] = field(default_factory=dict)
    """The version of each kernel release, the oldest first."""
    libbpfs: list[str] = field(default_factory=list)


def read(junit: Path) -> Seen:
    """Read what the tests of a run wrote down. Raises ValueError if no selftest wrote anything."""
    seen = Seen()
    libbpfs: set[str] = set()
    versions: dict[str, str] = {}
    there: set[tuple[str, str]] = set()
    for case in ET.parse(junit).iter("testcase"):  # noqa: S314 - pytest's own file
        properties = [(one.get("name", ""), one.get("value", "")) for one in case.iter("property")]
        written = [
            (name.removeprefix(PREFIX), value) for name, value in properties if PREFIX in name
        ]
        if not written:
            continue
        (_, where), *answers = written
        row, release, libbpf = where.split()
        versions[release] = dict(properties).get("kernel_version", release)
        libbpfs.add(libbpf)
        for operation, answer in answers:
            seen.answers[row, operation][release].add(answer)
        skipped = case.find("skipped")
        if skipped is None:
            there.add((row, release))
        else:
            seen.absent[row][release] = skipped.get("message", "")
    if not versions:
        raise ValueError(f"{junit} has no results of selftests/")
    for row, release in there:
        # A single test of a row that is there may be skipped for another reason.
        seen.absent[row].pop(release, None)
    seen.releases = {release: versions[release] for release in sorted(versions, key=_version)}
    seen.libbpfs = sorted(libbpfs)
    return seen


def text(seen: Seen) -> str:
    """Return the page's text."""
    kernels = "\n".join(f"- Linux {_full(*each)}" for each in seen.releases.items())
    parts = [
        _INTRODUCTION.format(nothing=_NOTHING, kernels=kernels, libbpfs=", ".join(seen.libbpfs))
    ]
    parts += _table("Types", ("link", "type", "since", "missing on"), _types(seen))
    operations = [
        operation
        for operation in dict.fromkeys(operation for _, operation in seen.answers)
        if not re.fullmatch("E[A-Z]+", operation)  # an update with one mistake
    ]
    same = dict(_same_for_all(seen, operations))
    bullets = [f"- {_asked(operation)}: {answer}" for operation, answer in same.items()]
    parts.append("\n".join(["\n## The same for all links that were asked\n", *bullets, ""]))
    wins = tuple(one for one in operations if re.fullmatch(_MISTAKES, one))
    for topic, asked in (*_TOPICS.items(), (_WINS, wins)):
        shown = [one for one in asked if one in operations and one not in same]
        rows = list(_answers(seen, shown))
        parts += _table(topic, ("link", *shown), rows)
    short = [_short(release) for release in seen.releases]
    parts += _table("Where kernels differ", ("link", "operation", *short), _differences(seen))
    parts += _table("Windows", ("link", "after", *short), _windows(seen), introduction=_WINDOWS)
    return "".join(parts)


def _types(seen: Seen) -> Iterator[tuple[str, ...]]:
    for row in ROWS:
        absent = seen.absent[row.id]
        missing: dict[str, list[str]] = defaultdict(list)
        for release in seen.releases:
            if release in absent:
                missing[_because(absent[release])].append(_short(release))
        missing_on = ", ".join(f"{', '.join(ones)}{reason}" for reason, ones in missing.items())
        yield row.id, row.link_type.name, row.since, missing_on


def _because(reason: str) -> str:
    for pattern, said in _REASONS.items():
        found = re.search(pattern, reason)
        if found:
            return f" ({said.format(*found.groups())})" if said else ""
    return f" ({reason})"


def _asked(operation: str) -> str:
    return f"update with {operation}" if re.fullmatch(_MISTAKES, operation) else operation


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
    found: dict[tuple[str, ...], list[Row]] = defaultdict(list)
    for row in ROWS:
        cells = tuple(_cell(seen, seen.answers.get((row.id, one), {})) for one in operations)
        if any(cell != _NOTHING for cell in cells):
            found[cells].append(row)
    asked = [row for rows in found.values() for row in rows]
    for cells, rows in found.items():
        yield _names(rows, asked), *cells


def _names(rows: list[Row], asked: list[Row]) -> str:
    """Name links; by their type where these are all links of it that were asked, or nearly all."""
    names = []
    for link_type in dict.fromkeys(row.link_type for row in rows):
        of_type = [row.id for row in rows if row.link_type is link_type]
        others = [row.id for row in asked if row.link_type is link_type and row not in rows]
        if len(of_type) < 2 or len(others) > min(_MOST_OTHERS, len(of_type) / 4):
            names += of_type
        elif others:
            names.append(f"all {link_type.name} but {' and '.join(others)}")
        else:
            names.append(f"all {link_type.name}")
    return ", ".join(names)


def _cell(seen: Seen, kernels: dict[str, set[str]]) -> str:
    newest = next((one for one in reversed(list(seen.releases)) if one in kernels), None)
    if newest is None:
        return _NOTHING
    answer = _said(kernels[newest])
    return f"**{answer}**" if _differ(kernels) else answer


def _differences(seen: Seen) -> Iterator[tuple[str, ...]]:
    """Yield the answers that differ between kernels, in one line for links that answer alike."""
    found: dict[tuple[str, ...], list[Row]] = defaultdict(list)
    asked: dict[str, list[Row]] = defaultdict(list)
    for (row, operation), kernels in _in_order(seen):
        asked[operation].append(row)
        if not operation.startswith(WINDOW) and _differ(kernels):
            answers = (_said(kernels.get(one, set())) for one in seen.releases)
            found[operation, *answers].append(row)
    for (operation, *cells), rows in found.items():
        yield _names(rows, asked[operation]), operation, *cells


def _windows(seen: Seen) -> Iterator[tuple[str, ...]]:
    for (row, operation), kernels in _in_order(seen):
        if operation.startswith(WINDOW):
            after = operation.removeprefix(WINDOW)
            yield row.id, after, *(_said(kernels.get(one, set())) for one in seen.releases)


def _in_order(seen: Seen) -> Iterator[tuple[tuple[Row, str], dict[str, set[str]]]]:
    for row in ROWS:
        for (named, operation), kernels in seen.answers.items():
            if named == row.id:
                yield (row, operation), kernels


def _differ(kernels: dict[str, set[str]]) -> bool:
    return len({_said(answers) for answers in kernels.values()}) > 1


def _said(answers: set[str]) -> str:
    return " or ".join(sorted(answers)) or _NOTHING


def _table(
    title: str,
    columns: tuple[str, ...],
    rows: Iterable[tuple[str, ...]],
    *,
    introduction: str = "",
) -> Iterator[str]:
    lines = list(rows)
    if lines:
        yield f"\n## {title}\n{introduction}\n"
        for cells in (columns, ("---",) * len(columns), *lines):
            yield f"| {' | '.join(cells)} |\n"


def _full(release: str, version: str) -> str:
    return release if version == release else f"{version} (`{release}`)"


def _short(release: str) -> str:
    return ".".join(str(part) for part in _version(release)[:2])


def _version(release: str) -> tuple[int, ...]:
    found = re.match(r"[\d.]+\d", release)
    return tuple(int(part) for part in found[0].split(".")) if found else ()


if __name__ == "__main__":
    sys.stdout.write(text(read(Path(sys.argv[1]))))
