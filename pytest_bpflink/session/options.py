"""The options of runs on other kernels: their names, and the checks of their values."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_bpflink.session.arguments import writable_directory

if TYPE_CHECKING:
    from collections.abc import Callable

    import pytest

#: The SPEC that stands for the kernels of the ini option, and the ini option.
INI = "ini"
INI_OPTION = "bpflink_kernels"

#: The endings of --kernel-report's files, which say in which format they are.
REPORT_ENDINGS = (".html", ".md", ".json")


def add(parser: pytest.Parser) -> None:
    """Add the options; `docs` and the README list them in this order."""
    kernels = parser.getgroup("bpflink-kernels", "BPF links on other kernels")
    kernels.addoption(
        "--kernel",
        action="append",
        default=[],
        metavar="SPEC[,SPEC...]",
        help="Kernels to run each test on: native (this one, no VM), a release (6.1, 6.1.176), lts,"
        " newest or oldest, a pattern (6.1*), host (this one in a VM), a path to an image, an"
        " unpacked package or a build tree, ini for those of bpflink_kernels (repeatable)",
    )
    parser.addini(
        INI_OPTION,
        "The kernels of --kernel ini, a SPEC or several per line",
        "linelist",
    )
    kernels.addoption(
        "--kernel-workers",
        type=_at_least(1),
        default=1,
        metavar="N",
        help="Guests of each kernel, which share its tests (default: %(default)s); -n is the number"
        " of native workers",
    )
    kernels.addoption(
        "--kernel-fresh",
        action="store_true",
        help="Run each test in a guest of its own, as those that are marked fresh_kernel",
    )
    kernels.addoption(
        "--kernel-timeout",
        type=_seconds,
        default=60.0,
        metavar="SECONDS",
        help="Time that a test may take in a guest before the guest is killed and the test fails;"
        " five times as much where it is emulated, 0 for no limit (default: %(default)g)",
    )
    kernels.addoption(
        "--kernel-memory",
        type=_at_least(128),
        default=512,
        metavar="MIB",
        help="Memory of each guest in MiB (default: %(default)s)",
    )
    kernels.addoption(
        "--kernel-cpus",
        type=_at_least(1),
        default=1,
        metavar="N",
        help="Processors of each guest (default: %(default)s)",
    )
    kernels.addoption(
        "--kernel-append",
        action="append",
        default=[],
        metavar="PARAMETERS",
        help="Kernel parameters to boot guests with, after those that are needed (repeatable)",
    )
    kernels.addoption(
        "--kernel-rw",
        type=writable_directory,
        metavar="DIR",
        help="Directory that guests share with this host at the same path, and may write to; what"
        " else they write stays in the guest",
    )
    kernels.addoption(
        "--kernel-log",
        type=Path,
        metavar="DIR",
        help="Directory to keep each guest's console in",
    )
    kernels.addoption(
        "--kernel-report",
        type=_report_file,
        action="append",
        default=[],
        metavar="FILE",
        help="File to write the outcome of each test on each kernel to, with reasons and consoles,"
        " as its ending says: .html, .md or .json (repeatable)",
    )
    kernels.addoption(
        "--kernel-host",
        action="append",
        default=[],
        metavar="ssh=HOST",
        help="Another machine to run guests on, where this tree and its Python are at the same"
        " paths; kernels are spread by free cores (repeatable)",
    )
    kernels.addoption(
        "--kernel-guest",
        choices=["warm", "cold", "plain"],
        default="warm",
        help="How guests are made: warm restores a saved guest, which is saved at first use; cold"
        " boots the same guest each time; plain boots through virtme-ng as it is"
        " (default: %(default)s)",
    )


def _at_least(minimum: int) -> Callable[[str], int]:
    def number(value: str) -> int:
        try:
            chosen = int(value)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{value!r} is no whole number") from None
        if chosen < minimum:
            raise argparse.ArgumentTypeError(f"{value} is too little: at least {minimum} is needed")
        return chosen

    return number


def _report_file(value: str) -> str:
    if Path(value).suffix not in REPORT_ENDINGS:
        raise argparse.ArgumentTypeError(
            f"{value!r} names no format: it must end with {' or '.join(REPORT_ENDINGS)}"
        )
    return value


def _seconds(value: str) -> float:
    try:
        chosen = float(value)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{value!r} is no number of seconds") from None
    if not 0 <= chosen < float("inf"):
        raise argparse.ArgumentTypeError(f"{value} is no number of seconds: 0 or more is needed")
    return chosen
