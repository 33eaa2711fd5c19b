"""The model finds what is wrong: in worlds whose links are broken in one way, by a short life."""

from __future__ import annotations

import contextlib
import os
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

pytest.importorskip("hypothesis", reason="needs Hypothesis: pip install 'pytest-bpflink[model]'")

from pytest_bpflink import Link, link_ids
from pytest_bpflink.selftests.conformance.fixtures import (  # noqa: F401
    libc_copy,
    own_target,
    places,
    programs,
    shared_bpffs,
)
from pytest_bpflink.selftests.model import lives
from pytest_bpflink.selftests.model.fixtures import model_rows, world  # noqa: F401 (fixtures)
from pytest_bpflink.selftests.model.lives import LifeFailedError, Lived, live
from pytest_bpflink.selftests.model.world import Hook, World

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pytest_bpflink import KernelInfo
    from pytest_bpflink.selftests.conformance.row import Row

pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")

_HOOKS = ("egress", "raw_tp", "fentry")
_BATCHES = 40
_LONGEST = 8  # steps, of which one makes the hook

_update, _destroy, _pin, _by_id, _fork = Link.update, Link.destroy, Link.pin, Link.by_id, World.fork


_left: list[int] = []


@pytest.fixture(autouse=True)
def _nothing_is_left(tmp_path: Path) -> Iterator[None]:
    yield
    while _left:
        os.close(_left.pop())
    for line in Path("/proc/mounts").read_text().splitlines():
        if line.split()[1].startswith(f"{tmp_path}/"):
            subprocess.run(["umount", line.split()[1]], check=True)


def _nothing(*_: Any, **__: Any) -> None:
    pass


def _update_whatever_is_old(link: Link, program: Any, *, old: Any = None) -> None:
    del old
    _update(link, program)


def _update_to_old(link: Link, program: Any, *, old: Any = None) -> None:
    _update(link, old or program, old=old)


def _destroy_and_leave(link: Link) -> None:
    with contextlib.suppress(OSError):
        _left.append(os.dup(link.fd))
    _destroy(link)


def _pin_and_unlink(link: Link, path: Any) -> None:
    _pin(link, path)
    os.unlink(path)


def _by_id_of_newest(_id: int) -> Link:
    return _by_id(max(link_ids()))


def _hold_nothing(where: World, *_links: Link) -> int:
    return _fork(where)


BROKEN: dict[str, tuple[type, str, Callable[..., Any]]] = {
    "update does nothing": (Link, "update", _nothing),
    "compare-exchange does not compare": (Link, "update", _update_whatever_is_old),
    "compare-exchange takes the old program": (Link, "update", _update_to_old),
    "detach does nothing": (Link, "detach", _nothing),
    "close leaves a descriptor": (Link, "destroy", _destroy_and_leave),
    "pin leaves no file": (Link, "pin", _pin_and_unlink),
    "unpin leaves the file": (Link, "unpin", _nothing),
    "an id opens the newest link": (Link, "by_id", _by_id_of_newest),
    "a child inherits nothing": (World, "fork", _hold_nothing),
    "a killed process lives on": (World, "kill", _nothing),
    "unmount leaves the pins": (World, "unmount", _nothing),
    "a program without a link stays": (Hook, "take", _nothing),
}


@pytest.fixture
def rows(model_rows: dict[str, Row]) -> dict[str, Row]:  # noqa: F811 - the fixture
    return {hook: row for hook, row in model_rows.items() if hook in _HOOKS}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_world_is_found(
    name: str,
    world: World,  # noqa: F811 - the fixture
    rows: dict[str, Row],
    bpf_kernel: KernelInfo,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In a world that is broken in one way, a life of a few steps shows it."""
    monkeypatch.setattr(*BROKEN[name])
    with pytest.raises(LifeFailedError) as failed:
        _live(world, rows, bpf_kernel)
    monkeypatch.undo()
    assert failed.value.life.steps <= _LONGEST


def test_life_is_told_if_time_is_up_before_it_is_short(
    world: World,  # noqa: F811 - the fixture
    rows: dict[str, Row],
    bpf_kernel: KernelInfo,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(lives, "_SHRINKING_SECONDS", -1)
    monkeypatch.setattr(*BROKEN["detach does nothing"])
    with pytest.raises(LifeFailedError, match="Not made any shorter") as failed:
        _live(world, rows, bpf_kernel)
    monkeypatch.undo()
    assert ".detach()\n" in str(failed.value.life)


def _live(world: World, rows: dict[str, Row], kernel: KernelInfo) -> None:  # noqa: F811
    lived = Lived(1)
    for _ in range(_BATCHES):
        live(world, rows, kernel, lived=lived)
