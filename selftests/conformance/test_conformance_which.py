"""Which rows are there: all rows that the kernel and libbpf have, and no others.

A test of a row that is absent without a reason fails. Here the reasons are tested: no row may name
a later release than the one that brought its link type.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pytest_bpflink.binding import libbpf
from pytest_bpflink.features import probing
from pytest_bpflink.selftests.conformance.rows import ROWS

if TYPE_CHECKING:
    from pytest_bpflink import KernelInfo
    from pytest_bpflink.selftests.conformance.row import Row

# Guests run a distribution's own kernels; a host may refuse or backport anything.
pytestmark = pytest.mark.guest_only

# What the reason says of a row that `_is_expected` knows to be absent.
_EXPECTED = ("came with Linux", "built without CONFIG_", "needs libbpf")


# Collected after the files that attach all rows.
def test_rows_are_there(found: tuple[set[str], dict[str, str]], bpf_kernel: KernelInfo) -> None:
    """The rows that were attached are those that the kernel's release, config and libbpf allow."""
    there, absent = found
    tried = [row for row in ROWS if row.id in there | absent.keys()]
    if not tried:
        pytest.skip("no test of a row ran before this one")
    # A kernel may lack more: BTF, a JIT, the BPF LSM, a module.
    lacking = {row for row, reason in absent.items() if not any(map(reason.count, _EXPECTED))}
    expected = {row.id for row in tried if _is_expected(row, bpf_kernel)}
    assert expected - lacking == there
    assert not there & absent.keys()


def _is_expected(row: Row, kernel: KernelInfo) -> bool:
    return (
        kernel.version >= probing.version_tuple(row.since)
        and all(option in kernel.config for option in row.options)
        and probing.version_tuple(libbpf.version()) >= probing.version_tuple(row.libbpf or "1.0")
    )
