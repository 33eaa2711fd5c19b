"""Maps of BPF objects, as mappings from keys to values."""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import ItemsView, MutableMapping, ValuesView
from functools import cached_property, reduce
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_bpflink.binding import libbpf
from pytest_bpflink.binding.uapi import BpfMapInfo, MapType
from pytest_bpflink.bpf.events.events import Events
from pytest_bpflink.bpf.events.opening import decoder_of, find_type, open_source
from pytest_bpflink.bpf.events.user_ring_buffer import EventWriter
from pytest_bpflink.bpf.link import attached
from pytest_bpflink.bpf.map_elements import Codec, KeyCodec, PerCpuCodec, ReferenceCodec
from pytest_bpflink.errors import BpfError, NotSupported
from pytest_bpflink.introspection.ids import note_made

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_bpflink.bpf.handles import ObjectHandle
    from pytest_bpflink.bpf.link import Link

_PER_CPU = frozenset(
    {
        MapType.PERCPU_HASH,
        MapType.PERCPU_ARRAY,
        MapType.LRU_PERCPU_HASH,
        MapType.PERCPU_CGROUP_STORAGE,
    }
)

# BPF_MAP_GET_NEXT_KEY gives the index of each slot of these, also of the empty ones.
_SLOTS = frozenset(
    {
        MapType.PROG_ARRAY,
        MapType.PERF_EVENT_ARRAY,
        MapType.CGROUP_ARRAY,
        MapType.ARRAY_OF_MAPS,
        MapType.DEVMAP,
        MapType.SOCKMAP,
        MapType.CPUMAP,
        MapType.XSKMAP,
        MapType.REUSEPORT_SOCKARRAY,
    }
)

_REFERENCES = (_SLOTS - {MapType.CPUMAP}) | {
    MapType.HASH_OF_MAPS,
    MapType.DEVMAP_HASH,
    MapType.SOCKHASH,
}

_WITHOUT_KEYS = frozenset({MapType.QUEUE, MapType.STACK, MapType.BLOOM_FILTER})

_NOEXIST, _EXIST = 1, 2


