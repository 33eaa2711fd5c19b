"""Checks whether this machine has what tests need, each by a real try; `doctor` shows them.

Knows what to install or change. No check looks at a version: KVM works if a kernel booted with it,
BPF is allowed if the kernel answered.
"""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import sysconfig
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pytest_bpflink.commands.output import progress, size

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_bpflink.vm.kernels import Store

State = Literal["ok", "missing", "note"]

# With less free disk than this, the next kernel and its guest may not fit.
_ROOM = 2 << 30

_SLOWER = "several times slower"
_ELSEWHERE = "BPFLINK_CACHE names another directory"


@dataclass(frozen=True)
class Check:
    """A check's result. `missing`: no test can run at this place; `note`: fewer can, or slower."""

    name: str
    place: Literal["native", "vm"]
    state: State
    found: str
    advice: str = ""


def native() -> Iterator[Check]:
    """Check what tests on the running kernel need."""
    from pytest_bpflink.building import compilation
    from pytest_bpflink.features.kernel_info import KernelInfo

    kernel = KernelInfo()
    if kernel.btf:
        yield Check("kernel", "native", "ok", f"Linux {kernel.release} with BTF")
    else:
        found = f"Linux {kernel.release} without BTF: tp_btf, fentry and CO-RE don't work"
        advice = "run their tests with --kernel, or on a kernel built with CONFIG_DEBUG_INFO_BTF"
        yield Check("kernel", "native", "note", found, advice)
    yield _libbpf()
    yield _privileges()
    yield _cgroup2()
    yield _bpf_fs()
    clang = compilation.clang_version()
    if clang:
        yield Check("clang", "native", "ok", clang)
    else:
        found = "none: compiled .bpf.o files can be loaded, .bpf.c files can't"
        yield Check("clang", "native", "note", found, "apt-get install clang libbpf-dev")
    yield _package("pyroute2", "native", "note", "network devices can't be made", "net")


def vm() -> Iterator[Check]:
    """Check what tests in virtual machines need, beside libbpf and clang."""
    from pytest_bpflink.vm.kernels import Store

    tools = list(vm_tools())
    yield from tools
    store = Store()
    yield from _kernels(store)
    if all(tool.state == "ok" for tool in tools if tool.name == "QEMU"):
        acceleration = _acceleration(store)
        yield acceleration
        if acceleration.state != "ok":
            yield _emulated_python()
    yield _guests()
    yield _disk(store)


def vm_tools() -> Iterator[Check]:
    """Check the programs that tests in virtual machines need. This takes no kernel."""
    from pytest_bpflink.vm.machines import qemu, virtme
    from pytest_bpflink.vm.machines.errors import ComposeError

    try:
        yield Check("virtme-ng", "vm", "ok", virtme.virtme_run())
    except ComposeError as error:
        what, _, advice = str(error).partition(": ")
        yield Check("virtme-ng", "vm", "missing", what, advice)
    yield _package("xdist", "vm", "missing", "pytest can't run tests in guests", "vm")
    yield _program("QEMU", qemu.NAME, qemu.package())
    yield _emulators()
    for program, package in (
        ("busybox", "busybox-static"),
        ("file", "file"),
        ("depmod", "kmod"),
        ("setpriv", "util-linux"),
    ):
        yield _program(program, program, package)


def _libbpf() -> Check:
    from pytest_bpflink.binding import libbpf
    from pytest_bpflink.errors import BpfError

    try:
        return Check("libbpf", "native", "ok", f"{libbpf.version()} ({libbpf.path()})")
    except BpfError as error:
        return Check("libbpf", "native", "missing", str(error.strerror), error.hint)


def _privileges() -> Check:
    from pytest_bpflink.errors import BpfError
    from pytest_bpflink.features.privileges import missing_privileges

    try:
        missing = missing_privileges()
    except BpfError:
        return Check("privileges", "native", "missing", "unknown: there is no libbpf to ask with")
    if not missing:
        return Check("privileges", "native", "ok", "complete")
    what, _, way_out = missing.partition("; ")
    return Check("privileges", "native", "missing", what, f"run as root, or in a guest: {way_out}")


def _cgroup2() -> Check:
    from pytest_bpflink.errors import BpfError
    from pytest_bpflink.system.cgroup2 import cgroup2_mount

    try:
        return Check("cgroup2", "native", "ok", f"at {cgroup2_mount()}")
    except BpfError as error:
        advice = "mount -t cgroup2 none /sys/fs/cgroup"
        return Check("cgroup2", "native", "missing", error.hint or str(error.strerror), advice)


def _bpf_fs() -> Check:
    # Tests mount BPF file systems of their own: it does not matter whether one is mounted already.
    known = Path("/proc/filesystems").read_text().split()
    if "bpf" in known:
        return Check("BPF FS", "native", "ok", "the kernel has it")
    found = "the kernel has none (CONFIG_BPF_SYSCALL)"
    return Check("BPF FS", "native", "missing", found, "run tests with --kernel")


