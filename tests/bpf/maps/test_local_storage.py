"""Local storage: values that belong to a socket, a file, a process or a cgroup."""

from __future__ import annotations

import errno
import os
import socket
from typing import TYPE_CHECKING, Any

import pytest

from pytest_bpflink import BpfError, MapType

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from pytest_bpflink import Cgroup, Link, Map, Object

UDP_OF_FIVE_BYTES = 20 + 8 + 5


@pytest.fixture
def file(tmp_path: Path) -> Iterator[Any]:
    with (tmp_path / "file").open("w") as file:
        yield file


@pytest.fixture
def process() -> Iterator[int]:
    pidfd = os.pidfd_open(os.getpid())
    yield pidfd
    os.close(pidfd)


@pytest.fixture
def sock() -> Iterator[socket.socket]:
    with socket.socket(type=socket.SOCK_DGRAM) as sock:
        yield sock


def needs(feature: str, since: str, **more: str) -> pytest.MarkDecorator:
    return pytest.mark.bpf_requires(f"map:{feature}", since=since, **more)


STORAGES = [
    pytest.param("SK_STORAGE", "sock", marks=needs("sk_storage", "5.2")),
    pytest.param(
        "INODE_STORAGE", "file", marks=needs("inode_storage", "5.10", config="CONFIG_BPF_LSM")
    ),
    pytest.param("TASK_STORAGE", "process", marks=needs("task_storage", "5.11")),
    pytest.param("CGRP_STORAGE", "cgroup", marks=needs("cgrp_storage", "6.2")),
]


@pytest.fixture
def owner(request: pytest.FixtureRequest, name: str) -> Any:
    return request.getfixturevalue(name)


@pytest.fixture
def storage(bpf_object: Callable[..., Object], kind: str) -> Map:
    number = int(MapType[kind])  # the installed header may be older than the type
    return bpf_object("progs/storage.bpf.c", defines={"TYPE": number}).map("storage")


@pytest.mark.parametrize(("kind", "name"), STORAGES)
def test_value_of_an_owner(storage: Map, owner: Any) -> None:
    assert owner not in storage
    for use in (storage.__getitem__, storage.__delitem__):
        with pytest.raises(KeyError) as raised:
            use(owner)
        assert raised.value.args == (owner,)
    storage[owner] = {"packets": 3, "marks": 4}
    assert owner in storage
    assert storage[owner] == {"packets": 3, "bytes": 0, "marks": 4}
    with pytest.raises(BpfError) as refused:
        storage.update(owner, {"packets": 4}, exist=False)
    assert refused.value.errno == errno.EEXIST
    storage.update(owner, {"packets": 4}, exist=True)
    assert storage[owner]["packets"] == 4
    del storage[owner]
    assert owner not in storage
    assert storage.get(owner) is None


@pytest.mark.parametrize(("kind", "name"), STORAGES)
def test_values_are_not_listed(storage: Map, owner: Any) -> None:
    storage[owner] = {"packets": 3}
    for use in (list, len, dict):
        with pytest.raises(BpfError, match="looked up by a descriptor, not listed"):
            use(storage)


@pytest.mark.parametrize(("kind", "name"), STORAGES)
def test_descriptor_that_is_not_open(storage: Map, owner: Any) -> None:
    del owner
    with pytest.raises(BpfError) as raised:
        storage[1 << 20]
    assert raised.value.errno == errno.EBADF


@needs("sk_storage", "5.2")
def test_program_and_test_share_the_value_of_a_socket(
    bpf_object: Callable[..., Object],
    bpf_link: Callable[..., Link],
    cgroup: Cgroup,
) -> None:
    loaded = bpf_object("progs/storage.bpf.c", defines={"COUNTS": 1})
    storage = loaded.map("storage")
    bpf_link(loaded.program("count"), cgroup)
    with cgroup.entered(), socket.socket(type=socket.SOCK_DGRAM) as first:
        other = socket.socket(type=socket.SOCK_DGRAM)
        storage[first] = {"packets": 10}
        for _ in range(2):
            first.sendto(b"hello", ("127.0.0.1", 9))
        assert storage[first] == {"packets": 12, "bytes": 2 * UDP_OF_FIVE_BYTES, "marks": 0}
        assert other not in storage
        other.close()
