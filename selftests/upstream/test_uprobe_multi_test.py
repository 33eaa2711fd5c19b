"""The kernel's `uprobe_multi_test`: links to places of a file, and those that are refused.

Ported from tools/testing/selftests/bpf/prog_tests/uprobe_multi_test.c (Linux 6.6), with the names
of its subtests.

Beyond upstream, each refusal leaves the program on no place, a link of another process does not
run, and a process that does not exist is refused.

Left out: skel_api and the benches, which measure libbpf; attach_uprobe_fails, which needs a file
with a trap in it; consumers, filter_fork and the sessions, whose programs are no matter of links.
"""

from __future__ import annotations

import ctypes
import errno
import os
from typing import TYPE_CHECKING, Any

import pytest

from pytest_bpflink import AttachType, BpfError
from pytest_bpflink.selftests.conformance.checks import FIRST, NONE
from pytest_bpflink.selftests.conformance.event_stages import Uprobe
from pytest_bpflink.selftests.support.link_create import link_create, numbers

if TYPE_CHECKING:
    from pytest_bpflink import Link

pytestmark = [
    pytest.mark.guest_only,
    pytest.mark.bpf_requires("link:uprobe_multi", since="6.6", libbpf="1.3"),
]

_NO_MEMORY = 1
_NO_PROCESS = 2**22  # PID_MAX_LIMIT
_FILE, _PLACES = "the traced file", "the places in it"


@pytest.fixture
def stage(request: pytest.FixtureRequest) -> Uprobe:
    return Uprobe(request, "on_uprobe_multi")


_VALID: dict[str, Any] = {"path": _FILE, "offsets": _PLACES, "cnt": 1}


def test_link_api(stage: Uprobe) -> None:
    with _created(stage, _VALID):
        assert stage.ran() == FIRST
    assert stage.ran() == NONE


def test_link_api_of_a_process(stage: Uprobe) -> None:
    """A link for one process runs in that process alone."""
    with _created(stage, _VALID | {"pid": os.getpid()}):
        assert stage.ran() == FIRST
    with _created(stage, _VALID | {"pid": 1}):
        assert stage.ran() == NONE


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        pytest.param({"cnt": 2**31 - 1}, errno.E2BIG, id="abnormal_cnt"),
        pytest.param({"cnt": 0}, errno.EINVAL, id="cnt_is_zero"),
        pytest.param({"offsets": numbers(2**64 - 1)}, errno.EINVAL, id="offset_is_negative"),
        pytest.param({"offsets": 0}, errno.EINVAL, id="offsets_is_null"),
        pytest.param({"offsets": _NO_MEMORY}, errno.EFAULT, id="offsets_is_wrong"),
        pytest.param({"path": 0}, errno.EINVAL, id="path_is_null"),
        pytest.param({"path": _NO_MEMORY}, errno.EFAULT, id="path_is_wrong"),
        pytest.param(
            {"path": ctypes.create_string_buffer(b"/")}, errno.EBADF, id="path_is_wrong_type"
        ),
        pytest.param(
            {"path": ctypes.create_string_buffer(b"/nowhere")},
            errno.ENOENT,
            id="path_is_of_no_file",
        ),
        pytest.param({"cookies": _NO_MEMORY}, errno.EFAULT, id="cookies_is_wrong"),
        pytest.param({"ref_ctr_offsets": _NO_MEMORY}, errno.EFAULT, id="ref_ctr_offsets_is_wrong"),
        pytest.param({"flags": 1 << 31}, errno.EINVAL, id="wrong_flags"),
        pytest.param({"pid": _NO_PROCESS}, errno.ESRCH, id="pid_of_no_process"),
    ],
)
def test_attach_api_fails(stage: Uprobe, fields: dict[str, Any], expected: int) -> None:
    """A request with one mistake is refused, and the program is on no place."""
    with pytest.raises(BpfError) as refused:
        _created(stage, _VALID | fields)
    assert refused.value.errno == expected
    assert stage.ran() == NONE


def test_pid_is_wrong(stage: Uprobe) -> None:
    """A negative number of a process is EINVAL since 6.10 (46ba0e49b642), and ESRCH before."""
    with pytest.raises(BpfError) as refused:
        _created(stage, _VALID | {"pid": 2**32 - 2})
    assert refused.value.errno in {errno.EINVAL, errno.ESRCH}
    assert stage.ran() == NONE


def _created(stage: Uprobe, fields: dict[str, Any]) -> Link:
    given = {
        _FILE: ctypes.create_string_buffer(os.fsencode(str(stage.target))),
        _PLACES: numbers(*stage.options["offsets"]),
    }
    return link_create(
        stage.object.program("on_uprobe_multi").fd,
        AttachType.TRACE_UPROBE_MULTI,
        fields={
            f"uprobe_multi.{name}": given[value] if isinstance(value, str) else value
            for name, value in fields.items()
        },
    )
