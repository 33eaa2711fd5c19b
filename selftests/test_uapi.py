"""The project's copies of the kernel's enums, compared with the kernel's own."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pytest_bpflink import AttachType, LinkType, MapType, ProgType
from pytest_bpflink.binding.kernel_btf import vmlinux
from pytest_bpflink.selftests.support.absence import made_or_absent

if TYPE_CHECKING:
    from enum import IntEnum


@pytest.mark.parametrize(
    ("ours", "name", "prefix"),
    [
        (LinkType, "bpf_link_type", "BPF_LINK_TYPE_"),
        (ProgType, "bpf_prog_type", "BPF_PROG_TYPE_"),
        (MapType, "bpf_map_type", "BPF_MAP_TYPE_"),
        (AttachType, "bpf_attach_type", "BPF_"),
    ],
)
def test_numbers(ours: type[IntEnum], name: str, prefix: str, pytestconfig: pytest.Config) -> None:
    """Each name has the same number in both, and the kernel has no other numbers up to our last."""
    types = made_or_absent(pytestconfig, "BTF", vmlinux, options=("CONFIG_DEBUG_INFO_BTF",))
    kernels = {
        one.removeprefix(prefix): value
        for one, value in types.enumerators(name).items()
        if "MAX_" not in one and value <= max(ours)
    }
    known = {one.name: one.value for one in ours}
    common = known.keys() & kernels.keys()
    assert {one: known[one] for one in common} == {one: kernels[one] for one in common}
    # Some numbers have an older name beside the present one.
    named = {number for one, number in kernels.items() if one in common}
    assert {one for one, number in kernels.items() if number not in named} == set()
