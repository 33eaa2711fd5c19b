"""Links of any type: how late one ends, and whether it keeps a module loaded.

The last close of a descriptor, and a detach, end a link at once for the calling thread. Runs that
had started in other threads may end later, and so may a link whose last pin is unlinked or
unmounted: how late is written down for each kernel.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from functools import partial
from typing import TYPE_CHECKING

import pytest

from pytest_bpflink import LinkType, eventually, link_ids
from pytest_bpflink.selftests.conformance.checks import FIRST, NONE, each
from pytest_bpflink.selftests.conformance.event_stages import OfModule
from pytest_bpflink.selftests.conformance.outcomes import OK, WINDOW
from pytest_bpflink.selftests.support.absence import DUMMY, made_or_absent

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from pytest_bpflink import BpfFs, KernelInfo, Link
    from pytest_bpflink.selftests.conformance.outcomes import Outcomes
    from pytest_bpflink.selftests.conformance.row import Row
    from pytest_bpflink.selftests.conformance.stages import Stage

pytestmark = pytest.mark.guest_only

# One row for each way in which the kernel calls programs.
_MEASURED = frozenset(
    ("raw_tp", "tp_btf", "fentry", "kprobe", "uprobe", "cgroup-egress", "sk_lookup")
) | {"xdp-native", "netfilter", "tcx_ingress", "netkit_primary", "sk_msg"}
_OF_MODULES = frozenset(("fentry", "kprobe", "kprobe_multi"))
_REPEATS = 5


@each(lambda row: row.id in _MEASURED)
def test_pin_goes(
    stage: Stage,
    link: Link,
    row: Row,
    pin: Path,
    bpffs_factory: Callable[..., BpfFs],
    outcome: Outcomes,
    bpf_kernel: KernelInfo,
) -> None:
    """A link ends within a second after its last pin is unlinked, or the pin's BPF FS unmounted."""
    link.pin(pin)
    link.destroy()
    _measure("unlink", pin.unlink, link, outcome)
    _assert_ends(stage)

    bpffs = bpffs_factory()
    again = _attach_again(stage, row, bpf_kernel)
    again.pin(bpffs / "link")
    again.destroy()
    _measure("umount", bpffs.unmount, again, outcome)
    _assert_ends(stage)


def _assert_ends(stage: Stage) -> None:
    # The link's id is gone before the program is detached.
    eventually(lambda: stage.ran() == NONE, what="the program ends")


def _attach_again(stage: Stage, row: Row, kernel: KernelInfo) -> Link:
    if row.again_later(kernel) != OK:
        stage.renew()
    return stage.attach()


def _measure(name: str, end: Callable[[], object], link: Link, outcome: Outcomes) -> None:
    end()
    started = time.perf_counter()
    eventually(lambda: link.id not in link_ids(), what=f"the link is gone after {name}")
    late = time.perf_counter() - started
    outcome.write(f"{WINDOW}{name}", f"{late * 1000:.0f}")


@pytest.fixture
def short_turns() -> Iterator[None]:
    """Shorten the turns of threads: a thread that makes system calls in a loop uses up its turn."""
    usual = sys.getswitchinterval()
    sys.setswitchinterval(0.0002)
    yield
    sys.setswitchinterval(usual)


# Two threads would put their sockets into the same place of a sockmap.
@pytest.mark.usefixtures("short_turns")
@each(lambda row: row.id in _MEASURED and row.link_type is not LinkType.SOCKMAP)
def test_other_thread(
    stage: Stage, link: Link, row: Row, outcome: Outcomes, bpf_kernel: KernelInfo
) -> None:
    """After the last close no run starts in this thread, and runs in another thread end."""
    late = 0
    for _ in range(_REPEATS):
        late += _runs_after_close(stage, link)
        assert stage.ran() == NONE
        if late:
            break
        link = _attach_again(stage, row, bpf_kernel)
    outcome.write(f"{WINDOW}close, runs of another thread", late)


def _runs_after_close(stage: Stage, link: Link) -> int:
    done, running = threading.Event(), threading.Event()

    def trigger() -> None:
        while not done.is_set():
            stage.trigger()
            running.set()

    other = threading.Thread(target=trigger)
    other.start()
    try:
        assert running.wait(10)
        link.destroy()
        before = stage.counts()[0]
        for _ in range(10):
            os.sched_yield()
            stage.trigger()
    finally:
        done.set()
        other.join()
    return stage.counts()[0] - before


@each(lambda row: row.id in _OF_MODULES)
def test_module_unloaded(
    link: Link, row: Row, request: pytest.FixtureRequest, outcome: Outcomes, bpf_kernel: KernelInfo
) -> None:
    """A link to a module's function keeps the module loaded, or outlives the module."""
    if bpf_kernel.version < (5, 11):
        pytest.skip(f"functions of modules came with Linux 5.11, this is {bpf_kernel.release}")
    assert link.id  # the row is there
    make = partial(OfModule, request, f"on_{row.id}")
    stage = made_or_absent(request.config, "dummy", make, options=DUMMY)
    if stage.is_built_in():
        pytest.skip(f"dummy is no module of this kernel ({bpf_kernel.release}): it is built in")
    held = stage.attach()
    assert stage.ran() == FIRST
    refusal = stage.unload()
    outcome.write("unload its module", "in use" if refusal else "OK")
    assert bool(refusal) is row.keeps_module(bpf_kernel), refusal
    assert held.info.id == held.id
    if refusal:
        assert "in use" in refusal
        assert stage.ran() == FIRST
    held.destroy()
    if refusal:
        stage.object.close()  # fentry's program keeps the module even without a link
        eventually(lambda: not stage.unload(), what="the module is unloaded after link and program")
