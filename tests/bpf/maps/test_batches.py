"""Entries that are read in batches are those that are read one by one."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Any

import pytest

from pytest_bpflink import BpfError, KernelInfo, Map, MapType
from pytest_bpflink.binding import libbpf
from pytest_bpflink.bpf.maps import batches

if TYPE_CHECKING:
    from collections import Counter

ENTRIES = 1000

SINCE = {
    MapType.HASH: (5, 6),
    MapType.ARRAY: (5, 6),
    MapType.PERCPU_HASH: (5, 6),
    MapType.PERCPU_ARRAY: (5, 13),
    MapType.LRU_HASH: (5, 6),
}


@pytest.fixture(params=SINCE, ids=lambda kind: kind.name)
def kind(request: pytest.FixtureRequest) -> MapType:
    kind: MapType = request.param
    return kind


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Count the calls of libbpf by name."""
    from collections import Counter

    counter: Counter[str] = Counter()
    real = libbpf.call

    def call(name: str, *arguments: Any, **options: Any) -> int:
        counter[name] += 1
        return real(name, *arguments, **options)

    monkeypatch.setattr(libbpf, "call", call)
    return counter


def filled(kind: MapType, *, most: int = ENTRIES, entries: int = ENTRIES) -> Map:
    made = Map.create(kind, key_size=4, value_size=6, max_entries=most)
    made.update({number: number.to_bytes(6, "big") for number in range(entries)})
    return made


def expected(kind: MapType, entries: int = ENTRIES) -> dict[int, Any]:
    cpus = libbpf.call("libbpf_num_possible_cpus", doing="count")
    values = {number: number.to_bytes(6, "big") for number in range(entries)}
    if kind.name.startswith("PERCPU"):
        return {number: [value] * cpus for number, value in values.items()}
    return values


def test_entries_are_those_of_the_map(kind: MapType, calls: Counter[str]) -> None:
    most = 4 * ENTRIES if kind is MapType.LRU_HASH else ENTRIES  # it drops some before it is full
    with filled(kind, most=most) as made:
        calls.clear()
        assert dict(made.items()) == expected(kind)
        has_batches = KernelInfo().version >= SINCE[kind]
        assert calls["bpf_map_lookup_batch"] in (range(1, 3) if has_batches else [1, 2])
        assert calls["bpf_map_lookup_elem"] == (0 if has_batches else ENTRIES)
        assert sorted(made) == list(range(ENTRIES))
        assert len(made) == len(list(made.values())) == ENTRIES
        assert dict(made) == expected(kind)


def test_more_than_one_batch(
    kind: MapType, calls: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches, "_BATCH", 1000)
    most = 4 * ENTRIES if kind is MapType.LRU_HASH else ENTRIES
    with filled(kind, most=most) as made:
        assert dict(made.items()) == expected(kind)
        assert sorted(made) == list(range(ENTRIES))
    if KernelInfo().version >= SINCE[kind]:
        assert calls["bpf_map_lookup_batch"] > 4


def test_bucket_with_more_entries_than_there_is_room_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "_BATCH", 1)
    monkeypatch.setattr(batches, "_FEWEST", 1)
    with filled(MapType.HASH) as made:
        assert dict(made.items()) == expected(MapType.HASH)


def test_entries_that_vanish_before_their_batch_are_left_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(batches, "_BATCH", 1)
    with filled(MapType.HASH) as made:
        items = iter(made.items())
        next(items)
        made.clear()
        read = 1 + len(list(items))
        assert read == 1 if KernelInfo().version < (5, 6) else read <= 64
        assert list(made.items()) == []


@pytest.mark.parametrize("kind", [MapType.HASH, MapType.PERCPU_HASH])
def test_empty_map(kind: MapType) -> None:
    with filled(kind, entries=0) as made:
        assert dict(made.items()) == {}
        assert list(made) == list(made.values()) == []


def test_key_of_one_byte(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel writes the number of a bucket, which is longer: behind a buffer of one byte."""
    room = []
    real = libbpf.call

    def call(name: str, *arguments: Any, **options: Any) -> int:
        if name == "bpf_map_lookup_batch":
            room.append(len(arguments[2]))
        return real(name, *arguments, **options)

    monkeypatch.setattr(libbpf, "call", call)
    with Map.create(MapType.HASH, key_size=1, value_size=1, max_entries=256) as made:
        made.update({number: 255 - number for number in range(256)})
        assert dict(made.items()) == {number: 255 - number for number in range(256)}
    assert set(room) == {4}


def test_keys_of_large_values_are_listed_without_the_values(calls: Counter[str]) -> None:
    with Map.create(MapType.ARRAY, key_size=4, value_size=100_000, max_entries=3) as made:
        assert list(made) == [0, 1, 2]
        assert calls["bpf_map_lookup_batch"] == 0
        made[2] = b"x" * 100_000
        assert dict(made.items())[2] == b"x" * 100_000


def test_failure_is_no_reason_to_go_on_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    real = libbpf.call

    def call(name: str, *arguments: Any, **options: Any) -> int:
        if name == "bpf_map_lookup_batch":
            raise BpfError(errno.EPERM, options["doing"])
        return real(name, *arguments, **options)

    with filled(MapType.HASH) as made:
        monkeypatch.setattr(libbpf, "call", call)
        with pytest.raises(BpfError, match="iterate over map") as raised:
            list(made.items())
    assert raised.value.errno == errno.EPERM
