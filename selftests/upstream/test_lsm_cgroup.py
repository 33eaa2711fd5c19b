"""The kernel's `lsm_cgroup`: one hook of the LSM, and programs on it in several cgroups.

Ported from tools/testing/selftests/bpf/prog_tests/lsm_cgroup.c (Linux 6.0), as far as links go,
with the names of its subtests.

Beyond upstream, that a program ran is counted in each cgroup, a link and a program without one
stand side by side, and the link of a removed cgroup is seen to lose it.

Left out: what programs do with sockets (priorities, cgroup storage), which is no matter of links.
"""

from __future__ import annotations

import contextlib
import errno
from functools import partial
from typing import TYPE_CHECKING

import pytest

from pytest_bpflink import AttachFlags, AttachType, CgroupLinkInfo, VerifierError, eventually
from pytest_bpflink.selftests.conformance.cgroup_actions import ACTIONS
from pytest_bpflink.selftests.conformance.checks import exchange
from pytest_bpflink.selftests.conformance.stages import InCgroup

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_bpflink import Cgroup, Link, Object

pytestmark = [
    pytest.mark.guest_only,
    pytest.mark.bpf_requires("attach:lsm_cgroup", since="6.0"),
]


class _Binding(InCgroup):
    """A cgroup, and a socket that is bound, from inside or outside."""

    def seen_in(self, cgroup: Cgroup | None) -> tuple[int, int]:
        """Bind in a cgroup, or where this process was, and return how often each program ran."""
        before = self.counts()
        with cgroup.entered() if cgroup else contextlib.nullcontext():
            self.trigger()
        after = self.counts()
        return after[0] - before[0], after[1] - before[1]


@pytest.fixture
def stage(request: pytest.FixtureRequest) -> _Binding:
    return _Binding(request, "on_lsm_cgroup", ACTIONS["lsm_cgroup"])


def test_functional(stage: _Binding, cgroup: Cgroup, bpf_link: Callable[..., Link]) -> None:
    """One program on one hook in two cgroups runs once for each bind, in the cgroup it is in."""
    first, second = cgroup.create("first"), cgroup.create("second")
    in_first = bpf_link(stage.first, first)
    assert _programs_in(first) == (stage.first.id,)
    assert stage.seen_in(first) == (1, 0)

    exchange(in_first, stage.second, old=stage.first)
    assert _programs_in(first) == (stage.second.id,)
    assert stage.seen_in(first) == (0, 1)

    in_second = bpf_link(stage.second, second)
    assert stage.seen_in(first) == stage.seen_in(second) == (0, 1)
    assert stage.seen_in(cgroup) == stage.seen_in(None) == (0, 0)

    program = stage.object.program("on_lsm_cgroup")
    second.attach(program, AttachFlags.ALLOW_MULTI)
    assert _programs_in(second) == (stage.second.id, stage.first.id)
    assert stage.seen_in(second) == (1, 1)
    second.detach(program)

    in_first.destroy()
    assert _programs_in(first) == ()
    assert stage.seen_in(first) == (0, 0)
    assert stage.seen_in(second) == (0, 1)

    second.path.rmdir()
    eventually(partial(_has_no_cgroup, in_second), what="the link loses its cgroup")


def test_nonvoid(bpf_object: Callable[..., Object]) -> None:
    """A program on a hook that returns nothing is refused if it could refuse anything."""
    bpf_object("progs/lsm_cgroup.bpf.c", only=["allows"])
    with pytest.raises(VerifierError) as refused:
        bpf_object("progs/lsm_cgroup.bpf.c", only=["refuses"])
    assert refused.value.errno == errno.EINVAL
    assert "At program exit the register R0" in refused.value.verifier_log


def _programs_in(cgroup: Cgroup) -> tuple[int, ...]:
    return cgroup.attached(AttachType.LSM_CGROUP, effective=True).prog_ids


def _has_no_cgroup(link: Link) -> bool:
    info = link.info
    assert isinstance(info, CgroupLinkInfo)
    return info.cgroup_id == 0
