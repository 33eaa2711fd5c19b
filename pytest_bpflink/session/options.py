"""The options of the plugin: their names, and the checks of their values."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_bpflink.session.arguments import guest_memory, writable_directory

if TYPE_CHECKING:
    from collections.abc import Callable

    import pytest

#: The SPEC that stands for the kernels of the ini option, and the ini option.
INI = "ini"
INI_OPTION = "bpflink_kernels"

#: The ini option for archives of packages with kernels.
SOURCES_OPTION = "bpflink_kernel_sources"

#: The ini options of how BPF programs are compiled.
CFLAGS_OPTION = "bpflink_cflags"
PROGRAMS_OPTION = "bpflink_sources"

#: The endings of --kernel-report's files, which say in which format they are.
REPORT_ENDINGS = (".html", ".md", ".json")


#: The values of --bpf-leaks and --bpf-dmesg.
SEVERITIES = ("error", "warn", "off")


def add(parser: pytest.Parser) -> None:
    """Add the options; `docs` and the README list them in this order."""
    _add_options_of_links(parser)
    _add_options_of_kernels(parser)


def _add_options_of_links(parser: pytest.Parser) -> None:
    links = parser.getgroup("bpflink", "BPF links")
    links.addoption(
        "--bpf-libbpf",
        metavar="SPEC[,SPEC...]",
        help="The libbpf to use: system (default), a path to a shared object or to a source tree of"
        " libbpf or the kernel, a release (1.7, 1.7.0) or newest, built from the distribution's"
        " source package; with several, separated by commas, each test runs with each",
    )
    parser.addini("bpflink_libbpf", "The default of --bpf-libbpf", default="system")
    parser.addini(
        CFLAGS_OPTION,
        "Further flags for clang, such as -Iinclude -DDEBUG -mcpu=v4; directories are relative to"
        " the configuration file",
        "args",
    )
    parser.addini(
        PROGRAMS_OPTION,
        "Directories of .bpf.c files that tests load from elsewhere than below pytest's arguments:"
        " those that collected tests name are compiled before guests start",
        "paths",
    )
    links.addoption(
        "--bpf-strict",
        action="store_true",
        help="Fail tests of features that this kernel or libbpf lacks, instead of skipping them",
    )
    links.addoption(
        "--bpf-native-all",
        action="store_true",
        help="On the running kernel, run even tests that can crash it or change the whole machine",
    )
    links.addoption(
        "--bpf-leaks",
        choices=SEVERITIES,
        help="Report links, programs and maps that a test leaves behind as an error of its teardown"
        " (default), as a warning, or not at all",
    )
    parser.addini("bpflink_leaks", "The default of --bpf-leaks", default="error")
    links.addoption(
        "--bpf-dmesg",
        choices=SEVERITIES,
        help="Report a WARNING, BUG, oops, lockdep, KASAN or RCU-stall splat of the kernel as an"
        " error of the test that ran then (default), as a warning, or not at all",
    )
    parser.addini("bpflink_dmesg", "The default of --bpf-dmesg", default="error")


def _add_options_of_kernels(parser: pytest.Parser) -> None:
    kernels = parser.getgroup("bpflink-kernels", "BPF links on other kernels")
    kernels.addoption(
        "--kernel",
        action="append",
        default=[],
        metavar="SPEC[,SPEC...]",
        help="Kernels to run each test on: native (the running kernel), a release (6.1, 6.1.176),"
        " lts, newest or oldest, a pattern (6.1*), host (the running kernel's image in a guest), a"
        " path to an image, a .deb or a directory of them, an unpacked package or a build tree,"
        " oci:REF or oci:DIR (an image that holds a kernel), ini (the kernels of bpflink_kernels);"
        " a guest is a VM, in which each kernel but native runs (repeatable)",
    )
    parser.addini(
        INI_OPTION,
        "The kernels of --kernel ini: SPECs, separated by spaces, commas or line breaks",
        "linelist",
    )
    parser.addini(
        SOURCES_OPTION,
        "Archives with kernels that the distribution's packages lack: deb lines with their keyring,"
        " deb [signed-by=KEYRING] URI SUITE COMPONENT...",
        "linelist",
    )
    kernels.addoption(
        "--kernel-workers",
        type=_at_least(1),
        default=1,
        metavar="N",
        help="Number of guests of each kernel, which share its tests (default: %(default)s); -n is"
        " the number of workers on the running kernel",
    )
    kernels.addoption(
        "--kernel-fresh",
        action="store_true",
        help="Run each test in a guest of its own, as if all were marked fresh_kernel",
    )
    kernels.addoption(
        "--kernel-timeout",
        type=_seconds,
        default=60.0,
        metavar="SECONDS",
        help="Time that a test may take in a guest before the guest is killed and the test fails;"
        " five times as much in emulated guests, 0 for no limit (default: %(default)g)",
    )
    kernels.addoption(
        "--kernel-memory",
        type=guest_memory,
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
        help="Kernel parameters for guests, appended to the necessary ones (repeatable)",
    )
    kernels.addoption(
        "--kernel-rw",
        type=writable_directory,
        metavar="DIR",
        help="Directory that guests share with this host at the same path, and may write to; all"
        " other files that they write stay in the guest",
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
        help="File for the outcome of each test on each kernel, with reasons and consoles; its"
        " ending, .html, .md or .json, selects the format (repeatable)",
    )
    kernels.addoption(
        "--kernel-host",
        action="append",
        default=[],
        metavar="ssh=HOST",
        help="Another machine to run guests on, which has this tree and its Python at the same"
        " paths; each kernel goes to the machine with most free cores (repeatable)",
    )
    kernels.addoption(
        "--kernel-guest",
        choices=["warm", "cold", "plain"],
        default="warm",
        help="How guests start: warm restores a guest that was saved at first use; cold boots the"
        " same guest each time; plain boots through virtme-ng alone (default: %(default)s)",
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
