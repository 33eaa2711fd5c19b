"""The pytest plugin: options, markers, header, report sections.

Hooks only. Fixtures are in `fixtures`, kernels as a parameter in `matrix`. Slow imports (ctypes,
libbpf, xdist) wait until a test or an option needs them.
"""

from __future__ import annotations

import getpass
import os
import stat
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pytest_bpflink.matrix import libbpfs
from pytest_bpflink.session import options
from pytest_bpflink.session.guest import is_in_guest

if TYPE_CHECKING:
    from collections.abc import Generator

pytest_plugins = ["pytest_bpflink.fixtures", "pytest_bpflink.matrix.port_relay"]


_REQUIREMENTS = {
    "bpf_requires(*features, since, config, libbpf): needs these features, which are probed"
    " (link:tcx, attach:TYPE, prog:netfilter, helper:NAME, kfunc:NAME); if one is absent, the test"
    " is skipped on kernels older than since or built without config, and with a libbpf older than"
    " libbpf, and fails otherwise": "bpf_requires",
    'kernel(">=6.6"): runs on matching kernels only': "kernel",
    "guest_only: can crash the kernel or changes the whole machine, so it runs in guests"
    " (--kernel), and on the running kernel only with --bpf-native-all": "guest_only",
    "kernel_bug(source): triggers a known kernel bug, and is expected to fail if the bug kills the"
    " guest; otherwise as fresh_kernel": "kernel_bug",
    "fresh_kernel: needs a kernel on which nothing ran before, so it has a guest of its own"
    " (--kernel), and runs on the running kernel only with --bpf-native-all": "fresh_kernel",
}


