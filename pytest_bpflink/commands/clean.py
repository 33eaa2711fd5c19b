"""Remove the remains of killed runs, and saved guests and compiled programs that nobody uses.

    sudo bpflink clean --dry-run
    sudo bpflink clean

The remains are BPF FS mounts, pins, cgroups with the processes in them, temporary directories, and
guests that were being saved.
Nothing of a live run is removed. Network namespaces need no removal: they have no names, and end
with their last process. Each pytest session removes these remains, too, when it starts.

Saved guests are removed if they were not used for 30 days; then the longest unused ones, until the
others take 5 GB at most. Compiled programs are removed if they were not used for 30 days, with the
sources that were kept for them.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from pytest_bpflink.commands.output import FAILED, print_json, say, size, table, write

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

_ROOM = 5_000_000_000


def add(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument(
        "--dry-run", action="store_true", help="Show what would be removed; remove nothing"
    )
    parser.add_argument(
        "--unused-days",
        type=float,
        default=30.0,
        metavar="N",
        help="Days after which what is unused in the cache is removed (default: 30)",
    )
    parser.add_argument("--json", action="store_true", help="Write JSON")


def run(arguments: argparse.Namespace) -> int:
    """Clean; return 1 if something could not be removed."""
    rows = list(_found(arguments))
    complaints: list[str] = []
    if not arguments.dry_run:
        _remove(arguments, complaints)
        left = {row["path"] for row in _found(arguments)}
        for row in rows:
            row["removed"] = row["path"] not in left
    if arguments.json:
        print_json(rows)
    else:
        _show(rows)
    for complaint in complaints:
        say(complaint)
    if os.geteuid():
        say("the remains of root's runs were not looked for: run this as root, too")
    stays = not arguments.dry_run and not all(row["removed"] for row in rows)
    return FAILED if stays else 0


def _found(arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    from pytest_bpflink.building import unused
    from pytest_bpflink.ledger import estate
    from pytest_bpflink.vm import scratch

    for directory, names in estate.remains().items():
        yield _row("run on this kernel", directory, holds=names)
    for directory in scratch.dead():
        yield _row("temporary files", directory)
    saves = _saves()
    for directory, taken in saves.remains().items():
        yield _row("unfinished saved guest", directory, taken=taken)
    for key, taken in saves.unused(days=arguments.unused_days, size=_ROOM).items():
        yield _row("saved guest", saves.root / key, taken=taken)
    for part, what in unused.PARTS.items():
        entries = unused.unused(part, days=arguments.unused_days)
        if entries:
            holds = [f"{len(entries)} not used for {arguments.unused_days:g} days"]
            taken = sum(map(unused.size, entries))
            yield _row(what, entries[0].parent, holds=holds, taken=taken)


def _row(kind: str, path: object, *, holds: object = (), taken: int = 0) -> dict[str, Any]:
    return {"kind": kind, "path": str(path), "holds": holds, "size": taken, "removed": False}


def _remove(arguments: argparse.Namespace, complaints: list[str]) -> None:
    from pytest_bpflink.building import unused
    from pytest_bpflink.ledger import estate
    from pytest_bpflink.vm import scratch

    estate.sweep(complaints.append)
    scratch.sweep()
    _saves().prune(days=arguments.unused_days, size=_ROOM)
    unused.prune(days=arguments.unused_days)


def _saves() -> Any:
    from pytest_bpflink.vm.cache import cache_part
    from pytest_bpflink.vm.warm.saves import Saves

    return Saves(cache_part("guests"))


def _show(rows: list[dict[str, Any]]) -> None:
    if not rows:
        write("there is nothing to remove")
        return
    cells = [
        (
            row["kind"],
            "removed" if row["removed"] else "stays",
            "\n".join([row["path"], *row["holds"]]),
            size(row["size"]) if row["size"] else "",
        )
        for row in rows
    ]
    write(table(("what", "now", "where", "size"), cells, right="size"))
