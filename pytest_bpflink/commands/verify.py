"""Say on which kernels the programs of a file verify, and how much that costs.

    bpflink verify filter.bpf.c --kernel 5.10,6.1,7.2
    bpflink verify filter.bpf.o --json > base.json
    bpflink verify filter.bpf.o --compare base.json

A source is compiled once, on this host. Each program is loaded by itself and attached to nothing.
Where a kernel refuses it, the end of the verifier's log is shown. Kernels other than the running
one (native) run in guests.

With --compare a program fails that the base has on the same kernel, and that no longer verifies, or
takes more instructions, stack or machine code. What is refused in the base may stay so.

exit status:
  0    each program verifies on each kernel
  1    a kernel refuses one, or something grew, or a kernel could not be asked
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_bpflink.commands.output import (
    FAILED,
    CommandError,
    print_json,
    progress,
    say,
    table,
    write,
)
from pytest_bpflink.commands.specs import stored_specs

if TYPE_CHECKING:
    import argparse

Row = dict[str, Any]

_NATIVE = "native"

_LINES_SHOWN = 12

#: What may not grow, and its words. The time is another at each run.
_COSTS = {
    "instructions": "instructions",
    "stack": "bytes of stack",
    "size": "bytes of machine code",
}


def add(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("file", type=Path, metavar="FILE", help="A .bpf.o, or a .bpf.c")
    kernels = parser.add_argument(
        "--kernel",
        action="append",
        default=[],
        metavar="SPEC[,SPEC]",
        help="The kernels, by default native, the running one",
    )
    kernels.completer = stored_specs  # type: ignore[attr-defined]
    parser.add_argument(
        "--compare",
        type=Path,
        metavar="FILE",
        help="Fail on what grew since this output of --json",
    )
    parser.add_argument("--json", action="store_true", help="Write JSON, with the whole logs")


def run(arguments: argparse.Namespace) -> int:
    """Verify; return 1 if a program is refused somewhere, or if something grew."""
    base = _base(arguments.compare) if arguments.compare else None
    specs = [spec for text in arguments.kernel for spec in text.split(",") if spec] or [_NATIVE]
    rows, complaints = _verified(arguments.file, list(dict.fromkeys(specs)))
    if arguments.json:
        print_json(rows)
    else:
        _show(rows)
    for complaint in complaints:
        say(complaint)
    grown = [] if base is None else list(_grown(rows, base))
    for sentence in grown:
        say(sentence)
    refused = [row for row in rows if not row["verifies"] and not _was_refused(row, base)]
    return FAILED if complaints or grown or refused else 0


def _verified(file: Path, specs: list[str]) -> tuple[list[Row], list[str]]:
    """Return a row for each program and kernel, and a sentence for each kernel that fails."""
    from pytest_bpflink.building.compilation import object_of
    from pytest_bpflink.errors import BpfError
    from pytest_bpflink.vm.scratch import Scratch

    rows: list[Row] = []
    complaints = []
    with Scratch() as scratch, progress() as told:
        told(f"compiling {file}" if file.suffix == ".c" else f"reading {file}")
        try:
            # A guest that can't see this host's files has a copy of the directory.
            shutil.copyfile(object_of(file), scratch.path / "object.bpf.o")
        except (BpfError, OSError) as error:
            raise CommandError(str(error)) from None
        told(f"verifying on {', '.join(specs)}")
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            asked = [pool.submit(_on, spec, scratch.path) for spec in specs]
            for spec, answer in zip(specs, asked, strict=True):
                try:
                    rows += [{"kernel": spec} | row for row in answer.result()]
                except CommandError as error:
                    complaints.append(str(error))
    order = {row["program"]: at for at, row in reversed(list(enumerate(rows)))}
    return sorted(rows, key=lambda row: order[row["program"]]), complaints


def _on(spec: str, directory: Path) -> list[Row]:
    """Verify on a kernel. Raises `CommandError`."""
    here = [sys.executable, "-m", "pytest_bpflink.commands.verify_here", "object.bpf.o"]
    in_guest = [sys.executable, "-m", "pytest_bpflink.cli", "vm", spec, "--", *here]
    done = subprocess.run(
        here if spec == _NATIVE else in_guest,
        cwd=directory,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        said = done.stderr.strip().removeprefix("bpflink: ").splitlines()[-_LINES_SHOWN:]
        raise CommandError("\n".join([f"{spec}: nothing was verified:", *said]))
    rows: list[Row] = json.loads(done.stdout)
    return rows


def _show(rows: list[Row]) -> None:
    columns = ("program", "kernel", "verifies", *_COSTS, "microseconds")
    shown = [
        (
            row["program"],
            row["kernel"],
            "yes" if row["verifies"] else f"no: {row['error']}",
            *(str(row.get(cost, "")) for cost in (*_COSTS, "microseconds")),
        )
        for row in rows
    ]
    write(table(columns, shown, right=" ".join((*_COSTS, "microseconds")), whole="program"))
    for row in rows:
        if not row["verifies"]:
            write(f"\n{row['program']} on {row['kernel']} (Linux {row['release']}):")
            for line in row["log"][-_LINES_SHOWN:]:
                write(f"  {line}")


def _base(file: Path) -> list[Row]:
    try:
        rows: list[Row] = json.loads(file.read_text())
        _ = [(row["kernel"], row["program"], row["verifies"]) for row in rows]
    except OSError as error:
        raise CommandError(f"{file} can't be read: {error.strerror}") from None
    except (ValueError, TypeError, KeyError):
        raise CommandError(f"{file} is no output of 'bpflink verify --json'") from None
    return rows


def _before(row: Row, base: list[Row] | None) -> Row | None:
    for each in base or ():
        if (each["kernel"], each["program"]) == (row["kernel"], row["program"]):
            return each
    return None


def _was_refused(row: Row, base: list[Row] | None) -> bool:
    before = _before(row, base)
    return before is not None and not before["verifies"]


def _grown(rows: list[Row], base: list[Row]) -> list[str]:
    """Return a sentence for each thing that is worse than in the base."""
    found = []
    for row in rows:
        before = _before(row, base)
        if before is None or not before["verifies"]:
            continue
        where = f"{row['program']} on {row['kernel']}"
        if not row["verifies"]:
            found.append(f"{where}: no longer verifies")
            continue
        found += [
            f"{where}: {row[cost]} {words}, and {before[cost]} before"
            for cost, words in _COSTS.items()
            if cost in before and row[cost] > before[cost]
        ]
    return found