def _package(
    name: str, place: Literal["native", "vm"], state: State, lack: str, extra: str
) -> Check:
    if importlib.util.find_spec(name):
        from importlib import metadata

        distribution = {"xdist": "pytest-xdist"}.get(name, name)
        return Check(distribution, place, "ok", metadata.version(distribution))
    advice = f"pip install 'pytest-bpflink[{extra}]'"
    return Check(name, place, state, f"not installed: {lack}", advice)


def _program(name: str, program: str, package: str) -> Check:
    from pytest_bpflink.vm import programs

    found = programs.find(program)
    if found:
        return Check(name, "vm", "ok", found)
    return Check(name, "vm", "missing", f"{program} is not on PATH", f"apt-get install {package}")


def _emulators() -> Check:
    """Check which other architectures' kernels can be emulated."""
    from pytest_bpflink.vm import architectures

    others = [each for each in architectures.ALL.values() if each.name != architectures.own()]
    found = [each.name for each in others if shutil.which(each.qemu)]
    missing = [each for each in others if each.name not in found]
    packages = " ".join(dict.fromkeys(each.qemu_package for each in missing))
    return Check(
        "emulators",
        "vm",
        "note" if missing else "ok",
        f"kernels of {', '.join(found) or 'no other architecture'} can run, too",
        f"for {', '.join(each.name for each in missing)}: apt-get install {packages}"
        if missing
        else "",
    )


def _kernels(store: Store) -> Iterator[Check]:
    stored = [kernel.upstream for kernel in store.kernels()]
    offers = bool(shutil.which("apt-get"))
    if stored:
        yield Check("kernels", "vm", "ok", f"{', '.join(stored)} in {store.root}")
    elif offers:
        found = "none in the store yet; runs fetch the kernels that they need"
        yield Check("kernels", "vm", "note", found, "bpflink kernels fetch lts")
    else:
        found = "none in the store, and no apt to fetch any with"
        yield Check("kernels", "vm", "missing", found, "give a path: --kernel /boot/vmlinuz-...")


def _acceleration(store: Store) -> Check:
    from pytest_bpflink.vm import kernels
    from pytest_bpflink.vm.machines import kvm
    from pytest_bpflink.vm.machines.errors import MachineError

    lacking = kvm.absence()
    if lacking:
        advice = "add yourself to the group kvm: adduser NAME kvm" if "access" in lacking else ""
        found = f"{lacking}; guests are emulated, {_SLOWER}"
        return Check("KVM", "vm", "note", found, advice)
    stored = store.kernels()
    if not stored:
        found = "not tried: there is no kernel in the store to boot with KVM"
        return Check("KVM", "vm", "note", found, "bpflink kernels fetch lts")
    try:
        with progress() as told:
            told("trying once to boot a kernel with KVM; it takes seconds, or 20 s if KVM hangs")
            tried = kvm.detect(kernels.find(stored[-1].upstream))
    except (kernels.KernelError, MachineError) as error:
        return Check("KVM", "vm", "note", f"not tried: {error}")
    if tried.kvm:
        return Check("KVM", "vm", "ok", "a kernel booted with it")
    return Check("KVM", "vm", "note", f"{tried.reason}; guests are emulated, {_SLOWER}")


def _emulated_python() -> Check:
    """Check whether this Python calls its own functions by indirect jumps, slow to emulate.

    It does if it is a shared library that was built with the compiler's default, by which other
    libraries may replace its functions.
    """
    name = f"Python {platform.python_version()}"
    is_library = "/libpython" in Path("/proc/self/maps").read_text()
    options = str(sysconfig.get_config_var("PY_CORE_CFLAGS")).split()
    if not is_library or "-fno-semantic-interposition" in options:
        return Check("python", "vm", "ok", name)
    found = f"{name} is a shared library without optimizations, and slow in emulated guests"
    advice = "make the virtual environment with Debian's Python: /usr/bin/python3 -m venv"
    return Check("python", "vm", "note", found, advice)


def _guests() -> Check:
    from pytest_bpflink.vm.cache import cache_part
    from pytest_bpflink.vm.warm.saves import Saves

    kept = Saves(cache_part("guests")).kept()
    taken = sum(taken for _, taken in kept.values())
    found = f"{len(kept)}, {size(taken)}" if kept else "none yet; each is saved at first use"
    return Check("saved guests", "vm", "ok", found)


def _disk(store: Store) -> Check:
    place = store.root
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    found = f"{size(free)} are free in {place}"
    if not os.access(place, os.W_OK):
        return Check("disk", "vm", "note", f"{place} can't be written to", _ELSEWHERE)
    if free < _ROOM:
        return Check("disk", "vm", "note", found, f"bpflink kernels prune; or {_ELSEWHERE}")
    return Check("disk", "vm", "ok", found)
