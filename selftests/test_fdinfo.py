"""Looking for a link's holders does not read the fdinfo that crashes some kernels."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pytest_bpflink import DescriptorHolder
from pytest_bpflink.selftests.conformance.checks import holding_process
from pytest_bpflink.selftests.conformance.event_stages import Functions

if TYPE_CHECKING:
    from pytest_bpflink import BpfLedger, Link

pytestmark = [
    pytest.mark.guest_only,
    pytest.mark.bpf_requires("link:kprobe_multi", since="5.18"),
]


@pytest.fixture
def link(request: pytest.FixtureRequest) -> Link:
    """A KPROBE_MULTI link without cookies: 6.18.15 oopses at its fdinfo, see bugs/rows.py."""
    stage = Functions(request, "on_kprobe_multi")
    del stage.options["cookies"]
    return stage.attach()


def test_holders_of_a_kprobe_multi_link_without_cookies(link: Link, bpf_ledger: BpfLedger) -> None:
    """A holder in another process is found, and the kernel stays alive."""
    with holding_process(link) as holder:
        seen = [each.pid for each in link.holders() if isinstance(each, DescriptorHolder)]
        assert holder.pid in seen
        assert [each.id for each in bpf_ledger.held_by(holder.pid, "link")] == [link.id]
