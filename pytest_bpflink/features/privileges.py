"""The privileges for tests of BPF links on the running kernel: capabilities, and bpf(2) itself."""

from __future__ import annotations

import ctypes
import errno
from pathlib import Path

from pytest_bpflink.binding import libbpf
from pytest_bpflink.errors import BpfError

# Bits of CapEff in /proc/self/status.
_CAPABILITIES = {"CAP_NET_ADMIN": 12, "CAP_SYS_ADMIN": 21, "CAP_PERFMON": 38, "CAP_BPF": 39}

WAY_OUT = "--kernel 6.12 runs the test in a VM, where it is root whoever you are"


def missing_privileges() -> str:
    """Return why this process can't test BPF links on the running kernel; empty when it can."""
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
    """Try a harmless bpf(2) call: a container's seccomp filter refuses it to root, too."""
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
