"""The options that a kernel's configuration needs: for guests, and for the project's selftests.

`bpflink kernels config` prints them as a fragment to merge, `bpflink kernels check` looks for them
in a kernel, and `machines/kernel_build.py` builds a kernel with them and nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping


@dataclass(frozen=True)
class Option:
    """An option, without `CONFIG_`, and what it is for. Without a `checked` one nothing is missed.

    An unchecked one is there for others, which depend on it, or spares time. `since` is the release
    that brought it, if that is later than 5.10; `only` is the architecture that has it, by its own
    option.
    """

    name: str
    why: str
    value: str = "y"
    checked: bool = True
    since: tuple[int, int] = (5, 10)
    only: str = ""


Groups = dict[str, tuple[Option, ...]]


def _helps(name: str, why: str, value: str = "y", *, only: str = "") -> Option:
    return Option(name, why, value, checked=False, only=only)


GUESTS: Groups = {
    "The machine": (
        _helps("64BIT", "a kernel of 64 bits, as the host's Python", only="X86"),
        _helps("SMP", "guests with several processors"),
        _helps("PCI", "the bus of QEMU's devices"),
        _helps("PCI_HOST_GENERIC", "the bus of QEMU's machine", only="ARM64"),
        _helps("ACPI", "the machine's interrupts, and its power-off", only="X86"),
        _helps("HYPERVISOR_GUEST", "PARAVIRT and PVH depend on it", only="X86"),
        _helps("PARAVIRT", "KVM_GUEST, the clock of guests under KVM, depends on it", only="X86"),
        _helps("PVH", "QEMU can start the uncompressed kernel", only="X86"),
        _helps("VIRTIO_MENU", "VIRTIO_PCI depends on it"),
        Option("VIRTIO_PCI", "QEMU's devices"),
        Option("VIRTIO_CONSOLE", "the ports between the host and the guest"),
        _helps("HW_RANDOM", "HW_RANDOM_VIRTIO depends on it"),
        _helps("HW_RANDOM_VIRTIO", "random numbers from the host"),
        _helps("HIGH_RES_TIMERS", "sleeps of less than a tick"),
        _helps("NO_HZ_IDLE", "idle guests leave the host's processors alone"),
    ),
    "The console, where the kernel says why it died": (
        _helps("PRINTK", "the kernel's messages, by which tests that harm it are failed"),
        _helps("BUG", "warnings and oopses"),
        _helps("TTY", "VIRTIO_CONSOLE depends on it"),
        _helps("SERIAL_8250", "SERIAL_8250_CONSOLE depends on it", only="X86"),
        _helps("SERIAL_8250_CONSOLE", "the console", only="X86"),
        _helps("SERIAL_AMBA_PL011", "SERIAL_AMBA_PL011_CONSOLE depends on it", only="ARM64"),
        _helps("SERIAL_AMBA_PL011_CONSOLE", "the console", only="ARM64"),
        _helps("KALLSYMS", "traces with the names of functions"),
    ),
    "The guest's own files, and programs in it": (
        Option("BLK_DEV_INITRD", "the image with Python and the agent"),
        Option("BINFMT_ELF", "programs"),
        Option("BINFMT_SCRIPT", "programs that begin with #!, as the agent does"),
        Option("PROC_FS", "/proc"),
        _helps("PROC_SYSCTL", "/proc/sys"),
        Option("SYSFS", "/sys, where the ports are found"),
        Option("DEVTMPFS", "/dev"),
        _helps("SHMEM", "TMPFS depends on it"),
        Option("TMPFS", "/run, /dev/shm, and what the guest writes"),
        _helps("TMPFS_XATTR", "overlays note there what was removed"),
        _helps("UNIX98_PTYS", "terminals, /dev/pts"),
        Option("FUTEX", "threads"),
        _helps("MULTIUSER", "users other than root"),
        _helps("EPOLL", "selectors of Python"),
        _helps("EVENTFD", "as above"),
        _helps("SIGNALFD", "as above"),
        _helps("TIMERFD", "as above"),
        _helps("POSIX_TIMERS", "limits to the time of programs, as timeout(1) sets"),
        _helps("FILE_LOCKING", "locks on files"),
        _helps("FHANDLE", "ids of cgroups, by name_to_handle_at(2)"),
        _helps("ADVISE_SYSCALLS", "madvise(2)"),
        _helps("MEMBARRIER", "membarrier(2)"),
        _helps("INOTIFY_USER", "watching files"),
    ),
    "The host's files": (
        _helps("NET", "NET_9P depends on it"),
        _helps("INET", "the loopback device"),
        _helps("UNIX", "sockets between processes"),
        _helps("NETWORK_FILESYSTEMS", "9P_FS depends on it"),
        Option("NET_9P", "9P_FS depends on it"),
        Option("NET_9P_VIRTIO", "9p without a network"),
        Option("9P_FS", "the host's files"),
        Option("OVERLAY_FS", "writes to them, which stay in the guest"),
    ),
}
"""For guests; without a checked one no guest starts."""

_LINKS = "links to "

SELFTESTS: Groups = {
    "BPF": (
        Option("BPF_SYSCALL", "all of BPF"),
        Option("BPF_JIT", "trampolines, struct_ops, freplace and the BPF LSM"),
        _helps("DEBUG_KERNEL", "DEBUG_INFO depends on it"),
        _helps("DEBUG_INFO_DWARF5", "DEBUG_INFO_BTF is made from it"),
        Option("DEBUG_INFO_BTF", "iterators, fentry, the BPF LSM, struct_ops and CO-RE"),
        Option("CGROUPS", "CGROUP_BPF depends on it"),
        Option("CGROUP_BPF", f"{_LINKS}cgroups"),
        _helps("MEMCG", "iterators over a cgroup's memory, and limits to it"),
        _helps("KALLSYMS_ALL", "iterators over symbols, and kprobes on any function"),
        _helps("NAMESPACES", "NET_NS, PID_NS and USER_NS depend on it"),
        Option("NET_NS", f"{_LINKS}network namespaces, and devices for tests alone"),
        Option("PID_NS", "programs find their process in a PID namespace"),
        _helps("USER_NS", "callers without privileges"),
        _helps("IKCONFIG", "IKCONFIG_PROC depends on it"),
        _helps("IKCONFIG_PROC", "the configuration, which tells why a feature is missing"),
        _helps("PROC_CHILDREN", "finding what processes a test left"),
        _helps("DEBUG_FS", "/sys/kernel/debug"),
    ),
    "Links to events": (
        Option("PERF_EVENTS", f"{_LINKS}perf events"),
        _helps("FTRACE", "the tracers below depend on it"),
        Option("FTRACE_SYSCALLS", "tracepoints of system calls"),
        Option("FUNCTION_TRACER", "fentry, fexit and FPROBE"),
        Option("DYNAMIC_FTRACE", "as above"),
        Option("KPROBES", f"{_LINKS}kprobes"),
        Option("KPROBE_EVENTS", f"{_LINKS}kprobes"),
        Option("UPROBE_EVENTS", f"{_LINKS}uprobes"),
        Option("FPROBE", f"{_LINKS}many kprobes", since=(5, 18)),
        Option("BPF_EVENTS", "programs for tracepoints, kprobes, uprobes and perf events"),
        Option("SECURITY", "BPF_LSM depends on it"),
        Option("SECURITY_NETWORK", "hooks of sockets, also for cgroups"),
        _helps("SECURITYFS", "which security modules are active"),
        Option("BPF_LSM", "links to hooks of the BPF LSM"),
        _helps("LSM", "the BPF LSM is active", '"bpf"'),
    ),
    "Links to networks": (
        Option("IPV6", "attach types of IPv6"),
        Option("PACKET", "raw packets, which tests send"),
        _helps("NETDEVICES", "the devices below depend on it"),
        _helps("NET_CORE", "as above"),
        Option("VETH", "pairs of devices, for XDP and TCX"),
        Option("DUMMY", "devices without XDP of their own"),
        Option("MACVLAN", "packets that a dummy device receives"),
        Option("NETKIT", f"{_LINKS}netkit devices", since=(6, 7)),
        Option("NETFILTER", "NETFILTER_BPF_LINK depends on it"),
        _helps("NETFILTER_ADVANCED", "as above"),
        Option("NETFILTER_BPF_LINK", f"{_LINKS}netfilter hooks", since=(6, 4)),
        Option("NET_SCHED", "NET_CLS_ACT and NET_CLS_BPF depend on it"),
        _helps("NET_CLS", "as above"),
        Option("NET_CLS_ACT", "TCX links"),
        _helps("NET_CLS_BPF", "programs of SEC(tc)"),
        Option("BPF_STREAM_PARSER", f"{_LINKS}maps of sockets"),
        _helps("XDP_SOCKETS", "maps of AF_XDP sockets"),
        Option("MODULES", "struct_ops, which need the type of modules; none has to be built"),
        _helps("TCP_CONG_ADVANCED", "congestion controls as struct_ops"),
    ),
}
"""For the selftests; those that need a checked one are skipped without it."""


def text(groups: Groups) -> str:
    """Return a fragment, for `scripts/kconfig/merge_config.sh`, with the reason of each option."""
    return "\n".join("\n".join(_section(title, options)) for title, options in groups.items())


def options(groups: Groups) -> Iterator[Option]:
    """Yield the options of all groups."""
    for each in groups.values():
        yield from each


def missing(
    groups: Groups, config: Mapping[str, str], *, version: tuple[int, ...]
) -> Iterable[Option]:
    """Yield the checked options that a kernel of a version lacks; `config` is its configuration."""
    for option in options(groups):
        if (
            option.checked
            and version >= option.since
            and (not option.only or f"CONFIG_{option.only}" in config)
            and f"CONFIG_{option.name}" not in config
        ):
            yield option


def _section(title: str, of_section: Iterable[Option]) -> Iterator[str]:
    yield f"## {title}\n"
    for option in of_section:
        on = f" ({option.only.lower()} only)" if option.only else ""
        yield f"# {option.why}{on}"
        yield f"CONFIG_{option.name}={option.value}"
    yield ""
