"""The kernel's `cgroup_preorder`: a parent's program before the child's, and updates beside it.

Ported from tools/testing/selftests/bpf/prog_tests/cgroup_preorder.c (Linux 6.15, its update 7.2),
by links throughout. Programs are numbered 1 to 4; "132" is the order they ran in.

Beyond upstream, the link with PREORDER is updated as well, and the link beside it destroyed.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import pytest

from pytest_bpflink import AttachFlags
from pytest_bpflink.selftests.support.numbered import Hook, datagram_from, numbered

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pytest_bpflink import Cgroup, KernelInfo, Link

pytestmark = [
    pytest.mark.guest_only,
    pytest.mark.bpf_requires("cgroup:preorder", since="6.15", libbpf="1.6"),
]

_PREORDER = AttachFlags.PREORDER


@pytest.fixture
def child(cgroup: Cgroup) -> Cgroup:
    return cgroup.create("child")


@pytest.fixture
def hook(child: Cgroup, bpf_link: Callable[..., Link]) -> Iterator[Hook]:
    """The child's hook for egress."""
    with numbered("cgroup") as loaded:
        yield Hook(loaded, "cgroup", bpf_link, partial(datagram_from, child))


@pytest.mark.parametrize(
    ("flags", "of_child", "of_all"), [(AttachFlags(0), "21", "4213"), (_PREORDER, "12", "3412")]
)
def test_getsockopt(
    flags: AttachFlags, of_child: str, of_all: str, hook: Hook, cgroup: Cgroup, child: Cgroup
) -> None:
    """Links with PREORDER run first, the parent's before the child's; then the others as usual."""
    hook.attach(1, target=child, flags=flags)
    hook.attach(2, target=child, flags=_PREORDER)
    assert hook.order() == of_child
    hook.attach(3, target=cgroup, flags=flags)
    hook.attach(4, target=cgroup, flags=_PREORDER)
    assert hook.order() == of_all


def test_link_replace(hook: Hook, child: Cgroup, bpf_kernel: KernelInfo) -> None:
    """An update replaces the program of its link, not that of the PREORDER link beside it."""
    plain = hook.attach(1, target=child)
    preordered = hook.attach(2, target=child, flags=_PREORDER)
    assert hook.order() == "21"
    plain.update(hook.program(3))
    if hook.order() == "31" and bpf_kernel.version < (7, 0):
        pytest.xfail("this kernel updates the place of the PREORDER link (seen on 6.18.15)")
    assert hook.order() == "23"
    preordered.update(hook.program(4))
    assert hook.order() == "43"
    plain.destroy()
    assert hook.order() == "4"
