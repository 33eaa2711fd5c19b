"""Maps as mappings: keys that the kernel and Python tell apart differently, and empty slots."""

from __future__ import annotations

import copy
import pickle
import socket
import sys
import threading
from typing import TYPE_CHECKING, Any

import pytest

from pytest_bpflink import BpfError, Map, MapType

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pytest_bpflink import Cgroup, Link, Object

NO_PREALLOC = 1

FLOW = {"cgroup": 7, "ports": (4, 5)}
FLOW_BYTES = b"\x07\0\0\0\0\0\0\0\x04\0\x05\0"


@pytest.fixture
def loaded(bpf_object: Callable[..., Object]) -> Object:
    return bpf_object("progs/maps.bpf.c")


@pytest.fixture(params=[b"\0\0\0\0", b"\xad\xde\0\0"], ids=["clean", "dirty"])
def padding(request: pytest.FixtureRequest) -> bytes:
    padding: bytes = request.param
    return padding


@pytest.fixture
def flows(loaded: Object, bpf_link: Callable[..., Link], cgroup: Cgroup, padding: bytes) -> Map:
    """A map with one entry, in whose key a program left this padding."""
    loaded.bss["dirt"] = int.from_bytes(padding, "little")
    bpf_link(loaded.program("count"), cgroup)
    with cgroup.entered(), socket.socket(type=socket.SOCK_DGRAM) as sender:
        sender.sendto(b"x", ("127.0.0.1", 9))
    return loaded.map("flows")


def test_struct_is_a_key_of_a_dict(flows: Map) -> None:
    assert dict(flows) == {next(iter(flows)): 1}
    assert list(flows) == [FLOW]
    assert list(flows.items()) == [(FLOW, 1)]
    assert list(flows.values()) == [1]


def test_listed_key_is_found(flows: Map) -> None:
    [key] = flows
    assert key in flows
    assert flows[key] == 1
    flows[key] = 2
    assert list(flows.values()) == [2]
    assert flows.popitem() == (FLOW, 2)
    assert len(flows) == 0


def test_raw_keys(flows: Map, padding: bytes) -> None:
    assert flows.raw_keys() == [FLOW_BYTES + padding]
    assert flows[FLOW_BYTES + padding] == 1
    assert [key.raw for key in flows] == [FLOW_BYTES + padding]


def test_clear_deletes_all_entries(flows: Map) -> None:
    flows.clear()
    assert len(flows) == 0
    assert flows.raw_keys() == []


def test_equal_members_with_other_padding_are_another_key(loaded: Object) -> None:
    flows = loaded.map("flows")
    flows[FLOW] = 1
    flows[FLOW_BYTES + b"dirt"] = 2
    assert len(dict(flows)) == 2
    assert sorted(dict(flows).values()) == [1, 2]
    assert list(flows) == [FLOW, FLOW]


def test_missing_key_tells_of_an_equal_one_with_dirty_padding(loaded: Object) -> None:
    flows = loaded.map("flows")
    flows[FLOW_BYTES + b"dirt"] = 2
    for use in (flows.__getitem__, flows.__delitem__):
        with pytest.raises(KeyError) as raised:
            use(FLOW)
        [note] = raised.value.__notes__
        assert note == (
            "map flows has an equal key with other bytes, as in padding that a program left dirty:"
            " look it up by a key of list(map), or by its bytes from raw_keys()"
        )
        with pytest.raises(KeyError) as raised:
            use(FLOW | {"cgroup": 8})
        assert not hasattr(raised.value, "__notes__")


def test_struct_key_can_not_be_changed(loaded: Object) -> None:
    flows = loaded.map("flows")
    flows[FLOW] = 1
    [key] = flows
    changes: list[Callable[[], object]] = [
        key.clear,
        key.popitem,
        lambda: key.update(cgroup=8),
        lambda: key.setdefault("more", 1),
        lambda: key.pop("cgroup"),
        lambda: key.__setitem__("cgroup", 8),
        lambda: key.__delitem__("cgroup"),
        lambda: key.__ior__({"cgroup": 8}),
    ]
    for change in changes:
        with pytest.raises(TypeError, match="a key of a map can't be changed"):
            change()
    assert key == FLOW
    assert hash(key) == hash(copy.deepcopy(key))
    assert pickle.loads(pickle.dumps(key)).raw == key.raw  # noqa: S301 - its own bytes
    assert (key | {"cgroup": 8}) == FLOW | {"cgroup": 8}


