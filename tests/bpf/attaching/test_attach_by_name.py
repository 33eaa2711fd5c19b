"""Programs whose target is chosen when they are attached, and iterators that are read."""

from __future__ import annotations

import ctypes
import errno
import os
import re
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_bpflink import BpfError, WrongArgument

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_bpflink import Cgroup, Link, NetNs, Object

_LIBC = next(
    Path(line.split()[-1])
    for line in Path("/proc/self/maps").read_text().splitlines()
    if Path(line.split()[-1]).name.startswith("libc.so") or "/libc-" in line
)

needs_links = pytest.mark.bpf_requires("link:perf_event", since="5.15")

needs_kprobes = pytest.mark.skipif(
    not Path("/sys/bus/event_source/devices/kprobe").exists(),
    reason="the kernel has no CONFIG_KPROBE_EVENTS",
)


@pytest.fixture
def loaded(bpf_object: Callable[..., Object]) -> Object:
    return bpf_object("progs/by_name.bpf.c", rodata={"pid": os.getpid()})


@needs_links
@pytest.mark.skipif(
    not Path("/sys/kernel/tracing/events/syscalls").exists(),
    reason="tracefs is not mounted, or the kernel has no CONFIG_FTRACE_SYSCALLS",
)
def test_tracepoint(loaded: Object, bpf_link: Callable[..., Link]) -> None:
    link = bpf_link(loaded.program("on_tracepoint"), "syscalls:sys_enter_getppid")
    os.getppid()
    assert loaded.bss["ran"] == 1
    link.destroy()
    os.getppid()
    assert loaded.bss["ran"] == 1


def test_tracepoint_without_a_category(loaded: Object) -> None:
    with pytest.raises(BpfError, match="is named with its category") as raised:
        loaded.program("on_tracepoint").attach("sys_enter_getppid")
    assert raised.value.errno == errno.EINVAL


def test_raw_tracepoint(loaded: Object, bpf_link: Callable[..., Link]) -> None:
    link = bpf_link(loaded.program("on_raw_tracepoint"), "sys_enter")
    os.getppid()
    assert loaded.bss["ran"] > 0
    link.destroy()
    before = loaded.bss["ran"]
    os.getppid()
    assert loaded.bss["ran"] == before


def test_raw_tracepoint_that_there_is_not(loaded: Object) -> None:
    with pytest.raises(BpfError, match="attach on_raw_tracepoint on no_such_event: ENOENT"):
        loaded.program("on_raw_tracepoint").attach("no_such_event")


@needs_links
def test_function_of_a_library(loaded: Object, bpf_link: Callable[..., Link]) -> None:
    libc = ctypes.CDLL(None)
    libc.getpgid(0)  # bound before the program counts
    link = bpf_link(loaded.program("on_function"), _LIBC, function="getpgid")
    libc.getpgid(0)
    libc.getpgid(0)
    assert loaded.bss["ran"] == 2
    link.destroy()
    libc.getpgid(0)
    assert loaded.bss["ran"] == 2


@needs_links
def test_return_of_a_function(loaded: Object, bpf_link: Callable[..., Link]) -> None:
    """`SEC("uretprobe")` alone says that the program runs when the function returns."""
    libc = ctypes.CDLL(None)
    libc.getpgid(0)
    bpf_link(loaded.program("on_return_of_function"), _LIBC, function="getpgid")
    libc.getpgid(0)
    assert (loaded.bss["ran"], loaded.bss["returned"]) == (1, os.getpgid(0))


@needs_links
@needs_kprobes
def test_kernel_function(loaded: Object, bpf_link: Callable[..., Link]) -> None:
    link = bpf_link(loaded.program("on_kernel_function"), _getpgid())
    os.getpgid(0)
    assert loaded.bss["ran"] == 1
    link.destroy()
    os.getpgid(0)
    assert loaded.bss["ran"] == 1


@needs_links
@needs_kprobes
@pytest.mark.parametrize("options", [{}, {"retprobe": False}])
def test_return_of_a_kernel_function(
    loaded: Object, bpf_link: Callable[..., Link], options: dict[str, bool]
) -> None:
    """The section says that the program runs when the function returns; an option goes before."""
    bpf_link(loaded.program("on_return_of_kernel_function"), _getpgid(), **options)
    group = os.getpgid(0)
    assert loaded.bss["ran"] == 1
    assert (loaded.bss["returned"] == group) is not bool(options)


@needs_links
@needs_kprobes
def test_system_call(loaded: Object, bpf_link: Callable[..., Link]) -> None:
    link = bpf_link(loaded.program("on_system_call"), "getpgid")
    group = os.getpgid(os.getpid())
    assert loaded.bss["ran"] == 1
    link.destroy()
    bpf_link(loaded.program("on_return_of_system_call"), "getpgid")
    os.getpgid(os.getpid())
    assert (loaded.bss["ran"], loaded.bss["returned"]) == (2, group)


