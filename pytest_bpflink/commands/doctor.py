"""Say what this machine can do, and what to install or change for the rest.

Tests can run on this kernel, or on others in VMs. One of these is enough, both are better.

exit status:
  0    tests can run, here or in VMs
  1    they can't
"""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

from pytest_bpflink.commands.output import FAILED, print_json, table, write

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from pytest_bpflink.commands.checks import Check

_SIGNS = {"ok": "ok", "missing": "MISSING", "note": "note"}


def add(parser: argparse.ArgumentParser) -> None:
    """Add the argument."""
    parser.add_argument("--json", action="store_true", help="Write JSON")


def run(arguments: argparse.Namespace) -> int:
    """Check everything; return 1 if tests can run nowhere."""
    from pytest_bpflink.commands import checks

    native, vm = list(checks.native()), list(checks.vm())
    # Of the native checks only this one counts for VMs: guests use the host's libbpf.
    shared = [check for check in native if check.name == "libbpf"]
    here, there = _missing(native), _missing([*shared, *vm])
    if arguments.json:
        found = [asdict(check) for check in (*native, *vm)]
        print_json({"native": not here, "vm": not there, "checks": found})
    else:
        rows = [(each.name, _SIGNS[each.state], each.found, each.advice) for each in native + vm]
        write(table(("check", "result", "found", "to do"), rows, whole="check result"))
        write(f"tests on this kernel: {_verdict(here)}")
        write(f"tests in VMs: {_verdict(there)}")
    return FAILED if here and there else 0


def _missing(checks: Sequence[Check]) -> list[str]:
    return [check.name for check in checks if check.state == "missing"]


def _verdict(missing: list[str]) -> str:
    return f"no, for want of {', '.join(missing)}" if missing else "yes"
