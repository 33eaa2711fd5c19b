"""The running kernel's release, whether it has BTF, and its build configuration."""

from __future__ import annotations

import contextlib
import os
import re
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from pytest_bpflink.vm.kernels.config import parse_config

# The running kernel's configuration, as the kernel has it.
_OWN = Path("/proc/config.gz")


@dataclass(frozen=True)
class KernelInfo:
    """The kernel that a test runs on."""

    release: str = field(default_factory=lambda: os.uname().release)
    """The output of `uname -r`."""
    where: str = "native"
    """`native`, or the accelerator of the kernel's VM: `kvm` or `tcg`."""
    spec: str = "native"
    """The SPEC of the kernel in `--kernel`."""
    config_file: str | None = field(default=None, repr=False)
    """The configuration that the host found with the kernel's image, if it found one."""

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
        """The build configuration, `{"CONFIG_BPF_LSM": "y", ...}`; empty if it is not installed.

        String values are without quotes.
        """
        return _read_config(self.release, self.config_file)


def _read_config(release: str, known: str | None) -> dict[str, str]:
    modules = Path(f"/lib/modules/{release}")
    places = [
        *([Path(known)] if known else []),
        Path(f"/boot/config-{release}"),
        modules / "config",
        Path(f"/usr/lib/modules/{release}/config"),
    ]
    # In a guest `modules` is a link into the unpacked package, which has boot/ further up.
    places += [parent / f"boot/config-{release}" for parent in modules.resolve().parents]
    if _OWN.exists():
        import gzip  # few kernels have /proc/config.gz

        return parse_config(gzip.decompress(_OWN.read_bytes()).decode())
    for place in places:
        with contextlib.suppress(OSError):
            return parse_config(place.read_text())
    return {}
