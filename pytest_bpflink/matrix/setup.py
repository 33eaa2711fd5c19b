"""Sets kernels up as a parameter of a session: in a controller, in a worker, or in pytest alone.

Knows which options of pytest and xdist go with `--kernel`, and sets xdist's before xdist reads
them.
"""

from __future__ import annotations

import sys
import tempfile
from typing import TYPE_CHECKING

import pytest

from pytest_bpflink.matrix import libbpfs, specs
from pytest_bpflink.matrix.items import KernelItems, register
from pytest_bpflink.matrix.messages import Assignment
from pytest_bpflink.session.guest import IN_GUEST
from pytest_bpflink.session.kernel import RUNNING, native

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from pytest_bpflink.session.kernel import MatrixKernel

# Guests share the host's files, but not these file systems, which each kernel makes itself.
_NOT_SHARED = ("/dev", "/proc", "/run", "/sys")

# The default of --max-worker-restart: machines that one worker may use up beyond its first.
_RESTARTS = 3


def configure(config: pytest.Config) -> None:
    """Register the plugins of the matrix that this process needs.

    To be called from a `pytest_configure` that runs between two others: the cache plugin's, which
    is tryfirst and registers `--lf`, since `KernelItems` must be registered later; and xdist's,
    which is trylast and reads `--tx`.
    """
    assignment = Assignment.received(config)
    if assignment:
        _configure_worker(config, assignment)
        return
    wanted_libbpfs, _ = libbpfs.asked_for(config)
    asked_for = specs.requested(specs.asked_for(config))
    kernels = libbpfs.pairs(asked_for or [native()], wanted_libbpfs)
    if _runs_no_test(config):
        register(config, KernelItems(kernels, here=None))
    elif len(kernels) == 1 and kernels[0].is_native:
        register(config, KernelItems(kernels, here=kernels[0]))
    elif not config.pluginmanager.hasplugin("xdist"):
        one = len(wanted_libbpfs) == 1
        raise pytest.UsageError(
            f"{'--kernel: other kernels than native' if one else 'several libbpfs'}"
            " need pytest-xdist and virtme-ng:"
            " pip install 'pytest-bpflink[vm]' (and no -p no:xdist)"
        )
    else:
        _configure_controller(config, kernels)


def configure_report(config: pytest.Config) -> None:
    """Register the plugin that writes `--kernel-report`, unless the controller has done so."""
    if _runs_no_test(config) or config.pluginmanager.hasplugin("bpflink-report"):
        return
    from pytest_bpflink.reports import kernel_report

    config.pluginmanager.register(kernel_report.NativeReport(config, native()), "bpflink-report")


def _runs_no_test(config: pytest.Config) -> bool:
    """Whether pytest only shows something; it starts a session all the same (pytest 9.2)."""
    options = ("collectonly", "showfixtures", "show_fixtures_per_test", "cacheshow")
    return any(getattr(config.option, option, None) for option in options)


def _configure_worker(config: pytest.Config, assignment: Assignment) -> None:
    from pytest_bpflink.matrix.worker.worker import MatrixWorker

    config.stash[RUNNING] = assignment.kernel
    config.stash[IN_GUEST] = not assignment.kernel.is_native
    register(config, KernelItems(assignment.kernels, here=assignment.kernel))
    MatrixWorker(config, assignment).start()


