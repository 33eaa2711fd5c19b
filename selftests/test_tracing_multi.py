"""One link from a program to many functions, by trampolines: fentry.multi and the like.

Behaviour of tools/testing/selftests/bpf/prog_tests/tracing_multi.c (Linux 7.2), seen from the
programs that ran.

Elsewhere: life, updates and errnos of one link are in the conformance rows fentry_multi,
fexit_multi and fsession_multi.

Left out: functions of upstream's own module, and benchmarks.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

import pytest

from pytest_bpflink import BpfError, TracingMultiLinkInfo
from pytest_bpflink.selftests.conformance.event_stages import Functions

if TYPE_CHECKING:
    from pytest_bpflink import KernelInfo, Link, Program

pytestmark = [
    pytest.mark.guest_only,
    pytest.mark.bpf_requires("link:tracing_multi", since="7.2", libbpf="1.8"),
]

_FIRST, _SECOND = (True, False), (False, True)


@pytest.fixture
def stage(request: pytest.FixtureRequest) -> Functions:
    return Functions(request, "on_fentry_multi")


@pytest.fixture
def link(stage: Functions) -> Link:
    return stage.attach()


@pytest.fixture
def first(stage: Functions) -> Program:
    return stage.object.program("on_fentry_multi")


@pytest.fixture
def second(stage: Functions) -> Program:
    return stage.object.program("on_fentry_multi_alt")


def test_cookies(stage: Functions, link: Link, bpf_kernel: KernelInfo) -> None:
    """The info has each function's cookie, in whatever order the kernel lists functions (7.3)."""
    info = link.info
    assert isinstance(info, TracingMultiLinkInfo)
    if bpf_kernel.version < (7, 3):
        assert (info.attach_type, info.count, info.cookies) == (None, 0, ())
        return
    named = dict(zip(stage.numbers, stage.options["cookies"], strict=True))
    assert dict(zip(info.ids, info.cookies, strict=True)) == named
    assert all(info.addrs)


def test_pattern(stage: Functions, first: Program, bpf_kernel: KernelInfo) -> None:
    """A pattern attaches to all functions that match it, and takes no cookies."""
    with pytest.raises(BpfError, match="2 cookies for 0") as refused:
        first.attach("security_task_get*", **stage.options)
    assert refused.value.errno == errno.EINVAL

    with first.attach("security_task_get*") as link:
        assert stage.ran() == _FIRST
        info = link.info
    assert isinstance(info, TracingMultiLinkInfo)
    if bpf_kernel.version >= (7, 3):
        assert set(stage.numbers) < set(info.ids)
        assert info.count == len(info.ids) == len(info.addrs)


def test_same_function_again(stage: Functions, link: Link, first: Program, second: Program) -> None:
    """A list with a function that the program is on already is EBUSY, and attaches to none."""
    with pytest.raises(BpfError) as refused:
        first.attach(["security_task_getsid", *stage.target])
    assert refused.value.errno == errno.EBUSY
    assert stage.ran() == _FIRST

    with second.attach(stage.target):
        assert stage.ran() == (True, True)
    link.destroy()
    with second.attach(stage.target):
        assert stage.ran() == _SECOND


@pytest.mark.parametrize(
    ("functions", "number"),
    [
        (["security_task_getpgid", "nobody_calls_this"], errno.ENOENT),
        (["security_task_getpgid", "security_task_getpgid"], errno.EINVAL),
        ("nobody_calls_this*", errno.EINVAL),
    ],
    ids=["unknown", "twice", "pattern of none"],
)
def test_functions_that_can_not_be(
    stage: Functions, first: Program, functions: list[str] | str, number: int
) -> None:
    with pytest.raises(BpfError) as refused:
        first.attach(functions)
    assert refused.value.errno == number
    assert stage.ran() == (False, False)