class Map(MutableMapping[Any, Any]):
    """A map of an `Object`, borrowed from it: a mapping from keys to values.

    Keys and values are typed through BTF (see `binding.btf`), so an array's key is an `int`;
    without a BTF type those of 1, 2, 4 and 8 bytes are an `int`, and others `bytes`. A struct as a
    key is a `dict` that hashes; it keeps the bytes of its padding, without which the kernel does
    not find it. A key with other bytes that its value does not show, such as those behind the end
    of a string, is `bytes`.

    An iteration yields each key once, of those that the map has at its begin. Empty slots, as of a
    prog array, are no keys. In a slot is put a `Program`, a `Map`, a `Device` or a socket; it
    reads as the id that the kernel gives, or not at all. The one element of a map of global
    variables is a `dict` of them.

    The value of a per-CPU map is a list, with one value for each possible CPU; it is set by such a
    list, or by one value for all, an array then as a tuple. See `total`, too.

    Queues, stacks and bloom filters have no keys: see `push`, `pop` and `peek`.
    """

    def __init__(self, owner: ObjectHandle, pointer: int) -> None:
        self._owner = owner
        self._pointer = pointer
        self.name = libbpf.text("bpf_map__name", pointer) or ""
        """The map's name; libbpf names a map of global variables by object and section."""

    @property
    def pointer(self) -> int:
        """The `struct bpf_map *`. Raises `BpfError` with EBADF after the object is closed."""
        _ = self._owner.pointer
        return self._pointer

    @property
    def fd(self) -> int:
        """The map's descriptor, borrowed."""
        return self._ask("bpf_map__fd")

    @property
    def id(self) -> int:
        """The kernel's id of the map."""
        return int(libbpf.read_info(self.fd, BpfMapInfo, doing=self._doing("ask about")).id)

    @property
    def type(self) -> MapType:
        """How the map keeps its values."""
        return MapType(self._ask("bpf_map__type"))

    @property
    def max_entries(self) -> int:
        """How many entries the map can have; of a ring buffer its size in bytes."""
        return self._ask("bpf_map__max_entries")

    @property
    def flags(self) -> int:
        """The `BPF_F_*` with which the map is created."""
        return self._ask("bpf_map__map_flags")

    @property
    def key_size(self) -> int:
        """Bytes of a key."""
        return self._ask("bpf_map__key_size")

    @property
    def value_size(self) -> int:
        """Bytes of a value; of a per-CPU map, of the value of one CPU."""
        return self._ask("bpf_map__value_size")

    @property
    def loaded(self) -> bool:
        """Whether the kernel has the map."""
        return self._owner.loaded

    @property
    def is_internal(self) -> bool:
        """Whether the map holds global variables."""
        return bool(self._ask("bpf_map__is_internal"))

    def set_max_entries(self, number: int) -> None:
        """Choose, before `Object.load()`, how many entries the map can have.

        Raises `BpfError` with EBUSY once it is loaded.
        """
        self._change("bpf_map__set_max_entries", number, verb=f"set max_entries to {number} of")

    @property
    def pin_path(self) -> Path | None:
        """Where loading pins the map, or finds it pinned (`LIBBPF_PIN_BY_NAME`); None: nowhere."""
        path = libbpf.text("bpf_map__pin_path", self.pointer)
        return Path(path) if path else None

    def set_pin_path(self, path: str | os.PathLike[str]) -> None:
        """Choose, before `Object.load()`, where it pins the map.

        If a map is pinned there, the object uses that map. Its type, sizes and flags must be the
        same, else loading raises `BpfError` with EINVAL.
        """
        self._change("bpf_map__set_pin_path", os.fsencode(path), verb=f"choose {Path(path)} for")

    def attach(self) -> Link:
        """Register a struct_ops map by a BPF link, which the caller destroys (6.4).

        The map must be in `SEC(".struct_ops.link")`. Raises `BpfError`: EINVAL for a map of another
        type, EEXIST where a map with the same struct_ops name is registered; `NotSupported` where
        libbpf registers the map without a BPF link.
        """
        doing = f"attach struct_ops map {self.name}"
        pointer = libbpf.call("bpf_map__attach_struct_ops", self.pointer, doing=doing)
        try:
            return attached(pointer, self.name)
        except BpfError as error:
            # Without BPF_F_LINK libbpf's `struct bpf_link *` has the descriptor of the map.
            refusal = NotSupported(f"attach {self.name} by a BPF link", since="Linux 6.4", here="")
            refusal.hint = 'needs Linux 6.4, libbpf 1.2, and a map in SEC(".struct_ops.link")'
            raise refusal from error

    def pin(self, path: str | os.PathLike[str]) -> None:
        """Pin the map in a BPF FS; the caller removes the file."""
        note_made("map", self.id)
        libbpf.call("bpf_map__pin", self.pointer, os.fsencode(path), doing=self._doing("pin"))

    def raw_keys(self) -> list[bytes]:
        """Return the bytes of each key, as the kernel has them; the map takes them as keys, too."""
        keys: dict[bytes, None] = {}
        here: bytes | None = None
        following = ctypes.create_string_buffer(self._key.size)
        while self._try("bpf_map_get_next_key", here, following, verb="iterate over"):
            # The kernel begins anew if the key was deleted in the meantime.
            here = following.raw
            keys[here] = None
        if self.type in _SLOTS:
            return [key for key in keys if self._is_filled(key)]
        return list(keys)

    def update(self, *entry: Any, exist: bool | None = None, **entries: Any) -> None:
        """Set entries as `dict.update` does, or one: `update(key, value, exist=False)`.

        With `exist=True` the entry must be there (else `BpfError` with ENOENT), with `exist=False`
        it must not be there (else EEXIST).
        """
        if len(entry) != 2:
            super().update(*entry, **entries)
            return
        key, value = entry
        flags = {None: 0, False: _NOEXIST, True: _EXIST}[exist]
        self._call(
            "bpf_map_update_elem",
            self._key.encode(key),
            self._value.encode(value),
            flags,
            verb="set",
        )

    def lookup_and_delete(self, key: Any) -> Any:
        """Return the value of a key and delete the entry, in one step of the kernel (5.14).

        Raises `KeyError` where there is none.
        """
        value = self._take("bpf_map_lookup_and_delete_elem", self._key.encode(key))
        if value is None:
            raise self._missing(key)
        return value

    def total(self, key: Any) -> Any:
        """Return the sum of a per-CPU value over all CPUs; of a struct or an array, of each number.

        Raises `TypeError` for a map of another type, and for values that are no numbers.
        """
        if not isinstance(self._value, PerCpuCodec):
            raise TypeError(f"map {self.name} is no per-CPU map, it has one value for a key")
        return reduce(_sum, self[key])

    def push(self, value: Any, *, exist: bool | None = None) -> None:
        """Put a value into a queue or a stack (4.20), or a bloom filter (5.16).

        Raises `BpfError` with E2BIG where it is full; with `exist=True` the oldest value goes.
        """
        flags = _EXIST if exist else 0
        self._call("bpf_map_update_elem", None, self._value.encode(value), flags, verb="push to")

    def pop(self, *key: Any) -> Any:
        """Take the next value of a queue or a stack; of other maps as `dict.pop`.

        Raises `IndexError` where there is none.
        """
        if key or self.type not in _WITHOUT_KEYS:
            return super().pop(*key)
        return self._next("bpf_map_lookup_and_delete_elem")

    def peek(self) -> Any:
        """Return the next value of a queue or a stack, which stays. Raises `IndexError`."""
        return self._next("bpf_map_lookup_elem")

    def reading(self, type_name: str = "", *, allow_lost: bool = False) -> Events:
        """Read the events that programs write: `with map.reading("struct event") as events`.

        Of a ring buffer (5.8) or a perf event array (4.3), in the order in which they were written.
        The type is one of the object's BTF, by its name in C; without it events are bytes, those of
        a perf event array with up to 7 zeros behind them. Other readers of the map get none.

        Raises `UnknownName` for a type that the object does not have, `TypeError` for a map of
        another type, `BpfError`.
        """
        decoder = decoder_of(self._owner.btf, type_name) if type_name else None
        source = open_source(
            self.type,
            self.fd,
            name=self.name,
            size=self.max_entries,
            flags=self.flags,
            smallest=decoder.size if decoder else 0,
        )
        return Events(
            source, self.name, btf=self._owner.btf, decoder=decoder, allow_lost=allow_lost
        )

    def writing(self, type_name: str = "") -> EventWriter:
        """Write events for programs to a user ring buffer (6.1): `with map.writing(...) as writer`.

        Raises as `reading()`, and `NotSupported` with a libbpf before 1.1.
        """
        if self.type is not MapType.USER_RINGBUF:
            raise TypeError(f"map {self.name} is no user ring buffer, but {self.type.name}")
        kind = find_type(self._owner.btf, type_name) if type_name else None
        return EventWriter(self.fd, self.name, kind)

    def clear(self) -> None:
        """Delete all entries that the map has now."""
        for key in self.raw_keys():
            self._try("bpf_map_delete_elem", key, verb="delete from")

    def items(self) -> ItemsView[Any, Any]:
        """Return a view of the entries; it leaves out those that vanish while it is read."""
        return _Items(self)

    def values(self) -> ValuesView[Any]:
        """Return a view of the values; it leaves out those that vanish while it is read."""
        return _Values(self)

    def __contains__(self, key: object) -> bool:
        """Whether there is such a key; of a bloom filter, whether a value may be in it."""
        if self.type is MapType.BLOOM_FILTER:
            value = ctypes.create_string_buffer(self._value.encode(key), self._value.buffer_size)
            return self._try("bpf_map_lookup_elem", None, value, verb="look up in")
        return super().__contains__(key)

    def __getitem__(self, key: Any) -> Any:
        value = self._look_up(self._key.encode(key))
        if value is None:
            raise self._missing(key)
        return self._value.decode(value)

    def __setitem__(self, key: Any, value: Any) -> None:
        self._call(
            "bpf_map_update_elem", self._key.encode(key), self._value.encode(value), 0, verb="set"
        )

    def __delitem__(self, key: Any) -> None:
        if not self._try("bpf_map_delete_elem", self._key.encode(key), verb="delete from"):
            raise self._missing(key)

    def __iter__(self) -> Iterator[Any]:
        return map(self._key.decode, self.raw_keys())

    def __len__(self) -> int:
        return len(self.raw_keys())

    def __eq__(self, other: object) -> bool:
        return self is other

    def __hash__(self) -> int:
        return id(self)

    def __repr__(self) -> str:
        return f"<Map {self.name}>"

    def _entries(self) -> Iterator[tuple[Any, Any]]:
        for key in self.raw_keys():
            value = self._look_up(key)
            if value is not None:
                yield self._key.decode(key), self._value.decode(value)

    def _next(self, function: str) -> Any:
        value = self._take(function, None)
        if value is None:
            raise IndexError(f"map {self.name} is empty")
        return value

    def _take(self, function: str, key: bytes | None) -> Any:
        value = ctypes.create_string_buffer(self._value.buffer_size)
        found = self._try(function, key, value, verb="look up in")
        return self._value.decode(value.raw) if found else None

    def _look_up(self, key: bytes) -> bytes | None:
        value = ctypes.create_string_buffer(self._value.buffer_size)
        found = self._try("bpf_map_lookup_elem", key, value, verb="look up in")
        return value.raw if found else None

    def _is_filled(self, key: bytes) -> bool:
        try:
            return self._look_up(key) is not None
        except BpfError:  # of some types only programs can read an element
            return True

    def _missing(self, key: Any) -> KeyError:
        error = KeyError(key)
        if self._key.has_unseen_bytes and key in list(self):
            error.add_note(
                f"map {self.name} has an equal key with other bytes, as in padding that a program"
                " left dirty: look it up by a key of list(map), or by its bytes from raw_keys()"
            )
        return error

    @cached_property
    def _key(self) -> KeyCodec:
        type_id = self._ask("bpf_map__btf_key_type_id")
        return KeyCodec(self._owner.btf, type_id, self.key_size)

    @cached_property
    def _value(self) -> Codec:
        element = self._owner.btf, self._ask("bpf_map__btf_value_type_id"), self.value_size
        if self.type in _PER_CPU:
            cpus = libbpf.call("libbpf_num_possible_cpus", doing="count the possible CPUs")
            return PerCpuCodec(*element, cpus=cpus)
        return (ReferenceCodec if self.type in _REFERENCES else Codec)(*element)

    def _ask(self, function: str) -> int:
        return libbpf.call(function, self.pointer, doing=self._doing("ask about"))

    def _change(self, function: str, value: Any, *, verb: str) -> None:
        libbpf.call(function, self.pointer, value, doing=self._doing(verb))

    def _call(self, function: str, *arguments: Any, verb: str) -> None:
        libbpf.call(function, self.fd, *arguments, doing=self._doing(verb))

    def _try(self, function: str, *arguments: Any, verb: str) -> bool:
        """Call a function of libbpf; False where the kernel has no such key."""
        doing = self._doing(verb)
        result = libbpf.call(function, self.fd, *arguments, doing=doing, answer=errno.ENOENT)
        return result != -errno.ENOENT

    def _doing(self, verb: str) -> str:
        return f"{verb} map {self.name}"


def _sum(one: Any, other: Any) -> Any:
    if isinstance(one, dict):
        return {name: _sum(one[name], other[name]) for name in one}
    if isinstance(one, list):
        return [_sum(*both) for both in zip(one, other, strict=True)]
    return one + other


class _Items(ItemsView[Any, Any]):
    _mapping: Map

    def __iter__(self) -> Iterator[tuple[Any, Any]]:
        return self._mapping._entries()  # noqa: SLF001


class _Values(ValuesView[Any]):
    _mapping: Map

    def __iter__(self) -> Iterator[Any]:
        return (value for _, value in self._mapping._entries())  # noqa: SLF001