def _configure_controller(config: pytest.Config, kernels: Sequence[MatrixKernel]) -> None:
    """Make xdist start a worker per kernel. Called before xdist looks at its options.

    Raises UsageError for options that can't work with guests.
    """
    from pytest_bpflink.matrix.controller import controller
    from pytest_bpflink.matrix.guests import capacity

    option = config.option
    _refuse_hidden(config, kernels)
    _refuse_undecodable(config, kernels)
    _refuse_libbpf(config, kernels)
    if option.usepdb:
        raise pytest.UsageError("--pdb can't reach into a guest: use it with --kernel native alone")
    if option.tx and not option.numprocesses:
        raise pytest.UsageError("--tx: --kernel starts the workers itself; drop --tx")
    if option.dist == "each":
        raise pytest.UsageError("--dist=each: --kernel runs each test on every kernel; drop it")
    # -n is the number of native workers. Without `native` it does nothing, and -n 0, which people
    # have in addopts, does not switch guests off.
    native_workers = len(option.tx) or 1
    guests, bounded = capacity.affordable_workers(
        option.kernel_workers,
        kernels=sum(not kernel.is_native for kernel in kernels),
        memory_mib=option.kernel_memory,
    )
    option.tx = [
        f"popen//id={worker}//kernel={kernel.id}"
        for kernel in kernels
        for worker in _worker_ids(kernel, native_workers if kernel.is_native else guests)
    ]
    if option.kernel_host:
        from pytest_bpflink.matrix.guests import hosts

        if option.kernel_rw:
            raise pytest.UsageError("--kernel-rw: guests on a --kernel-host can't reach this host")
        option.px = [*option.px, *hosts.proxies(option.kernel_host)]
    option.dist = "load"
    # Restarts are bounded per worker. xdist's bound is for all workers together; beyond it xdist
    # loses items silently.
    asked_for: str | None = option.maxworkerrestart
    restarts = _RESTARTS if asked_for is None else int(asked_for)
    option.maxworkerrestart = str(sys.maxsize)
    run = controller.MatrixController(config, kernels, restarts=restarts, bounded=bounded)
    config.pluginmanager.register(run, "bpflink-controller")
    config.pluginmanager.register(run.report, "bpflink-report")


def _refuse_hidden(config: pytest.Config, kernels: Sequence[MatrixKernel]) -> None:
    """Raise UsageError if a guest would not find the tests where the host has them."""
    if all(kernel.is_native for kernel in kernels):
        return
    start = config.invocation_params.dir
    named = [argument.partition("::")[0] for argument in config.args]
    for path in (start, *(start / name for name in named)):
        hidden = _hiding(path)
        if hidden:
            raise pytest.UsageError(
                f"--kernel: {path} is below {hidden}, of which each guest has one of its own; move"
                " the tests to a directory that guests share with this host"
            )


def _refuse_undecodable(config: pytest.Config, kernels: Sequence[MatrixKernel]) -> None:
    """Raise UsageError for a path that is not UTF-8: xdist and virtme-ng can't pass it on."""
    from pytest_bpflink.vm.cache import cache_root

    named = {
        "the working directory": [str(config.invocation_params.dir)],
        "the path of tests": config.args,
        "the entry of sys.path": sys.path,
        "the temporary directory (TMPDIR)": [tempfile.gettempdir()],
        "the cache (BPFLINK_CACHE)": [str(cache_root())],
        "the kernel": [kernel.spec for kernel in kernels],
    }
    for what, paths in named.items():
        for path in paths:
            try:
                path.encode()
            except UnicodeEncodeError:
                raise pytest.UsageError(
                    f"--kernel: {what} {path!r} is not UTF-8, and neither pytest-xdist nor"
                    " virtme-ng can pass it on; rename it, or use another"
                ) from None


def _refuse_libbpf(config: pytest.Config, kernels: Sequence[MatrixKernel]) -> None:
    """Raise UsageError if a guest of another architecture would be given this machine's libbpf."""
    from pytest_bpflink.vm import architectures

    own = {"", architectures.own()}
    foreign = [each.spec for each in kernels if architectures.split(each.spec)[0] not in own]
    specs, _ = libbpfs.asked_for(config)
    if foreign and specs != ["system"]:
        raise pytest.UsageError(
            f"--bpf-libbpf {','.join(specs)}: {foreign[0]} is of another architecture than this"
            " machine, for which libbpfs are built; its guests have their own: run it without"
            " --bpf-libbpf"
        )


def _hiding(path: Path) -> str | None:
    """Return the directory that hides a path from guests; symbolic links are followed."""
    real = path.resolve()
    return next((name for name in _NOT_SHARED if real.is_relative_to(name)), None)


def _worker_ids(kernel: MatrixKernel, workers: int) -> list[str]:
    if workers == 1:
        return [kernel.id]
    return [f"{kernel.id}-{number}" for number in range(1, workers + 1)]
