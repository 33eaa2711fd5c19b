"""What kernels are known to do wrong, as `bugs` has it: expected to fail where it is so."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pytest_bpflink.selftests.bugs.rows import BUGS

if TYPE_CHECKING:
    from pytest_bpflink import KernelInfo
    from pytest_bpflink.selftests.bugs.rows import KernelBug


def _marked(bug: KernelBug) -> object:
    """Return a row as a parameter: what kills its kernel has one of its own."""
    where = pytest.mark.kernel_bug(bug.cause) if bug.splat else pytest.mark.guest_only
    requires = pytest.mark.bpf_requires(bug.requires[0], **bug.requires[1])
    return pytest.param(bug, id=bug.id, marks=[where, requires])


@pytest.mark.parametrize("bug", [*map(_marked, BUGS)])
def test_known_bug(bug: KernelBug, request: pytest.FixtureRequest, bpf_kernel: KernelInfo) -> None:
    """The kernel does what it should, and lives on."""
    if not bug.splat and ".".join(map(str, bpf_kernel.version)) in bug.seen_on:
        request.applymarker(pytest.mark.xfail(reason=bug.cause, strict=True))
    bug.reproduce(request)
