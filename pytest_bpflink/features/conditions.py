"""What a kernel may lack whose release and options have a feature: BTF, JIT, BPF LSM, a module."""

from __future__ import annotations

import contextlib
import errno
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pytest_bpflink.errors import BpfError

_BTF = Path("/sys/kernel/btf/vmlinux")
_JIT = Path("/proc/sys/net/core/bpf_jit_enable")
_LSMS = Path("/sys/kernel/security/lsm")
_MODULES = Path("/sys/module")

_KPROBES_ON_FTRACE = "CONFIG_KPROBES_ON_FTRACE"
_LSM_OPTION = "CONFIG_BPF_LSM"
_TRAMPOLINES = "CONFIG_DYNAMIC_FTRACE_WITH_DIRECT_CALLS"
_ENOTSUPP = 524  # what the kernel answers where it has no trampolines


def lack(error: BpfError, config: Mapping[str, str], options: Sequence[str]) -> str:
    """Return what this kernel lacks, as far as it explains an error; empty if nothing does.

    `config` is the kernel's build configuration, `options` are those that the feature needs.
    """
    if not _BTF.exists() and "BTF" in str(error):
        return f"this kernel has no BTF (CONFIG_DEBUG_INFO_BTF): there is no {_BTF}"
    if error.errno == _ENOTSUPP or "JIT" in str(error):
        if not _JIT.exists():
            return "this kernel is built without a JIT (CONFIG_BPF_JIT)"
        if _JIT.read_text().strip() == "0":
            return "this kernel's JIT is off (net.core.bpf_jit_enable is 0)"
    if error.errno == _ENOTSUPP and _TRAMPOLINES not in config and config:
        return f"this kernel has no trampolines ({_TRAMPOLINES})"  # as arm64's before Linux 6.0
    if active := other_lsms(options):
        return f"the BPF LSM is off: this kernel's security modules are {active} (lsm=)"
    return _code_of_ftrace(error, config, options) or _missing_module(config, options)


def _code_of_ftrace(error: BpfError, config: Mapping[str, str], options: Sequence[str]) -> str:
    # So it is on riscv64; arm64's functions begin with other code, where probes can be placed.
    on_ftrace = "CONFIG_DYNAMIC_FTRACE" in config and _KPROBES_ON_FTRACE not in config
    if error.errno == errno.EINVAL and "CONFIG_KPROBE_EVENTS" in options and on_ftrace:
        return (
            "this kernel's functions begin with code of ftrace's, where it can't place probes"
            f" ({_KPROBES_ON_FTRACE})"
        )
    return ""


def _missing_module(config: Mapping[str, str], options: Sequence[str]) -> str:
    for option in options:
        module = option.removeprefix("CONFIG_").lower()
        if config.get(option) == "m" and not (_MODULES / module).exists():
            return f"{option} is a module of this kernel, and {module} can't be loaded"
    return ""


def other_lsms(options: Sequence[str]) -> str:
    """Return the active security modules if a feature needs the BPF LSM, which is not active."""
    if _LSM_OPTION in options:
        with contextlib.suppress(OSError):
            active = _LSMS.read_text().strip()
            return "" if "bpf" in active.split(",") else active
    return ""
