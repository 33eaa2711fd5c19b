"""Maps that no object has: made by the test, pinned, and found by id."""

from __future__ import annotations

import errno
import os
import re
from typing import TYPE_CHECKING

import pytest

from pytest_bpflink import BpfError, LoadedMap, Map, MapType
from pytest_bpflink.introspection import ids
from tests.support.sessions import run_session

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from pytest_bpflink import BpfFs, BpfLedger, Object

NO_PREALLOC = 1
PACKET = bytes(64)


def create(kind: MapType = MapType.HASH, *, key: int = 4, value: int = 8, name: str = "") -> Map:
    return Map.create(kind, key_size=key, value_size=value, max_entries=4, name=name)


def test_created_map() -> None:
    with Map.create(
        MapType.HASH, key_size=2, value_size=12, max_entries=4, flags=NO_PREALLOC, name="made_here"
    ) as made:
        assert (made.name, made.type, made.flags) == ("made_here", MapType.HASH, NO_PREALLOC)
        assert (made.key_size, made.value_size, made.max_entries) == (2, 12, 4)
        made[513] = b"twelve bytes"
        assert dict(made) == {513: b"twelve bytes"}
        assert made.raw_keys() == [b"\x01\x02"]
        with pytest.raises(KeyError):
            made[7]
        assert ids.is_alive("map", made.id)


@pytest.mark.parametrize("size", [1, 2, 4, 8])
def test_numbers_of_a_created_map(size: int) -> None:
    largest = (1 << 8 * size) - 1
    with create(key=size, value=size) as made:
        made[largest] = largest
        assert dict(made) == {largest: largest}
        with pytest.raises(OverflowError):
            made[largest + 1] = 0


def test_queue_that_is_created() -> None:
    with create(MapType.QUEUE, key=0) as queue:
        queue.push(1)
        queue.push(2)
        assert (queue.peek(), queue.pop(), queue.pop()) == (1, 1, 2)


def test_long_name_is_cut() -> None:
    with create(name="a_name_of_more_than_fifteen") as made:
        assert made.name == "a_name_of_more_"


@pytest.mark.parametrize(
    ("refused", "number"),
    [
        ({"key_size": 0}, errno.EINVAL),
        ({"max_entries": 0}, errno.EINVAL),
        ({"flags": 1 << 31}, errno.EINVAL),
        ({"name": "no blanks"}, errno.EINVAL),
        ({"value_size": 1 << 31}, errno.E2BIG),
    ],
)
def test_map_that_the_kernel_refuses(refused: dict[str, object], number: int) -> None:
    fitting = {"key_size": 4, "value_size": 4, "max_entries": 1, "name": "refused"}
    with pytest.raises(BpfError, match="create map") as raised:
        Map.create(MapType.HASH, **{**fitting, **refused})  # type: ignore[arg-type]
    assert raised.value.errno == number


def test_closed_map() -> None:
    made = create(name="closed")
    number = made.id
    made.close()
    made.close()
    for use in (lambda: made[1], lambda: list(made), lambda: made.fd, lambda: made.id):
        with pytest.raises(BpfError, match=f"use map {number}: EBADF .*; it was closed") as raised:
            use()
        assert raised.value.errno == errno.EBADF
    assert (made.name, made.type) == ("closed", MapType.HASH)


def test_map_that_is_never_closed() -> None:
    made: Map | None = create(name="forgotten")
    with pytest.warns(ResourceWarning, match="<Map forgotten> was never closed"):
        made = None
    assert made is None


def test_created_map_is_the_tests_own(bpf_ledger: BpfLedger) -> None:
    with bpf_ledger.watch() as watch:
        made = create()
        assert [each.id for each in watch.alive()] == [made.id]
        [holder] = watch.alive()[0].holders()
        assert str(holder) == f"fd {made.fd} of pid {os.getpid()} (python)"
        made.close()
    watch.assert_nothing_left()


LEFT = """
from pytest_bpflink import Map, MapType

left = []

def test_first(bpf_ledger):
    left.append(Map.create(MapType.HASH, key_size=4, value_size=4, max_entries=1, name="left"))

def test_second():
    pass
"""


def test_map_that_is_left_is_told(tmp_path: Path) -> None:
    (tmp_path / "test_left.py").write_text(LEFT)
    told = run_session(tmp_path).stdout.str()
    assert "= 2 passed, 1 error in " in told
    assert re.search(r"the test left map \d+ \(HASH left\), held by", told)


@pytest.fixture
def loaded(bpf_object: Callable[..., Object]) -> Object:
    return bpf_object("progs/map_kinds.bpf.c")


def test_pinned_map_keeps_its_types(loaded: Object, bpffs: BpfFs) -> None:
    loaded.map("traffic")[5] = {"packets": 2, "bytes": [3, 4]}
    loaded.map("traffic").pin(bpffs / "traffic")
    with Map.open(bpffs / "traffic") as opened:
        assert opened.id == loaded.map("traffic").id
        assert opened.name == "traffic"
        assert opened[5][0] == {"packets": 2, "bytes": [3, 4]}
        opened[6] = {"packets": 1}
        assert opened.total(6)["packets"] == len(opened[6])
    assert loaded.map("traffic")[6][0] == {"packets": 1, "bytes": [0, 0]}


def test_pinned_map_outlives_its_object(loaded: Object, bpffs: BpfFs) -> None:
    loaded.map("queue").push(7)
    loaded.map("queue").pin(bpffs / "queue")
    loaded.close()
    with Map.open(bpffs / "queue") as opened:
        opened.pin(bpffs / "again")
        assert opened.pop() == 7
    with Map.open(bpffs / "again") as again, pytest.raises(IndexError):
        again.pop()


def test_map_by_id(loaded: Object) -> None:
    odd = loaded.map("odd")
    with Map.by_id(odd.id) as same:
        same[1] = (1, 2, 3)
        assert odd[1] == same[1]
        assert isinstance(same, LoadedMap)
        assert same.fd != odd.fd


def test_program_array_by_id(loaded: Object) -> None:
    jump = loaded.program("jump")
    with Map.by_id(loaded.map("jumps").id) as jumps:
        jumps[0] = loaded.program("jumped")
        assert jump.run(PACKET).retval == 23
        assert dict(jumps) == {0: loaded.program("jumped").id}
    assert jump.run(PACKET).retval == 23


def test_map_that_is_not_there(loaded: Object, bpffs: BpfFs) -> None:
    loaded.program("jump").pin(bpffs / "program")
    refused: list[tuple[int, str, Callable[[], Map]]] = [
        (errno.ENOENT, "open the map pinned at", lambda: Map.open(bpffs / "none")),
        (errno.EINVAL, "it is a program, not a map", lambda: Map.open(bpffs / "program")),
        (errno.ENOENT, "open map 2147483647 by id", lambda: Map.by_id(2**31 - 1)),
    ]
    for number, text, open_it in refused:
        with pytest.raises(BpfError, match=text) as raised:
            open_it()
        assert raised.value.errno == number


def test_what_needs_an_object(tmp_path: Path) -> None:
    uses: list[Callable[[Map], object]] = [
        lambda made: made.attach(),
        lambda made: made.set_max_entries(8),
        lambda made: made.set_pin_path(tmp_path),
    ]
    with create() as made:
        assert (made.pointer, made.pin_path, made.loaded) == (0, None, True)
        assert not made.is_internal
        for use in uses:
            with pytest.raises(BpfError, match="that takes a map of an Object") as raised:
                use(made)
            assert raised.value.errno == errno.EINVAL
