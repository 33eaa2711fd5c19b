"""Maps that the kernel has, as mappings from keys to values."""

from __future__ import annotations

import ctypes
from collections.abc import ItemsView, MutableMapping, ValuesView
from functools import cached_property, reduce
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from pytest_bpflink.binding import libbpf
from pytest_bpflink.binding.opts import MapCreateOptions
from pytest_bpflink.binding.uapi import BpfNumber, MapType
from pytest_bpflink.bpf.descriptor import Handle, open_pin
from pytest_bpflink.bpf.events.events import Events
from pytest_bpflink.bpf.events.opening import decoder_of, find_type, open_source
from pytest_bpflink.bpf.events.user_ring_buffer import EventWriter
from pytest_bpflink.bpf.maps.elements import Elements
from pytest_bpflink.bpf.maps.map_elements import PerCpuCodec
from pytest_bpflink.bpf.maps.references import MapDescriptor
from pytest_bpflink.introspection.ids import note_made, open_by_id

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator

    from pytest_bpflink.bpf.maps.references import MapReference

_WITHOUT_KEYS = frozenset({MapType.QUEUE, MapType.STACK, MapType.BLOOM_FILTER})

_NOEXIST, _EXIST = 1, 2


class LoadedMap(Handle, MutableMapping[Any, Any]):
    """A map that the kernel has: a mapping from keys to values.

    Made by `Map.create()`, `Map.open()` and `Map.by_id()`, and then released by `close()` or the
    end of a `with` block; borrowed from a `Program` or a `Link` by `program.maps`; or, as a `Map`,
    borrowed from an `Object`.

    Keys and values are typed through BTF (see `binding.btf`), so an array's key is an `int`;
    without a BTF type those of 1, 2, 4 and 8 bytes are an `int`, and others `bytes`. A struct as a
    key is a `dict` that hashes; it keeps the bytes of its padding, without which the kernel does
    not find it. A key with other bytes that its value does not show, such as those behind the end
    of a string, is `bytes`.

    An iteration yields each key once, of those that the map has at its begin. Empty slots, as of a
    prog array, are no keys. In a slot is put a `Program`, a `Map`, a `Device` or a socket; it
    reads as the id that the kernel gives, or not at all.

    The value of a per-CPU map is a list, with one value for each possible CPU; it is set by such a
    list, or by one value for all, an array then as a tuple. See `total`, too.

    Queues, stacks and bloom filters have no keys: see `push`, `pop` and `peek`.

    A map of global variables (`.bss`, `.data`) has them by name: `map["counter"]`. Writing one
    leaves the others as they are. Its one element is a `dict` of them.

    The keys of local storage are what the values belong to: a socket, an open file, a `Cgroup`, the
    pidfd of a process (`os.pidfd_open`). They can't be listed.
    """

    _reference: MapReference

    def __init__(self, reference: MapReference, *, is_lent: bool = False) -> None:
        super().__init__(reference, is_lent=is_lent)
        self.name = reference.name
        """The map's name; libbpf names a map of global variables by object and section.

        The kernel keeps 15 characters of it, which is the name of a map that no `Object` has.
        """

    @classmethod
    def create(
        cls,
        kind: MapType,
        *,
        key_size: int,
        value_size: int,
        max_entries: int,
        flags: int = 0,
        name: str = "",
    ) -> Self:
        """Make a map without types, which lives until `close()` unless it is pinned.

        `flags` are `BPF_F_*`. Raises `BpfError`: EINVAL for what the type does not take, E2BIG or
        ENOMEM for too large a map, EPERM without the privilege.
        """
        fd = libbpf.call(
            "bpf_map_create",
            kind,
            name.encode(),
            key_size,
            value_size,
            max_entries,
            ctypes.byref(MapCreateOptions(map_flags=flags)),
            doing=f"create map {name or kind.name}",
        )
        created = cls(MapDescriptor(fd))
        note_made("map", created.id)
        return created

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Self:
        """Open a pinned map.

        Raises `BpfError`: ENOENT where there is no pin, EINVAL where a link or a program is pinned,
        EACCES where the file's mode refuses reading and writing.
        """
        return cls(MapDescriptor(open_pin("map", path)))

    @classmethod
    def by_id(cls, map_id: int) -> Self:
        """Open a map by its id (4.13; needs CAP_SYS_ADMIN).

        Raises `BpfError`: ENOENT for the id of a map that is gone, EPERM without the privilege.
        Closing a program array takes up to 50 ms, in which the kernel may still clear it.
        """
        return cls(MapDescriptor(open_by_id("map", map_id)))

    @property
    def id(self) -> int:
        """The kernel's id of the map."""
        return int(libbpf.read_info(self.fd, BpfNumber, doing=self._doing("ask about")).id)

    @property
    def type(self) -> MapType:
        """How the map keeps its values."""
        return self._reference.type

    @property
    def max_entries(self) -> int:
        """How many entries the map can have; of a ring buffer its size in bytes."""
        return self._reference.max_entries

    @property
    def flags(self) -> int:
        """The `BPF_F_*` with which the map is created."""
        return self._reference.flags

    @property
    def key_size(self) -> int:
        """Bytes of a key."""
        return self._reference.key_size

    @property
    def value_size(self) -> int:
        """Bytes of a value; of a per-CPU map, of the value of one CPU."""
        return self._reference.value_size

    def pin(self, path: str | os.PathLike[str]) -> None:
        """Pin the map in a BPF FS; the caller removes the file."""
        self._reference.pin(path, self._doing("pin", f" at {Path(path)}"))

    def raw_keys(self) -> list[bytes]:
        """Return the bytes of each key, as the kernel has them; the map takes them as keys, too."""
        return self._elements.keys()

    def update(self, *entry: Any, exist: bool | None = None, **entries: Any) -> None:
        """Set entries as `dict.update` does, or one: `update(key, value, exist=False)`.

        With `exist=True` the entry must be there (else `BpfError` with ENOENT), with `exist=False`
        it must not be there (else EEXIST).
        """
        if len(entry) != 2:
            super().update(*entry, **entries)
            return
        self._set(*entry, flags={None: 0, False: _NOEXIST, True: _EXIST}[exist])

    def lookup_and_delete(self, key: Any) -> Any:
        """Return the value of a key and delete the entry, in one step of the kernel (5.14).

        Of hashes only. Raises `KeyError` where there is none.
        """
        value = self._elements.take(self._elements.key.encode(key))
        if value is None:
            raise self._missing(key)
        return self._elements.value.decode(value)

    def total(self, key: Any) -> Any:
        """Return the sum of a per-CPU value over all CPUs; of a struct or an array, of each number.

        Raises `TypeError` for a map of another type, and for values that are no numbers.
        """
        if not isinstance(self._elements.value, PerCpuCodec):
            raise TypeError(f"map {self.name} is no per-CPU map, it has one value for a key")
        return reduce(_sum, self[key])

    def push(self, value: Any, *, exist: bool | None = None) -> None:
        """Put a value into a queue or a stack (4.20), or a bloom filter (5.16).

        Raises `BpfError` with E2BIG where it is full; with `exist=True` the oldest value goes.
        """
        encoded = self._elements.value.encode(value)
        self._elements.set(None, encoded, _EXIST if exist else 0, verb="push to")

    def pop(self, *key: Any) -> Any:
        """Take the next value of a queue or a stack; of other maps as `dict.pop`.

        Raises `IndexError` where there is none.
        """
        if key or self.type not in _WITHOUT_KEYS:
            return super().pop(*key)
        return self._next(self._elements.take(None))

    def peek(self) -> Any:
        """Return the next value of a queue or a stack, which stays. Raises `IndexError`."""
        return self._next(self._elements.look_up(None))

    def reading(self, type_name: str = "", *, allow_lost: bool = False) -> Events:
        """Read the events that programs write: `with map.reading("struct event") as events`.

        Of a ring buffer (5.8) or a perf event array (4.3), in the order in which they were written.
        The type is one of the object's BTF, by its name in C; without it events are bytes, those of
        a perf event array with up to 7 zeros behind them. Other readers of the map get none.

        Raises `UnknownName` for a type that the object does not have, `TypeError` for a map of
        another type, `BpfError`.
        """
        decoder = decoder_of(self._reference.btf, type_name) if type_name else None
        source = open_source(
            self.type,
            self.fd,
            name=self.name,
            size=self.max_entries,
            flags=self.flags,
            smallest=decoder.size if decoder else 0,
        )
        return Events(
            source, self.name, btf=self._reference.btf, decoder=decoder, allow_lost=allow_lost
        )

    def writing(self, type_name: str = "") -> EventWriter:
        """Write events for programs to a user ring buffer (6.1): `with map.writing(...) as writer`.

        Raises as `reading()`, and `NotSupported` with a libbpf before 1.1.
        """
        if self.type is not MapType.USER_RINGBUF:
            raise TypeError(f"map {self.name} is no user ring buffer, but {self.type.name}")
        kind = find_type(self._reference.btf, type_name) if type_name else None
        return EventWriter(self.fd, self.name, kind)

    def clear(self) -> None:
        """Delete all entries that the map has now."""
        for key in self.raw_keys():
            self._elements.delete(key)

    def items(self) -> ItemsView[Any, Any]:
        """Return a view of the entries; it leaves out those that vanish before they are read.

        Hashes and arrays are read in batches (5.6; per-CPU arrays 5.13), so `dict(map.items())` is
        much faster than `dict(map)`, which looks each key up.
        """
        return _Items(self)

    def values(self) -> ValuesView[Any]:
        """Return a view of the values, read as those of `items()`."""
        return _Values(self)

    def __contains__(self, key: object) -> bool:
        """Whether there is such a key; of a bloom filter, whether a value may be in it."""
        if self.type is MapType.BLOOM_FILTER:
            return self._elements.has(self._elements.value.encode(key))
        return super().__contains__(key)

    def __getitem__(self, key: Any) -> Any:
        if isinstance(key, str) and self._reference.variables is not None:
            return self._reference.variables[key]
        value = self._elements.look_up(self._elements.key.encode(key))
        if value is None:
            raise self._missing(key)
        return self._elements.value.decode(value)

    def __setitem__(self, key: Any, value: Any) -> None:
        if isinstance(key, str) and self._reference.variables is not None:
            self._reference.variables[key] = value
        else:
            self._set(key, value, flags=0)

    def __delitem__(self, key: Any) -> None:
        if not self._elements.delete(self._elements.key.encode(key)):
            raise self._missing(key)

    def __iter__(self) -> Iterator[Any]:
        return map(self._elements.key.decode, self.raw_keys())

    def __len__(self) -> int:
        return len(self.raw_keys())

    def __eq__(self, other: object) -> bool:
        return self is other

    def __hash__(self) -> int:
        return id(self)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name}>"

    def _entries(self) -> Iterator[tuple[Any, Any]]:
        key, value = self._elements.key.decode, self._elements.value.decode
        return ((key(one), value(other)) for one, other in self._elements.items())

    def _set(self, key: Any, value: Any, *, flags: int) -> None:
        elements = self._elements
        elements.set(elements.key.encode(key), elements.value.encode(value), flags)

    def _next(self, value: bytes | None) -> Any:
        if value is None:
            raise IndexError(f"map {self.name} is empty")
        return self._elements.value.decode(value)

    def _missing(self, key: Any) -> KeyError:
        error = KeyError(key)
        if self._elements.key.has_unseen_bytes and key in list(self):
            error.add_note(
                f"map {self.name} has an equal key with other bytes, as in padding that a program"
                " left dirty: look it up by a key of list(map), or by its bytes from raw_keys()"
            )
        return error

    @cached_property
    def _elements(self) -> Elements:
        return Elements(self._reference)

    def _doing(self, verb: str, rest: str = "") -> str:
        return f"{verb} map {self.name}{rest}"


def _sum(one: Any, other: Any) -> Any:
    if isinstance(one, dict):
        return {name: _sum(one[name], other[name]) for name in one}
    if isinstance(one, list):
        return [_sum(*both) for both in zip(one, other, strict=True)]
    return one + other


class _Items(ItemsView[Any, Any]):
    _mapping: LoadedMap

    def __iter__(self) -> Iterator[tuple[Any, Any]]:
        return self._mapping._entries()  # noqa: SLF001


class _Values(ValuesView[Any]):
    _mapping: LoadedMap

    def __iter__(self) -> Iterator[Any]:
        return (value for _, value in self._mapping._entries())  # noqa: SLF001
