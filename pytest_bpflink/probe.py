"""What this kernel and this process can do."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import re
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from pytest_bpflink import libbpf
from pytest_bpflink.errors import BpfError
from pytest_bpflink.vm.kernels.config import parse_config

# Bits of CapEff in /proc/self/status, and what asks for them.
_CAPABILITIES = {"CAP_NET_ADMIN": 12, "CAP_SYS_ADMIN": 21, "CAP_PERFMON": 38, "CAP_BPF": 39}

WAY_OUT = "--kernel 6.12 runs the test in a VM, where it is root whoever you are"


@dataclass(frozen=True)
class KernelInfo:
    """The kernel that a test runs on."""

    release: str = field(default_factory=lambda: os.uname().release)
    """As `uname -r` has it."""
    where: str = "native"
    """`native`, or how its VM is run: `kvm` or `tcg`."""
    spec: str = "native"
    """What `--kernel` called it."""

    @cached_property
    def version(self) -> tuple[int, ...]:
        """The release's leading numbers: `(6, 1, 176)`; to be shown, never to guess features."""
        found = re.match(r"[\d.]+\d", self.release)
        return tuple(int(part) for part in found[0].split(".")) if found else ()

    @property
    def btf(self) -> bool:
        """Whether the kernel describes its own types, as tp_btf, fentry and CO-RE need."""
        return Path("/sys/kernel/btf/vmlinux").exists()

    @cached_property
    def config(self) -> dict[str, str]:
        """Its build configuration, `{"CONFIG_BPF_LSM": "y", ...}`; empty where there is none.

        Values that are strings are without their quotes.
        """
        return _read_config(self.release)


def missing_privileges() -> str:
    """Say why this process can't test BPF links on the running kernel; empty when it can."""
    held = _effective_capabilities()
    lacking = [name for name, bit in _CAPABILITIES.items() if not held >> bit & 1]
    if lacking:
        return f"needs {', '.join(lacking)}, as root has; {WAY_OUT}"
    return _refusal_of_bpf()


def _effective_capabilities() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("CapEff:"):
            return int(line.split()[1], 16)
    return 0


def _refusal_of_bpf() -> str:
    """Ask bpf(2) something harmless: containers refuse it by seccomp whoever asks."""
    try:
        libbpf.call(
            "bpf_link_get_next_id", 0, ctypes.byref(ctypes.c_uint32()), doing="enumerate links"
        )
    except BpfError as error:
        if error.errno in {errno.EPERM, errno.ENOSYS}:
            return f"this kernel refuses bpf(2) here ({error.strerror}); {WAY_OUT}"
        if error.errno != errno.ENOENT:  # ENOENT: there is no link yet
            raise
    return ""


def _read_config(release: str) -> dict[str, str]:
    packed = Path("/proc/config.gz")
    modules = Path(f"/lib/modules/{release}")
    places = [
        Path(f"/boot/config-{release}"),
        modules / "config",
        Path(f"/usr/lib/modules/{release}/config"),
    ]
    # In a guest that is a link into the unpacked package, which has its config above.
    places += [parent / f"boot/config-{release}" for parent in modules.resolve().parents]
    if packed.exists():
        import gzip  # few kernels have it

        return parse_config(gzip.decompress(packed.read_bytes()).decode())
    for place in places:
        with contextlib.suppress(OSError):
            return parse_config(place.read_text())
    return {}