_ALLOWANCES = (
    "allow_leak: may leave links, programs and maps behind",
    "allow_dmesg(*regexes): the kernel may log splats that match one of these expressions",
)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options; `docs` and the README list them in this order."""
    options.add(parser)


# A wrapper, so that it runs before all others.
@pytest.hookimpl(wrapper=True)
def pytest_load_initial_conftests(early_config: pytest.Config) -> Generator[None, object, object]:
    """Set --dist, which plugins such as pytest-cov read this early, if there will be workers."""
    if "BPFLINK_PYCACHE" in os.environ:
        from pytest_bpflink.session import pytest_internals

        # Before conftest files import modules of the API.
        pytest_internals.use_pycache()
    known = early_config.known_args_namespace
    several_libbpfs = "," in (known.bpf_libbpf or "")
    if hasattr(known, "dist") and (known.kernel not in ([], ["native"]) or several_libbpfs):
        known.dist = "load"
    return (yield)


def pytest_configure(config: pytest.Config) -> None:
    """Describe the markers, and set kernels up as a parameter if an option asks for them."""
    config.addinivalue_line(
        "markers",
        "on_kernel(spec, release, libbpf): set on each item by --kernel, to select items by kernel:"
        " -m 'on_kernel(spec=\"6.1\")'",
    )
    for marker in (*_REQUIREMENTS, *_ALLOWANCES):
        config.addinivalue_line("markers", marker)
    if os.environ.get("BPFLINK_CACHE"):
        # Wherever a test changes to.
        os.environ["BPFLINK_CACHE"] = os.path.abspath(os.environ["BPFLINK_CACHE"])
    if config.getini(options.CFLAGS_OPTION):
        from pytest_bpflink.session import shared_flags

        shared_flags.use(config)
    if config.option.kernel or len(libbpfs.asked_for(config)[0]) > 1:
        from pytest_bpflink.matrix import setup

        setup.configure(config)
    if config.option.kernel_report and not hasattr(config, "workerinput"):
        from pytest_bpflink.matrix import setup

        setup.configure_report(config)
    if getattr(config.option, "basetemp", "") is None and _usual_basetemp_is_anothers():
        _use_own_temproot(config)
    _configure_watching(config)


def pytest_unconfigure(config: pytest.Config) -> None:
    """Leave pytest's cache to the owner of the project; pytest writes it at a session's end."""
    if not os.geteuid() and not hasattr(config, "workerinput"):
        from pytest_bpflink.session import cache_owner

        cache_owner.give_back(config)


def _usual_basetemp_is_anothers() -> bool:
    """Whether pytest would refuse its usual base directory because another user owns it.

    In a guest pytest runs as root but sees the host's /tmp, where `pytest-of-USER` may belong to
    the host's user, or to the host's root and be unreadable here.
    """
    if os.geteuid() or "PYTEST_DEBUG_TEMPROOT" in os.environ:
        return False
    try:
        usual = Path(tempfile.gettempdir(), f"pytest-of-{getpass.getuser()}")
        os.scandir(usual).close()
        return usual.stat().st_uid != os.geteuid()
    except PermissionError:
        return True
    except (OSError, KeyError):
        return False


def _use_own_temproot(config: pytest.Config) -> None:
    """Have pytest make its directories, and keep the last three, where no other user makes any."""
    if is_in_guest(config):
        # All that a guest writes ends with it.
        config.option.basetemp = tempfile.mkdtemp(prefix="pytest-")
        return
    own = Path(tempfile.gettempdir(), f"pytest-bpflink-{os.geteuid()}")
    try:
        own.mkdir(mode=0o700, exist_ok=True)
        found = own.lstat()
        is_ours = stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid()
    except OSError:
        is_ours = False
    if not is_ours or found.st_mode & 0o022:
        own = Path(tempfile.mkdtemp(prefix="pytest-"))
    os.environ["PYTEST_DEBUG_TEMPROOT"] = str(own)


def _configure_watching(config: pytest.Config) -> None:
    for name in ("leaks", "dmesg"):
        value = getattr(config.option, f"bpf_{name}") or config.getini(f"bpflink_{name}")
        if value not in options.SEVERITIES:
            raise pytest.UsageError(
                f"bpflink_{name} = {value}: choose from {', '.join(options.SEVERITIES)}"
            )
        setattr(config.option, f"bpf_{name}", value)
    if config.getoption("tx", None) and config.option.bpf_dmesg != "off":
        # Workers read the log; the controller only lists the tests that share a splat.
        from pytest_bpflink.session.kernel_log_check import SplatSummary

        config.pluginmanager.register(SplatSummary(), "bpflink-splats")


def pytest_report_header(config: pytest.Config) -> list[str]:
    """Describe the environment in a controller of workers, which collects no tests."""
    if config.option.verbose < 0 or not config.getoption("tx", None):
        return []
    controller = config.pluginmanager.get_plugin("bpflink-controller")
    return _environment(natively=controller is None or controller.runs_natively)


def pytest_report_collectionfinish(config: pytest.Config, items: list[pytest.Item]) -> list[str]:
    """Describe the environment if tests of BPF were collected."""
    shows = config.option.verbose >= 0 and _use_bpf(items)
    return _environment(natively=True) if shows else []


@pytest.hookimpl(tryfirst=True)
def pytest_collection_finish(session: pytest.Session) -> None:
    """Watch what tests leave behind and what the kernel logs, in sessions with tests of BPF."""
    if is_in_guest(session.config) or _use_bpf(session.items):
        from pytest_bpflink.session import watching

        watching.start(session.config)
        if session.config.option.kernel_report:
            from pytest_bpflink.reports import program_costs

            program_costs.ask(session.config)


def _use_bpf(items: list[pytest.Item]) -> bool:
    return any("_bpf_privileges" in getattr(item, "fixturenames", ()) for item in items)


def _environment(*, natively: bool) -> list[str]:
    from pytest_bpflink.session import header

    return header.lines(natively=natively)


@pytest.hookimpl(tryfirst=True)
def pytest_sessionstart(session: pytest.Session) -> None:
    """Choose the libbpf, and remove what killed sessions left."""
    libbpfs.use_chosen(session.config)
    if is_in_guest(session.config):
        return

    from pytest_bpflink.ledger import estate
    from pytest_bpflink.vm import scratch

    estate.sweep(partial(_complain, session.config))
    if not hasattr(session.config, "workerinput"):
        # Not in a worker: a guest sees the host's directories, but not that the host locks them.
        scratch.sweep()


def _complain(config: pytest.Config, what: str) -> None:
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    if reporter is not None:  # workers have none, and the controller has swept before them
        reporter.write_line(f"bpflink: {what}", yellow=True)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Name the files of the cache that this process did not trust."""
    # A session that uses nothing of the cache has not imported the module.
    cache = sys.modules.get("pytest_bpflink.vm.cache")
    for refusal in cache.refusals() if cache else ():
        terminalreporter.write_line(f"bpflink: {refusal}", yellow=True)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip or fail a test that can't or mustn't run on this kernel, before its fixtures."""
    needs = ("bpf_requires", "kernel") if is_in_guest(item.config) else _REQUIREMENTS.values()
    if any(item.get_closest_marker(name) for name in needs):
        from pytest_bpflink.session import requirements

        requirements.check(item)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    call: pytest.CallInfo[None],
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show the verifier's whole log in the report, if the message of the error has only its end."""
    report = yield
    # The code that raised a VerifierError has imported the module.
    errors = sys.modules.get("pytest_bpflink.errors")
    error = call.excinfo.value if call.excinfo else None
    if errors and isinstance(error, errors.VerifierError) and not error.shows_whole_log:
        report.sections.append(("Verifier log", error.verifier_log))
    return report
