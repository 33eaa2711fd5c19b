"""Operations that crash kernels, each on a kernel of its own: a test fails until that is fixed."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pytest_bpflink import BpfError
from pytest_bpflink.selftests.conformance.event_stages import Functions
from pytest_bpflink.selftests.conformance.stages import Congestion

if TYPE_CHECKING:
    from pytest_bpflink import KernelInfo


# Seen on 6.12.107, 6.18 and 7.2.13: tcp_update_congestion_control() adds the new congestion control
# to its list before it removes the old one, and here both are the same. A kernel that checks its
# lists (CONFIG_LIST_HARDENED) dies of the update, another one when the link goes.
@pytest.mark.kernel_bug("tcp_update_congestion_control adds what is in its list already")
@pytest.mark.bpf_requires("link:struct_ops", since="6.4", libbpf="1.2")
def test_update_to_the_map_that_a_struct_ops_link_has(
    request: pytest.FixtureRequest, bpf_kernel: KernelInfo
) -> None:
    if bpf_kernel.where == "native":
        pytest.skip("it does crash this kernel: run it in a guest (--kernel 6.12)")
    stage = Congestion(request, "on_struct_ops")
    link = stage.attach()

    # Whether the update is refused or done, the link must be as it was.
    with contextlib.suppress(BpfError):
        link.update_map(stage.object.map("congestion"))

    assert stage.ran() == (True, False)
    link.destroy()
    assert stage.ran() == (False, False)


# Seen on 6.18.15: bpf_kprobe_multi_show_fdinfo() shows each function's cookie, also if the link has
# no cookies.
@pytest.mark.kernel_bug("bpf_kprobe_multi_show_fdinfo reads cookies that are not there")
@pytest.mark.bpf_requires("link:kprobe_multi", since="5.18")
def test_fdinfo_of_a_kprobe_multi_link_without_cookies(
    request: pytest.FixtureRequest, bpf_kernel: KernelInfo
) -> None:
    if bpf_kernel.where == "native":
        pytest.skip("it does crash kernels: run it in a guest (--kernel 6.18)")
    stage = Functions(request, "on_kprobe_multi")
    del stage.options["cookies"]
    link = stage.attach()

    fdinfo = Path(f"/proc/self/fdinfo/{link.fd}").read_text()

    assert f"link_id:\t{link.id}\n" in fdinfo
    assert stage.ran() == (True, False)