def test_key_of_another_map_is_its_members(loaded: Object) -> None:
    """Its bytes would be another key there."""
    flows, turned = loaded.map("flows"), loaded.map("turned")
    flows[FLOW_BYTES + b"dirt"] = 1
    [key] = flows
    turned[key] = 2
    assert list(turned) == [FLOW | {"more": 0}]


@pytest.mark.parametrize(("raw", "key"), [(b"name\0\0\0\0", b"name"), (b"name\0dir", b"name\0dir")])
def test_string_as_a_key(loaded: Object, raw: bytes, key: bytes) -> None:
    names = loaded.map("names")
    names[raw] = 1
    assert dict(names) == {key: 1}
    names.clear()
    assert dict(names) == {}


def test_array_as_a_key(loaded: Object) -> None:
    pairs = loaded.map("pairs")
    pairs[[1, 2]] = 3
    assert dict(pairs) == {(1, 2): 3}
    assert pairs[1, 2] == 3


@pytest.mark.parametrize(("name", "value"), [("maps", "map"), ("sockets", "socket")])
def test_empty_slots_are_no_keys(loaded: Object, name: str, value: str) -> None:
    slots = loaded.map(name)
    assert dict(slots) == {}
    assert len(slots) == 0
    index = (2).to_bytes(4, sys.byteorder)
    assert index not in slots

    with socket.socket() as listener:
        listener.listen()
        filling = {
            "map": loaded.map("inner").fd,
            "socket": listener.fileno(),
        }
        slots[index] = filling[value].to_bytes(8 if value == "socket" else 4, sys.byteorder)
        assert slots.raw_keys() == [index]
        assert len(slots.items()) == 1
        assert list(slots.values()) == [slots[index]]
        slots.clear()
        assert dict(slots) == {}


def test_slots_that_only_programs_can_read_are_keys(loaded: Object) -> None:
    events = loaded.map("events")
    assert len(events) == 4
    with pytest.raises(BpfError, match="look up in map events: ENOTSUPP"):
        dict(events)


@pytest.fixture
def numbers(loaded: Object) -> Map:
    numbers = loaded.map("numbers")
    numbers.update({number: number for number in range(100)})
    return numbers


def test_iteration_in_which_keys_are_deleted(numbers: Map) -> None:
    seen = []
    for number in numbers:
        seen.append(number)
        if number % 3 == 0:
            del numbers[number]
    assert sorted(seen) == list(range(100))
    assert sorted(numbers) == [number for number in range(100) if number % 3]


def test_entries_that_vanish_are_left_out() -> None:
    """Of a map that is read one by one."""
    with Map.create(
        MapType.LPM_TRIE, key_size=8, value_size=4, max_entries=9, flags=NO_PREALLOC
    ) as trie:
        trie.update({32 | number << 32: number for number in range(9)})
        items = iter(trie.items())
        first, _ = next(items)
        trie.clear()
        assert list(items) == []
        trie[first] = 5
        assert list(trie.values()) == [5]


@pytest.fixture
def churn(numbers: Map) -> Iterator[None]:
    """Another thread that deletes and adds keys all the time."""
    ended = threading.Event()

    def delete_and_add() -> None:
        while not ended.is_set():
            for number in range(100):
                numbers.pop(number, None)
                numbers[number] = number

    thread = threading.Thread(target=delete_and_add)
    thread.start()
    yield
    ended.set()
    thread.join()


@pytest.mark.usefixtures("churn")
def test_no_key_comes_twice_while_others_delete(numbers: Map) -> None:
    """The kernel begins an iteration anew at a key that is gone."""
    for _ in range(200):
        keys: list[Any] = list(numbers)
        assert len(keys) == len(set(keys))
