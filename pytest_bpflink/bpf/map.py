"""Maps of BPF objects, as mappings from keys to values."""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import ItemsView, MutableMapping, ValuesView
from functools import cached_property
from typing import TYPE_CHECKING, Any

from pytest_bpflink.binding import libbpf
from pytest_bpflink.binding.uapi import BpfMapInfo
from pytest_bpflink.bpf.link import attached
from pytest_bpflink.bpf.map_elements import Codec, KeyCodec
from pytest_bpflink.errors import BpfError, NotSupported
from pytest_bpflink.introspection.ids import note_made

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_bpflink.bpf.handles import ObjectHandle
    from pytest_bpflink.bpf.link import Link

# PERCPU_HASH, PERCPU_ARRAY, LRU_PERCPU_HASH and PERCPU_CGROUP_STORAGE of enum bpf_map_type.
_PER_CPU_MAPS = frozenset({5, 6, 10, 21})

# PROG_ARRAY, PERF_EVENT_ARRAY, CGROUP_ARRAY, ARRAY_OF_MAPS, DEVMAP, SOCKMAP, CPUMAP, XSKMAP and
# REUSEPORT_SOCKARRAY: BPF_MAP_GET_NEXT_KEY gives the index of each slot, also of the empty ones.
_MAPS_OF_SLOTS = frozenset({3, 4, 8, 12, 14, 15, 16, 17, 20})


class Map(MutableMapping[Any, Any]):
    """A map of an `Object`, borrowed from it: a mapping from keys to values.

    Keys and values are typed through BTF (see `binding.btf`), so an array's key is an `int`;
    keys and values without a BTF type are `bytes`. A struct as a key is a `dict` that hashes; it
    keeps the bytes of its padding, without which the kernel does not find it. A key with other
    bytes that its value does not show, such as those behind the end of a string, is `bytes`.

    An iteration yields each key once, of those that the map has at its begin. Empty slots, as of a
    prog array, are no keys. A per-CPU map has a value for each processor, and raises `BpfError`
    with EOPNOTSUPP.
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
    def loaded(self) -> bool:
        """Whether the kernel has the map."""
        return self._owner.loaded

    @property
    def is_internal(self) -> bool:
        """Whether the map holds global variables."""
        return bool(self._ask("bpf_map__is_internal"))

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
        if self._ask("bpf_map__type") in _MAPS_OF_SLOTS:
            return [key for key in keys if self._is_filled(key)]
        return list(keys)

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

    def _look_up(self, key: bytes) -> bytes | None:
        value = ctypes.create_string_buffer(self._value.size)
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
        return KeyCodec(self._owner.btf, type_id, self._ask("bpf_map__key_size"))

    @cached_property
    def _value(self) -> Codec:
        # The kernel would write a value for each processor into a buffer for one.
        if self._ask("bpf_map__type") in _PER_CPU_MAPS:
            hint = "a per-CPU map has a value for each processor: no access to it is implemented"
            raise BpfError(errno.EOPNOTSUPP, self._doing("use"), hint=hint)
        type_id = self._ask("bpf_map__btf_value_type_id")
        return Codec(self._owner.btf, type_id, self._ask("bpf_map__value_size"))

    def _ask(self, function: str) -> int:
        return libbpf.call(function, self.pointer, doing=self._doing("ask about"))

    def _call(self, function: str, *arguments: Any, verb: str) -> None:
        libbpf.call(function, self.fd, *arguments, doing=self._doing(verb))

    def _try(self, function: str, *arguments: Any, verb: str) -> bool:
        """Call a function of libbpf; False where the kernel has no such key."""
        doing = self._doing(verb)
        result = libbpf.call(function, self.fd, *arguments, doing=doing, answer=errno.ENOENT)
        return result != -errno.ENOENT

    def _doing(self, verb: str) -> str:
        return f"{verb} map {self.name}"


class _Items(ItemsView[Any, Any]):
    _mapping: Map

    def __iter__(self) -> Iterator[tuple[Any, Any]]:
        return self._mapping._entries()  # noqa: SLF001


class _Values(ValuesView[Any]):
    _mapping: Map

    def __iter__(self) -> Iterator[Any]:
        return (value for _, value in self._mapping._entries())  # noqa: SLF001
