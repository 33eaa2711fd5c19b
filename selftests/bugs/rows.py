"""The known bugs of kernels: a function that triggers each, and what is known of it.

A row's function fails, or kills its kernel, where the bug is. `test_known_bugs` calls it in a
guest; `page` makes docs/kernel-bugs.md from the rows.
"""

from __future__ import annotations

import contextlib
import errno
import os
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_bpflink import AttachFlags, AttachType, BpfError, ProgType
from pytest_bpflink.selftests.conformance.checks import update_wrongly
from pytest_bpflink.selftests.conformance.event_stages import Functions
from pytest_bpflink.selftests.conformance.stages import Congestion
from pytest_bpflink.selftests.support.absence import VETH, made_or_absent
from pytest_bpflink.selftests.support.link_create import link_create
from pytest_bpflink.selftests.support.numbered import Hook, datagram_from, numbered
from pytest_bpflink.selftests.support.prog_load import prog_load_for

if TYPE_CHECKING:
    from collections.abc import Callable

_XDP_PASS = 2


@dataclass(frozen=True)
class KernelBug:
    """A bug, and what shows it."""

    id: str
    cause: str
    """What the kernel does wrong, in a line: the source of the mark `kernel_bug`."""
    reproduce: Callable[[pytest.FixtureRequest], None]
    seen_on: tuple[str, ...]
    """Releases that have the bug, as far as they were tried."""
    not_on: tuple[str, ...]
    """Releases that were tried and don't have it."""
    brought_by: str
    """The commit that may have brought it."""
    requires: tuple[str, dict[str, Any]]
    """The arguments of `bpf_requires`."""
    splat: str = ""
    """The lines of the kernel's log by which it is known, if it logs any."""


def update_to_the_map_that_it_has(request: pytest.FixtureRequest) -> None:
    """Update a struct_ops link of a TCP congestion control to the map that it has."""
    stage = Congestion(request, "on_struct_ops")
    link = stage.attach()

    # Whether the update is refused or done, the link must be as it was.
    with contextlib.suppress(BpfError):
        link.update_map(stage.object.map("congestion"))

    assert stage.ran() == (True, False)
    link.destroy()
    assert stage.ran() == (False, False)


def fdinfo_without_cookies(request: pytest.FixtureRequest) -> None:
    """Read the fdinfo of a KPROBE_MULTI link that was attached without cookies."""
    stage = Functions(request, "on_kprobe_multi")
    del stage.options["cookies"]
    link = stage.attach()

    fdinfo = Path(f"/proc/self/fdinfo/{link.fd}").read_text()

    assert f"link_id:\t{link.id}\n" in fdinfo
    assert stage.ran() == (True, False)


def update_beside_preorder(request: pytest.FixtureRequest) -> None:
    """Update a cgroup link that stands beside one with PREORDER, which runs first."""
    cgroup = request.getfixturevalue("cgroup")
    bpf_link = request.getfixturevalue("bpf_link")
    with numbered("cgroup") as loaded:
        hook = Hook(loaded, "cgroup", bpf_link, partial(datagram_from, cgroup))
        plain = hook.attach(1, target=cgroup)
        hook.attach(2, target=cgroup, flags=AttachFlags.PREORDER)
        assert hook.order() == "21"

        plain.update(hook.program(3))

        assert hook.order() == "23"


def program_of_another_device(request: pytest.FixtureRequest) -> None:
    """Attach a program that was loaded for another device, by a link and by an update."""
    netns = request.getfixturevalue("netns")
    devices = made_or_absent(request.config, "veth", netns.veth, options=VETH)
    load = partial(prog_load_for, kind=ProgType.XDP, attach_type=AttachType.XDP, returns=_XDP_PASS)
    load_first = partial(load, devices[0])
    own = made_or_absent(request.config, "BPF_F_XDP_DEV_BOUND_ONLY", load_first, since="6.3")
    other = load(devices[1])
    with contextlib.ExitStack() as undo, netns.entered():
        for program in (own, other):
            undo.callback(os.close, program)
        create = partial(link_create, attach_type=AttachType.XDP, target=devices[0].ifindex)
        with pytest.raises(BpfError) as refused:
            undo.enter_context(create(other))
        assert refused.value.errno == errno.EINVAL

        link = undo.enter_context(create(own))
        info = link.info
        with pytest.raises(BpfError) as refused:
            update_wrongly(link, other)
        assert refused.value.errno == errno.EINVAL
        assert link.info == info


BUGS = (
    KernelBug(
        "struct_ops-same-map",
        "tcp_update_congestion_control adds what is in its list already",
        update_to_the_map_that_it_has,
        seen_on=("6.12.107", "6.18.15", "7.2.13"),
        not_on=(),
        splat="list_add double add: new=..., prev=..., next=...\nkernel BUG at lib/list_debug.c",
        brought_by='8fb1a76a0f35 (6.4, "net: Update an existing TCP congestion control algorithm"):'
        " it adds the new congestion control to the list before it"
        " removes the old one, and here both are the same. A kernel that checks its lists"
        " (CONFIG_LIST_HARDENED) dies of the update, another one when the link goes",
        requires=("link:struct_ops", {"since": "6.4", "libbpf": "1.2"}),
    ),
    KernelBug(
        "kprobe_multi-fdinfo",
        "bpf_kprobe_multi_show_fdinfo reads cookies that are not there",
        fdinfo_without_cookies,
        seen_on=("6.18.15",),
        not_on=("6.12.107", "7.2.13"),
        splat="BUG: kernel NULL pointer dereference\nRIP: bpf_kprobe_multi_show_fdinfo",
        brought_by="the commit that shows each function's cookie in fdinfo, between 6.12 and 6.18",
        requires=("link:kprobe_multi", {"since": "5.18"}),
    ),
    KernelBug(
        "cgroup-preorder-update",
        "replace_effective_prog takes no account of PREORDER: another link's program is replaced",
        update_beside_preorder,
        seen_on=("6.18.15",),
        not_on=("7.2.13",),
        brought_by="the commit that brought PREORDER (6.15)",
        requires=("cgroup:preorder", {"since": "6.15", "libbpf": "1.6"}),
    ),
    KernelBug(
        "xdp-other-device",
        "bpf_offload_dev_match takes two devices without hardware offload for the same",
        program_of_another_device,
        seen_on=("6.12.107", "6.18.15"),
        not_on=("6.12.118", "7.2.13"),
        brought_by='the commit "bpf: Introduce device-bound XDP programs" (6.3)',
        requires=("link:xdp", {"since": "5.9"}),
    ),
)
