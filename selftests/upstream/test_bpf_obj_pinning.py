"""The kernel's `bpf_obj_pinning`: pins by paths, and below a directory's descriptor.

Ported from tools/testing/selftests/bpf/prog_tests/bpf_obj_pinning.c (Linux 6.5), with a link in
place of the map: its program must run when the pin is all that is left.

Beyond upstream, each way is used with two BPF file systems, one of which is the working directory,
and what is refused is asked for: each errno, and that no pin is left.

Elsewhere: that either of two pins in two BPF file systems keeps links of every type is in
conformance/test_conformance_holding.py.
"""

from __future__ import annotations

import contextlib
import errno
import os
from functools import partial
from typing import TYPE_CHECKING

import pytest

from pytest_bpflink import BpfError, Link
from pytest_bpflink.selftests.support.absence import made_or_absent
from pytest_bpflink.selftests.support.path_fd import detached_bpffs, get_at, opened, pin_at
from pytest_bpflink.selftests.support.witness import SyscallWitness

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from pytest_bpflink import BpfFs

_WAYS = ["mounted_str_abs", "mounted_str_rel", "mounted_fd_rel"]


@pytest.fixture
def witness() -> Iterator[SyscallWitness]:
    with SyscallWitness.of("pin_raw_tp") as loaded:
        yield loaded


@pytest.fixture
def link(witness: SyscallWitness, bpf_link: Callable[..., Link]) -> Link:
    return bpf_link(witness.object.program("pin_raw_tp"))


@pytest.fixture
def other(bpf_link: Callable[..., Link]) -> Iterator[Link]:
    """A link to another program of the same name."""
    with SyscallWitness.of("pin_raw_tp") as loaded:
        yield bpf_link(loaded.object.program("pin_raw_tp"))


@pytest.fixture
def elsewhere(
    bpffs_factory: Callable[..., BpfFs], monkeypatch: pytest.MonkeyPatch
) -> Iterator[BpfFs]:
    """Another BPF FS, which is the working directory."""
    with bpffs_factory() as other:
        monkeypatch.chdir(other)
        yield other
        monkeypatch.undo()


@pytest.fixture
def directory(bpffs: BpfFs) -> Iterator[int]:
    """A descriptor of the test's BPF FS, for its path alone."""
    with opened(bpffs) as descriptor:
        yield descriptor


@pytest.fixture
def pins_below(request: pytest.FixtureRequest, link: Link) -> None:
    """Skip the test where the kernel takes no descriptor of a directory."""
    with detached_bpffs() as mount:
        pin = partial(pin_at, link.fd, "probe", below=mount)
        made_or_absent(request.config, "BPF_F_PATH_FD", pin, since="6.5")


@pytest.mark.usefixtures("pins_below")
def test_detached(link: Link, witness: SyscallWitness) -> None:
    """A BPF FS that is mounted nowhere holds a pin, which goes with the mount's descriptor."""
    with detached_bpffs() as mount:
        pin_at(link.fd, "link", below=mount)
        link.destroy()
        assert witness.runs()
        with _got("link", below=mount) as found:
            assert found.id == link.id
        assert witness.runs()


@pytest.mark.parametrize("way", _WAYS)
def test_pin(
    way: str,
    link: Link,
    witness: SyscallWitness,
    bpffs: BpfFs,
    elsewhere: BpfFs,
    request: pytest.FixtureRequest,
) -> None:
    """A pin is where its path says, and nowhere in the other BPF FS."""
    if way == "mounted_fd_rel":
        request.getfixturevalue("pins_below")
        pin_at(link.fd, "link", below=request.getfixturevalue("directory"))
    elif way == "mounted_str_rel":
        with contextlib.chdir(bpffs):
            pin_at(link.fd, "link")
    else:
        link.pin(bpffs / "link")
    link.destroy()

    assert list(elsewhere.pins()) == []
    assert list(bpffs.pins()) == [bpffs / "link"]
    assert witness.runs()
    with Link.open(bpffs / "link") as opened:
        assert opened.id == link.id


@pytest.mark.parametrize("way", _WAYS)
def test_get(
    way: str,
    link: Link,
    bpffs: BpfFs,
    elsewhere: BpfFs,
    other: Link,
    request: pytest.FixtureRequest,
) -> None:
    """A pin is opened by each way, and a pin of the same name in the other BPF FS is not."""
    other.pin(elsewhere / "link")
    link.pin(bpffs / "link")
    if way == "mounted_fd_rel":
        request.getfixturevalue("pins_below")
        found = _got("link", below=request.getfixturevalue("directory"))
    elif way == "mounted_str_rel":
        with contextlib.chdir(bpffs):
            found = _got("link")
    else:
        found = Link.open(bpffs / "link")
    with found, Link.open("link") as in_working_directory:
        assert found.id == link.id
        assert in_working_directory.id == other.id


@pytest.mark.usefixtures("pins_below")
def test_refused(link: Link, bpffs: BpfFs, directory: int, tmp_path: Path) -> None:
    """A descriptor without its flag, of no directory, or of another file system is refused."""
    file = tmp_path / "file"
    file.touch()
    with opened(tmp_path) as outside, opened(file) as no_directory:
        for below, options, expected in (
            (directory, {"flags": 0}, errno.EINVAL),
            (10**6, {}, errno.EBADF),
            (no_directory, {}, errno.ENOTDIR),
            (outside, {}, errno.EPERM),
        ):
            with pytest.raises(BpfError) as refused:
                pin_at(link.fd, "link", below=below, **options)
            assert refused.value.errno == expected
        link.pin(bpffs / "link")
        with pytest.raises(BpfError) as refused:
            pin_at(link.fd, "link", below=directory)
        assert refused.value.errno == errno.EEXIST
        for below, options, expected in (
            (directory, {"flags": 0}, errno.EINVAL),
            (10**6, {}, errno.EBADF),
            (no_directory, {}, errno.ENOTDIR),
            (outside, {}, errno.ENOENT),
        ):
            with pytest.raises(BpfError) as refused:
                get_at("link", below=below, **options)
            assert refused.value.errno == expected
    assert list(tmp_path.iterdir()) == [file]


def _got(name: str, *, below: int = 0) -> Link:
    fd = get_at(name, below=below)
    try:
        return Link.from_fd(fd)
    finally:
        os.close(fd)
