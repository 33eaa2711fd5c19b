"""The kernel's `bpf_iter`: the file of a pinned iterator, and the iterator over links.

Ported from tools/testing/selftests/bpf/prog_tests/bpf_iter.c (Linux 5.8; links since 6.0), as far
as links go, with the names of its subtests.

Beyond upstream, the pin alone keeps the file after the link's last descriptor, a file that was
opened before an update or an unlink goes on as it began, and the iterator over links finds each
link, once.

Elsewhere: the iterators over other objects, maps and cgroups run in the conformance suite's rows.

Left out: what programs write of tasks, maps and sockets, and overflowing buffers, which are no
matter of links.
"""

from __future__ import annotations

import os
import struct
from functools import partial
from typing import TYPE_CHECKING

import pytest

from pytest_bpflink.selftests.support.absence import made_or_absent

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from pytest_bpflink import BpfFs, Link, Object

pytestmark = pytest.mark.bpf_requires("link:iter", since="5.8")


@pytest.fixture
def loaded(bpf_object: Callable[..., Object]) -> Object:
    return bpf_object("progs/iter.bpf.c", only=["small", "large"])


@pytest.fixture
def link(loaded: Object, bpf_link: Callable[..., Link]) -> Link:
    return bpf_link(loaded.program("small"))


@pytest.fixture
def pin(link: Link, bpffs: BpfFs) -> Path:
    link.pin(bpffs / "iterator")
    return bpffs / "iterator"


def test_anon(link: Link) -> None:
    assert link.read() == "abcd"


def test_anon_read_one_char(link: Link) -> None:
    with link.open_iterator() as file:
        assert list(iter(lambda: os.read(file.fileno(), 1), b"")) == [b"a", b"b", b"c", b"d"]


def test_file(link: Link, loaded: Object, pin: Path) -> None:
    """Each opening of the pin is an iteration, by the program that the link has then."""
    assert pin.read_text() == pin.read_text() == "abcd"
    with pin.open() as before:
        link.update(loaded.program("large"))
        assert before.read() == "abcd"
    assert pin.read_text() == "ABCD"
    link.destroy()
    assert pin.read_text() == "ABCD"


def test_file_unlinked(link: Link, pin: Path) -> None:
    """A file that is open goes on when its pin, and so its link, is gone."""
    with pin.open() as file:
        link.destroy()
        pin.unlink()
        assert file.read() == "abcd"
    assert not pin.exists()


def test_link_iter(
    request: pytest.FixtureRequest,
    bpf_object: Callable[..., Object],
    bpf_link: Callable[..., Link],
    link: Link,
) -> None:
    """Each link on the system is found, once; the iterator's own is one of them."""
    load = partial(bpf_object, "progs/iter.bpf.c", only=["ids"])
    loaded = made_or_absent(request.config, "iterator over links", load, since="6.0")
    over_links = bpf_link(loaded.program("ids"))
    found = [number for (number,) in struct.iter_unpack("=I", over_links.read_bytes())]
    assert len(found) == len(set(found))
    assert {link.id, over_links.id} <= set(found)
