"""The pytest plugin: options, markers, header, report sections.

Hooks only. Fixtures are in `fixtures`, kernels as a parameter in `matrix`. Nothing that costs time
(ctypes, libbpf, xdist) is imported before a test or an option asks for it.
"""

from __future__ import annotations

import sys
from functools import partial
from typing import TYPE_CHECKING

import pytest

from pytest_bpflink import kernel_options, libbpf_axis

if TYPE_CHECKING:
    from collections.abc import Generator

pytest_plugins = ["pytest_bpflink.fixtures"]


_REQUIREMENTS = {
    "bpf_requires(*features, since, config, libbpf): needs what is probed by these names (link:tcx,"
    " prog:netfilter, kfunc:NAME, cgroup:revision); skipped on kernels older than since or built"
    " without config, and with an older libbpf, else a failure where it is absent": "bpf_requires",
    'kernel(">=6.6"): runs on such kernels only': "kernel",
    "guest_only: can crash the kernel or changes the whole machine, so it runs in guests"
    " (--kernel), and natively with --bpf-native-all only": "guest_only",
    "kernel_bug(source): triggers a known bug of kernels, otherwise as guest_only": "kernel_bug",
}


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options; `docs` and the README list them in this order."""
    links = parser.getgroup("bpflink", "BPF links")
    links.addoption(
        "--bpf-libbpf",
        metavar="SPEC[,SPEC...]",
        help="The libbpf to use: system (default), a path to a shared object or to a source tree of"
        " libbpf or the kernel, a release (1.7, 1.7.0) or newest, built from the distribution's"
        " source package; several by comma run each test with each",
    )
    parser.addini("bpflink_libbpf", "The default of --bpf-libbpf", default="system")
    links.addoption(
        "--bpf-strict",
        action="store_true",
        help="Fail tests of features that this kernel or libbpf lacks instead of skipping them",
    )
    links.addoption(
        "--bpf-native-all",
        action="store_true",
        help="Run tests on this kernel that are meant for guests, since they can crash it or change"
        " the whole machine",
    )
    kernel_options.add(parser)


def pytest_configure(config: pytest.Config) -> None:
    """Describe the markers, and set kernels up as a parameter if that was asked for."""
    config.addinivalue_line(
        "markers",
        "on_kernel(spec, release, libbpf): set on each item by --kernel, to select items by kernel:"
        " -m 'on_kernel(spec=\"6.1\")'",
    )
    for marker in _REQUIREMENTS:
        config.addinivalue_line("markers", marker)
    if config.option.kernel or len(libbpf_axis.asked_for(config)[0]) > 1:
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

    leftovers.sweep(partial(_complain, session.config))


def _complain(config: pytest.Config, what: str) -> None:
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    if reporter is not None:  # workers have none, and the controller has swept before them
        reporter.write_line(f"bpflink: {what}", yellow=True)


def _choose_libbpf(config: pytest.Config) -> None:
    specs, directory = libbpf_axis.asked_for(config)
    if len(specs) > 1:
        # Each worker has one of them.
        return
    (spec,) = specs
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


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip or fail a test that this kernel lacks something for, before its fixtures."""
    if any(item.get_closest_marker(name) for name in _REQUIREMENTS.values()):
        from pytest_bpflink import requirements  # costs what tests without such marks don't owe

        requirements.check(item)


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
