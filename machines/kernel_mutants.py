"""Runs tests on a kernel with faults, one fault after the other, and shows which test finds each.

    tools/kernel-mutants [--only N,N...] [--kernel DIR] [--tree DIR] [-- PYTEST ARGUMENT...]

First the tests must pass on that kernel without a fault. They are the selftests, or what the
arguments name. The exit status is 1 if a fault was not found. Each run ends at its first failure,
and takes one guest that is booted with the fault.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from .flavours.mutants import MUTANTS, PARAMETER
from .kernel_build import BuildError, Recipe, build
from .stage import ROOT

if TYPE_CHECKING:
    from collections.abc import Sequence

_FOUND = re.compile(r"^(?:FAILED|ERROR) (\S+::.*?)(?: - (.*))?$", re.MULTILINE)
_COUNTS = re.compile(r"^=+ (.*) in [\d.]+s.*=+$", re.MULTILINE)


def main(arguments: Sequence[str] | None = None) -> int:
    """Try the mutants that the command line asks for, and return the exit status."""
    options = _options(arguments)
    tests = options.tests or ["selftests"]
    try:
        kernel = options.kernel or build(
            Recipe(flavour="mutants"), tree=options.tree and options.tree.absolute()
        )
    except (BuildError, OSError) as error:
        print(f"error: the kernel can't be built: {error}", file=sys.stderr)
        return 1
    if not has_faults(kernel):
        print(f"error: {kernel} is no kernel of the flavour mutants", file=sys.stderr)
        return 1
    status, output = _run(kernel, 0, tests)
    if status:
        print(f"{output}\nerror: the tests fail on this kernel without a fault", file=sys.stderr)
        return 1
    print(
        f"without a fault: {_counts(output)}\n\n| | Fault | Found by |\n|---|---|---|", flush=True
    )
    found = 0
    for number in options.only or range(1, len(MUTANTS) + 1):
        status, output = _run(kernel, number, tests)
        finder = found_by(output, kernel.name)
        found += finder is not None
        told = finder or f"**nothing**: status {status}, {_counts(output)}"
        print(f"| {number} | {MUTANTS[number - 1].breaks} | {told} |", flush=True)
    tried = len(options.only or MUTANTS)
    print(f"\n{found} of {tried} found")
    return 0 if found == tried else 1


def found_by(output: str, kernel: str) -> str | None:
    """Return the first test that failed and its reason, from what pytest printed of a kernel.

    If pytest ended without a failed test, for another reason, nothing was found.
    """
    found = _FOUND.search(output)
    if found is None:
        return None
    test, reason = found.groups()
    # The id of a test ends with that of the one kernel.
    test = test.replace(f"-{kernel}]", "]").replace(f"[{kernel}]", "")
    return f"`{test}`: {(reason or '').replace('|', '/')[:100]}"


def has_faults(kernel: Path) -> bool:
    """Whether a kernel knows the parameter; on another kernel each fault would seem to survive."""
    symbols = kernel.glob("boot/System.map-*")
    return any(f" {PARAMETER}\n" in file.read_text() for file in symbols)


def _counts(output: str) -> str:
    counts = _COUNTS.findall(output)
    return counts[-1] if counts else output[-200:]


def _run(kernel: Path, number: int, tests: list[str]) -> tuple[int, str]:
    command = (
        *(sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-x", "-rfE", "--tb=no"),
        *("--kernel", kernel, "--kernel-guest=cold", f"--kernel-append={PARAMETER}={number}"),
        *("--bpf-libbpf", "newest"),
        *tests,
    )
    done = subprocess.run(
        list(map(str, command)),
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "tools/kernel-mutants", description=(__doc__ or "").partition("\n\n")[0]
    )
    parser.add_argument(
        "--only",
        type=lambda text: [_number(each) for each in text.split(",")],
        metavar="N,N...",
        help="try these faults (default: all)",
    )
    parser.add_argument("--kernel", type=Path, metavar="DIR", help="a kernel of this flavour")
    parser.add_argument("--tree", type=Path, metavar="DIR", help="where to build one")
    parser.add_argument("tests", nargs="*", metavar="PYTEST ARGUMENT", help="after --: which tests")
    return parser.parse_args(arguments)


def _number(text: str) -> int:
    number = int(text)
    if not 1 <= number <= len(MUTANTS):
        raise ValueError(text)
    return number


if __name__ == "__main__":
    sys.exit(main())
