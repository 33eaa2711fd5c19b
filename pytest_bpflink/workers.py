"""Which xdist workers a run with kernels has, and which of pytest's options go with that.

Knows the options of xdist, which it sets before xdist looks at them.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest

from pytest_bpflink import boots, controller

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_bpflink.kernel import MatrixKernel


def configure(config: pytest.Config, kernels: Sequence[MatrixKernel]) -> None:
    """Make xdist start a worker per kernel. Called before xdist looks at its options.

    Raises UsageError for options that can't work with guests.
    """
    option = config.option
    if option.usepdb:
        raise pytest.UsageError("--pdb can't reach into a guest: use it with --kernel native alone")
    if option.tx and not option.numprocesses:
        raise pytest.UsageError("--tx: --kernel starts the workers itself; drop --tx")
    if option.dist == "each":
        raise pytest.UsageError("--dist=each: --kernel runs each test on every kernel; drop it")
    # -n is the number of native workers: nothing is left for it without `native`, and -n 0, which
    # people have in addopts, can't switch guests off.
    native_workers = len(option.tx) or 1
    guests, bounded = boots.affordable_workers(
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
        from pytest_bpflink import hosts

        if option.kernel_rw:
            raise pytest.UsageError("--kernel-rw: guests on a --kernel-host can't reach this host")
        option.px = [*option.px, *hosts.proxies(option.kernel_host)]
    option.dist = "load"
    run = controller.MatrixController(config, kernels, bounded=bounded)
    # Restarts are bounded per worker: xdist's bound is for all together, and loses items silently.
    option.maxworkerrestart = str(sys.maxsize)
    config.pluginmanager.register(run, "bpflink-controller")
    config.pluginmanager.register(run.report, "bpflink-report")


def _worker_ids(kernel: MatrixKernel, workers: int) -> list[str]:
    if workers == 1:
        return [kernel.id]
    return [f"{kernel.id}-{number}" for number in range(1, workers + 1)]