@pytest.mark.parametrize(
    ("program", "target"),
    [
        ("on_kernel_function", Path("/bin/true")),
        ("on_system_call", Path("/bin/true")),
        ("on_function", "getpgid"),
        ("on_return_of_function", "getpgid"),
        ("on_tracepoint", Path("/bin/true")),
        ("on_raw_tracepoint", 7),
    ],
)
def test_target_of_another_kind(loaded: Object, program: str, target: object) -> None:
    with pytest.raises(TypeError, match="a program of this type attaches to") as raised:
        loaded.program(program).attach(target)
    assert isinstance(raised.value, WrongArgument)
    assert raised.value.errno == errno.EINVAL


@pytest.mark.parametrize(
    "program", ["on_kernel_function", "on_system_call", "on_tracepoint", "on_raw_tracepoint"]
)
def test_nothing_names_a_target(loaded: Object, program: str) -> None:
    with pytest.raises(BpfError, match=r"its SEC\(\) names no target, so attach") as raised:
        loaded.program(program).attach()
    assert raised.value.errno == errno.EOPNOTSUPP


def test_function_that_there_is_not(loaded: Object) -> None:
    with pytest.raises(BpfError, match=r"attach on_function on .*:no_such_function\+0x0: ENOENT"):
        loaded.program("on_function").attach(_LIBC, function="no_such_function")


def test_socket_filter(loaded: Object) -> None:
    with (
        socket.socket(type=socket.SOCK_DGRAM) as receiver,
        socket.socket(type=socket.SOCK_DGRAM) as sender,
    ):
        receiver.bind(("127.0.0.1", 0))
        receiver.settimeout(10)
        loaded.program("first_bytes").attach_socket(receiver)
        sender.sendto(b"datagram", receiver.getsockname())
        assert receiver.recv(100) == b"dat"


def test_socket_takes_socket_filters_only(loaded: Object) -> None:
    with (
        socket.socket(type=socket.SOCK_DGRAM) as receiver,
        pytest.raises(BpfError, match=r'takes a program in SEC\("socket"\)') as raised,
    ):
        loaded.program("on_raw_tracepoint").attach_socket(receiver)
    assert raised.value.errno == errno.EINVAL


def test_program_or_socket_is_something_else(
    loaded: Object, cgroup: Cgroup, netns: NetNs, bpf_link: Callable[..., Link]
) -> None:
    """Each way to attach says what it takes, as a `TypeError`."""
    link = bpf_link(loaded.program("on_raw_tracepoint"), "sys_enter")
    given: Any = loaded
    for attach in (
        cgroup.attach,
        cgroup.detach,
        netns.attach,
        netns.detach,
        link.update,
        lambda given: link.update(loaded.program("on_tracepoint"), old=given),
    ):
        with pytest.raises(TypeError, match=r"it takes a Program, not <Object by_name.bpf.c loa"):
            attach(given)
    with pytest.raises(TypeError, match=r"it takes a Map, not <Object by_name.bpf.c loaded>"):
        link.update_map(given)
    with pytest.raises(TypeError, match=r"it takes a socket, not <Object by_name.bpf.c loaded>"):
        loaded.program("first_bytes").attach_socket(given)
    with pytest.raises(TypeError, match=r'it takes a program in SEC\("usdt"\)'):
        loaded.program("on_function").attach_usdt(_LIBC, probe="libc:setjmp")
    with pytest.raises(TypeError, match=r"with bogus: EINVAL .* its options are: cookie"):
        loaded.program("on_tracepoint").attach("syscalls:sys_enter_getppid", bogus=1)


@pytest.fixture
def iterator(bpf_object: Callable[..., Object], bpf_link: Callable[..., Link]) -> Link:
    loaded = bpf_object("progs/iterator.bpf.c")
    loaded.map("numbers")[1] = 7
    return bpf_link(loaded.program("tell"), loaded.map("numbers"))


def test_iterator_is_read(iterator: Link) -> None:
    assert iterator.read() == "0: 0\n1: 7\n2: 0\n"
    assert iterator.read_bytes() == b"0: 0\n1: 7\n2: 0\n"


def test_iterator_that_is_open_outlives_its_link(iterator: Link) -> None:
    with iterator.open_iterator() as file:
        iterator.destroy()
        assert file.readline() == b"0: 0\n"
        assert file.readline() == b"1: 7\n"


def test_link_of_another_type_is_not_read(loaded: Object, bpf_link: Callable[..., Link]) -> None:
    link = bpf_link(loaded.program("on_raw_tracepoint"), "sys_enter")
    with pytest.raises(BpfError, match=r'only the link of a program in SEC\("iter/...'):
        link.read()


def _getpgid() -> str:
    """Return the name of the kernel's function for the system call, which has the architecture."""
    symbols = Path("/proc/kallsyms").read_text()
    found = re.search(r" (__(?:x64|arm64|riscv|s390x)_sys_getpgid)$", symbols, re.MULTILINE)
    assert found
    return found[1]
