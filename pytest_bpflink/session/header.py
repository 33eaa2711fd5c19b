"""The environment of a run, for pytest's header: kernel, libbpf, clang, cgroup2, privileges."""

from __future__ import annotations

from pytest_bpflink.binding import libbpf
from pytest_bpflink.building.compilation import clang_version
from pytest_bpflink.errors import BpfError
from pytest_bpflink.features.kernel_info import KernelInfo
from pytest_bpflink.features.privileges import missing_privileges
from pytest_bpflink.system import kernel_log
from pytest_bpflink.system.cgroup2 import cgroup2_mount


def lines(*, natively: bool) -> list[str]:
    """Describe the running kernel, and what this process can do with it if tests run NATIVELY."""
    kernel = KernelInfo()
    btf = "with BTF" if kernel.btf else "without BTF"
    clang = clang_version() or "none (only built .bpf.o can be loaded)"
    found = [f"bpflink: Linux {kernel.release} {btf}, libbpf {_libbpf()}, clang {clang}"]
    if not natively:
        return found
    found.append(f"bpflink: cgroup2 {_cgroup2()}, privileges {_privileges()}")
    unreadable = kernel_log.unreadable()
    if unreadable:
        found.append(f"bpflink: kernel log unreadable ({unreadable}), so its splats go unseen")
    return found


def _libbpf() -> str:
    try:
        release = libbpf.version()
    except BpfError as error:
        return f"missing: {error.hint}"
    place = "the system's" if libbpf.path() == libbpf.SONAME else libbpf.path()
    return f"{release} ({place})"


def _cgroup2() -> str:
    try:
        return f"at {cgroup2_mount()}"
    except BpfError as error:
        return error.hint


def _privileges() -> str:
    try:
        missing = missing_privileges()
    except BpfError:  # no libbpf to probe with, as another line says
        return "unknown"
    return f"incomplete: {missing}" if missing else "complete"
