"""The pytest plugin: options, markers, header, report sections.

Hooks only. Fixtures are in `fixtures`, kernels as a parameter in `matrix`. Nothing that costs time
(ctypes, libbpf, xdist) is imported before a test or an option asks for it.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Generator

pytest_plugins = ["pytest_bpflink.fixtures"]


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options; `docs` and the README list them in this order."""
    links = parser.getgroup("bpflink", "BPF links")
    links.addoption(
        "--bpf-libbpf",
        metavar="SPEC",
        help="The libbpf to use: system (default), a path to a shared object or to a source tree of"
        " libbpf or the kernel, a release (1.7, 1.7.0) or newest, built from the distribution's"
        " source package",
    )
    parser.addini("bpflink_libbpf", "The default of --bpf-libbpf", default="system")
    kernels = parser.getgroup("bpflink-kernels", "BPF links on other kernels")
    kernels.addoption(
        "--kernel",
        action="append",
        default=[],
        metavar="SPEC[,SPEC...]",
        help="Kernels to run each test on: native (this one, no VM), a release (6.1, 6.1.176), a"
        " path to an image, an unpacked package or a build tree (repeatable). Each guest kernel has"
        " one worker; -n is the number of native ones",
    )
    kernels.addoption(
        "--kernel-memory",
        type=int,
        default=512,
        metavar="MIB",
        help="Memory of each guest in MiB (default: %(default)s)",
    )
    kernels.addoption(
        "--kernel-cpus",
        type=int,
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
        "--kernel-log",
        type=Path,
        metavar="DIR",
        help="Directory to keep each guest's console in",
    )
    kernels.addoption(
        "--kernel-guest",
        choices=["plain"],
        default="plain",
        help="How guests are made: plain boots each through virtme-ng as it is",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Describe the markers, and set kernels up as a parameter if that was asked for."""
    config.addinivalue_line(
        "markers",
        "on_kernel(spec, release): set on each item by --kernel, to select items by kernel:"
        " -m 'on_kernel(spec=\"6.1\")'",
    )
    if config.option.kernel:
        from pytest_bpflink import matrix  # costs time that others don't owe

        matrix.configure(config)


def pytest_report_header(config: pytest.Config) -> list[str]:
    """Say what the run stands on, where the tests are dealt out and so are not known here."""
    return _stands_on() if config.option.verbose >= 0 and config.getoption("tx", None) else []


def pytest_report_collectionfinish(config: pytest.Config, items: list[pytest.Item]) -> list[str]:
    """Say what the run stands on, where tests of BPF were collected: others don't pay for it."""
    ours = any("_bpf_privileges" in getattr(item, "fixturenames", ()) for item in items)
    return _stands_on() if config.option.verbose >= 0 and ours else []


def _stands_on() -> list[str]:
    from pytest_bpflink import header

    return header.lines()


@pytest.hookimpl(tryfirst=True)
def pytest_sessionstart(session: pytest.Session) -> None:
    """Choose the libbpf, and remove what sessions left that were killed."""
    _choose_libbpf(session.config)

    from pytest_bpflink import leftovers

    leftovers.sweep()


def _choose_libbpf(config: pytest.Config) -> None:
    spec, directory = config.option.bpf_libbpf, config.invocation_params.dir
    if spec is None:
        spec = os.environ.get("BPFLINK_LIBBPF") or None
    if spec is None:
        spec = config.getini("bpflink_libbpf")
        directory = config.inipath.parent if config.inipath else directory
    # Workers get it as their option: nothing is chosen or built there.
    config.option.bpf_libbpf = spec
    if spec == "system":
        return
    # After that test, for it costs what others don't owe.
    from pytest_bpflink import libbpf, libbpf_choice
    from pytest_bpflink.report import Progress

    progress = Progress(config)
    try:
        chosen = libbpf_choice.choose(spec, progress, directory=directory)
        libbpf.use(chosen)
    except (libbpf_choice.LibbpfError, RuntimeError) as error:
        raise pytest.UsageError(f"--bpf-libbpf {spec}: {error}") from None
    finally:
        progress.done()
    config.option.bpf_libbpf = chosen


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    call: pytest.CallInfo[None],
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show the verifier's whole log under a test that it failed."""
    report = yield
    # Whoever raised it has imported it; nobody else pays for that.
    errors = sys.modules.get("pytest_bpflink.errors")
    if errors and call.excinfo and isinstance(call.excinfo.value, errors.VerifierError):
        report.sections.append(("Verifier log", call.excinfo.value.verifier_log))
    return report
