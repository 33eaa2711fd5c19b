"""The kernel's `kprobe_multi_test`: links to functions by name or address, and those refused.

Ported from tools/testing/selftests/bpf/prog_tests/kprobe_multi_test.c (Linux 5.18), with the names
of its subtests.

Beyond upstream, the kernel itself is asked, and not libbpf, which refuses half of these requests:
each refusal's errno, also for memory that is not there and functions that can't be traced, and that
the program is on no function then.

Left out: skel_api and bench_attach, which measure libbpf; attach_override, whose kernels are built
with CONFIG_BPF_KPROBE_OVERRIDE; session and session_cookie, whose programs are no matter of links.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Any

import pytest

from pytest_bpflink import AttachType, BpfError
from pytest_bpflink.selftests.conformance.checks import FIRST, NONE
from pytest_bpflink.selftests.conformance.event_stages import Functions
from pytest_bpflink.selftests.support.kallsyms import addresses
from pytest_bpflink.selftests.support.link_create import link_create, numbers, texts

if TYPE_CHECKING:
    from pytest_bpflink import Link

pytestmark = [
    pytest.mark.guest_only,
    pytest.mark.bpf_requires("link:kprobe_multi", since="5.18"),
]

_NAMES = ("security_task_getpgid", "security_task_getscheduler")
_COOKIES = numbers(1, 2)  # on 6.18 reading the fdinfo of a link without cookies crashes the kernel
_NO_MEMORY = 1
_ADDRESSES = "the functions' addresses"
_BY_NAME: dict[str, Any] = {"cnt": 2, "syms": texts(*_NAMES)}


@pytest.fixture
def stage(request: pytest.FixtureRequest) -> Functions:
    return Functions(request, "on_kprobe_multi")


def test_link_api_syms(stage: Functions) -> None:
    with _created(stage, _BY_NAME):
        assert stage.ran() == FIRST
    assert stage.ran() == NONE


def test_link_api_addrs(stage: Functions) -> None:
    with _created(stage, {"cnt": 2, "addrs": _ADDRESSES}):
        assert stage.ran() == FIRST
    assert stage.ran() == NONE


def test_attach_api_pattern(stage: Functions) -> None:
    """A pattern takes each function that fits it, and is refused if there is none."""
    program = stage.object.program("on_kprobe_multi")
    with program.attach("security_task_getpg*"):
        assert stage.ran() == FIRST
    assert stage.ran() == NONE
    with pytest.raises(BpfError) as refused:
        program.attach("nobody_calls_this*")
    assert refused.value.errno == errno.ENOENT


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        pytest.param({"cnt": 2}, errno.EINVAL, id="neither_syms_nor_addrs"),
        pytest.param(_BY_NAME | {"addrs": _ADDRESSES}, errno.EINVAL, id="syms_and_addrs"),
        pytest.param(_BY_NAME | {"cnt": 0}, errno.EINVAL, id="no_cnt"),
        pytest.param({"cnt": 2**31 - 1, "addrs": _ADDRESSES}, errno.E2BIG, id="abnormal_cnt"),
        pytest.param(_BY_NAME | {"flags": 1 << 1}, errno.EINVAL, id="unknown_flag"),
        pytest.param(_BY_NAME | {"syms": _NO_MEMORY}, errno.EFAULT, id="syms_no_memory"),
        pytest.param(
            _BY_NAME | {"syms": numbers(_NO_MEMORY, 0)}, errno.EFAULT, id="name_no_memory"
        ),
        pytest.param({"cnt": 2, "addrs": _NO_MEMORY}, errno.EFAULT, id="addrs_no_memory"),
        pytest.param(_BY_NAME | {"cookies": _NO_MEMORY}, errno.EFAULT, id="cookies_no_memory"),
        pytest.param(
            _BY_NAME | {"syms": texts(_NAMES[0], "nobody_calls_this")},
            errno.ESRCH,
            id="no_function",
        ),
    ],
)
def test_attach_api_fails(stage: Functions, fields: dict[str, Any], expected: int) -> None:
    """A request with one mistake is refused, and the program is on none of the functions."""
    with pytest.raises(BpfError) as refused:
        _created(stage, fields)
    assert refused.value.errno == expected
    assert stage.ran() == NONE


def _created(stage: Functions, fields: dict[str, Any]) -> Link:
    given = {"cookies": _COOKIES} | fields
    if fields.get("addrs") == _ADDRESSES:
        given["addrs"] = numbers(*addresses(*_NAMES))
    return link_create(
        stage.object.program("on_kprobe_multi").fd,
        AttachType.TRACE_KPROBE_MULTI,
        fields={f"kprobe_multi.{name}": value for name, value in given.items()},
    )
