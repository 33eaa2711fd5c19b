"""Which rows of `conformance` are there: all that the kernel and libbpf have, and no other.

A row that is skipped without a reason fails by itself. Here it is seen that the reasons are right:
that nothing is called newer than it is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pytest_bpflink import features, libbpf
from pytest_bpflink.selftests.conformance.rows import ROWS

if TYPE_CHECKING:
    from pytest_bpflink import KernelInfo
    from pytest_bpflink.selftests.conformance.row import Row

# In guests the kernels are a distribution's own; on a host anything can be refused or backported.
pytestmark = pytest.mark.guest_only


# After all files that attach them.
def test_rows_are_there(found: tuple[set[str], set[str]], bpf_kernel: KernelInfo) -> None:
    """Attached were those that the kernel is new enough and built for, and libbpf too."""
    there, absent = found
    tried = [row for row in ROWS if row.id in there | absent]
    if not tried:
        pytest.skip("no test of theirs ran before this one")
    assert {row.id for row in tried if _is_expected(row, bpf_kernel)} == there
    assert not there & absent


def _is_expected(row: Row, kernel: KernelInfo) -> bool:
    return (
        kernel.version >= features.version_tuple(row.since)
        and all(option in kernel.config for option in row.config)
        and features.version_tuple(libbpf.version()) >= features.version_tuple(row.libbpf or "1.0")
    )
