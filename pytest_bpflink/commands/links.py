"""Show all BPF links on this system, what they are attached to, and who holds them.

    sudo bpflink links
    sudo bpflink links --watch
    sudo bpflink links --json | jq '.[] | select(.holders == [] and .pins == []).id'

A link ends when nothing holds it any more: no process has a descriptor of it, and no file in a BPF
FS is a pin of it. Some holders can't be seen: a descriptor in flight through a socket and, unless
you are root, the processes of other users.

With --watch --json each line is an event: a link is new, gone, or changed.
"""

from __future__ import annotations

import contextlib
import errno
import json
import shlex
import sys
import time
from dataclasses import asdict
from enum import Enum
from typing import TYPE_CHECKING, Any

from pytest_bpflink.commands.output import CommandError, console, print_json, table, write

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

Row = dict[str, Any]
"""One link, as JSON has it."""


def add(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument(
        "--watch", action="store_true", help="Show the links again and again, until Ctrl-C"
    )
    parser.add_argument(
        "--interval",
        type=float,
        default=1.0,
        metavar="SECONDS",
        help="The time from one look to the next, with --watch (default: 1)",
    )
    parser.add_argument("--json", action="store_true", help="Write JSON")


def run(arguments: argparse.Namespace) -> int:
    """Show the links; raises `CommandError`."""
    from pytest_bpflink.errors import BpfError

    try:
        if arguments.watch:
            with contextlib.suppress(KeyboardInterrupt):  # the way to end --watch
                _watch(arguments)
        elif arguments.json:
            print_json(rows())
        else:
            _show(rows())
    except BpfError as error:
        # The whole path, since root's PATH lacks the programs of a virtual environment.
        as_root = f"; run it as root: sudo {shlex.quote(sys.argv[0])} links"
        hint = as_root if error.errno == errno.EPERM else ""
        raise CommandError(f"{error}{hint}") from None
    return 0


def rows() -> list[Row]:
    """Describe all links, in the order of their ids. Raises `BpfError`, EPERM without privilege."""
    from pytest_bpflink.bpf.link import links
    from pytest_bpflink.commands.targets import Places
    from pytest_bpflink.introspection.holders import DescriptorHolder, PinHolder, holders_of

    places, programs = Places(), _Programs()
    infos = {link.id: link.info for link in links()}
    # Only now: `links()` has closed its own descriptors, which would be among the holders.
    found = holders_of(("link", number) for number in infos)
    holders = {number: found["link", number] for number in infos}
    return [
        {
            "id": number,
            "type": info.type.name.lower(),
            "program": programs.describe(info.prog_id),
            "target": places.words(info),
            "pins": [str(held.path) for held in holders[number] if isinstance(held, PinHolder)],
            "holders": [
                asdict(held) for held in holders[number] if isinstance(held, DescriptorHolder)
            ],
            "info": {name: _plain(value) for name, value in asdict(info).items()},
        }
        for number, info in infos.items()
    ]


class _Programs:
    """Describes programs; the kernel is asked once for each."""

    def __init__(self) -> None:
        self._known: dict[int, Row | None] = {0: None}

    def describe(self, number: int) -> Row | None:
        """Return a program's id, name and type; None if the link has no program."""
        if number not in self._known:
            self._known[number] = _program(number)
        return self._known[number]


def _program(number: int) -> Row:
    from pytest_bpflink.binding import libbpf
    from pytest_bpflink.binding.uapi import BpfProgInfo, ProgType
    from pytest_bpflink.errors import BpfError
    from pytest_bpflink.introspection import ids

    try:
        with ids.opened("program", number) as fd:
            info = libbpf.read_info(fd, BpfProgInfo, doing=f"look at program {number}")
    except BpfError:  # the program ended with its link, meanwhile
        return {"id": number, "name": "", "type": ""}
    name = info.name.decode(errors="replace")
    return {"id": number, "name": name, "type": ProgType(info.type).name.lower()}


def _plain(value: Any) -> Any:
    return value.name.lower() if isinstance(value, Enum) else value


def _show(found: list[Row]) -> None:
    if found:
        write(_table(found))
    write(f"{len(found)} link{'' if len(found) == 1 else 's'}")


def _table(found: list[Row]) -> str:
    columns = ("id", "type", "program", "target", "held by")
    return table(columns, [_cells(row) for row in found], right="id", whole="type")


def _cells(row: Row) -> tuple[str, ...]:
    program = row["program"]
    return (
        str(row["id"]),
        row["type"],
        f"{program['name']} ({program['id']})" if program else "",
        row["target"],
        "\n".join(_holding(row)) or "nobody that can be seen",
    )


def _holding(row: Row) -> Iterator[str]:
    yield from (f"pin {path}" for path in row["pins"])
    for held in row["holders"]:
        yield f"{held['command']} (pid {held['pid']}, fd {held['fd']})"


def _watch(arguments: argparse.Namespace) -> None:
    if arguments.json:
        _write_events(arguments.interval)
    shown = console()
    from rich.live import Live
    from rich.text import Text

    with Live(console=shown, screen=shown.is_terminal, auto_refresh=False) as live:
        while True:
            live.update(Text.from_ansi(_table(rows())), refresh=True)
            time.sleep(arguments.interval)


def _write_events(interval: float) -> None:
    before: dict[int, Row] = {}
    while True:
        now = {row["id"]: row for row in rows()}
        for number in sorted(before.keys() | now.keys()):
            old, new = before.get(number), now.get(number)
            if old != new:
                event = "new" if old is None else "gone" if new is None else "changed"
                write(json.dumps({"event": event, "time": time.time(), **(new or old or {})}))
        before = now
        time.sleep(interval)
