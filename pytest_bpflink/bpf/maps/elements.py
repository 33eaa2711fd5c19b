"""The elements of a map in the kernel: read, set and deleted as bytes, one by one or in batches."""

from __future__ import annotations

import ctypes
import errno
from functools import cached_property
from typing import TYPE_CHECKING, Any

from pytest_bpflink.binding import libbpf
from pytest_bpflink.binding.uapi import MapType
from pytest_bpflink.bpf.maps.batches import BATCHED, in_batches
from pytest_bpflink.bpf.maps.map_elements import (
    Codec,
    DescriptorKeyCodec,
    KeyCodec,
    PerCpuCodec,
    ReferenceCodec,
    SectionCodec,
)
from pytest_bpflink.errors import BpfError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_bpflink.bpf.maps.references import MapReference

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

# Each value belongs to a socket, an inode, a task or a cgroup.
_STORAGES = frozenset(
    {MapType.SK_STORAGE, MapType.INODE_STORAGE, MapType.TASK_STORAGE, MapType.CGRP_STORAGE}
)

# Bytes of a value. To list keys in batches, the values are read, too.
_SMALL_VALUE = 4096


class Elements:
    """The elements of one map, and how its keys and values are converted."""

    def __init__(self, reference: MapReference) -> None:
        self._reference = reference

    @cached_property
    def key(self) -> KeyCodec:
        """Converts keys."""
        map_ = self._reference
        kind = DescriptorKeyCodec if map_.type in _STORAGES else KeyCodec
        return kind(map_.btf, map_.key_type, map_.key_size)

    @cached_property
    def value(self) -> Codec:
        """Converts values."""
        map_ = self._reference
        variables = map_.btf.variables(map_.value_type) if map_.btf else None
        if variables is not None and map_.btf:
            return SectionCodec(map_.btf, variables, map_.value_size)
        element = map_.btf, map_.value_type, map_.value_size
        if map_.type in _PER_CPU:
            cpus = libbpf.call("libbpf_num_possible_cpus", doing="count the possible CPUs")
            return PerCpuCodec(*element, cpus=cpus)
        return (ReferenceCodec if map_.type in _REFERENCES else Codec)(*element)

    def keys(self) -> list[bytes]:
        """Return each key once, without those of empty slots. Raises `BpfError`."""
        if self.value.buffer_size <= _SMALL_VALUE:
            batches = self._in_batches()
            if batches is not None:
                return [key for key, _ in batches]
        keys: dict[bytes, None] = {}
        here: bytes | None = None
        following = ctypes.create_string_buffer(self.key.size)
        while self._get_next_key(here, following):
            # The kernel begins anew if the key was deleted in the meantime.
            here = following.raw
            keys[here] = None
        if self._reference.type in _SLOTS:
            return [key for key in keys if self._is_filled(key)]
        return list(keys)

    def items(self) -> Iterator[tuple[bytes, bytes]]:
        """Yield keys and values, those that vanish meanwhile left out. Raises `BpfError`."""
        batches = self._in_batches()
        if batches is not None:
            yield from batches
            return
        for key in self.keys():
            value = self.look_up(key)
            if value is not None:
                yield key, value

    def look_up(self, key: bytes | None) -> bytes | None:
        """Return the value of a key; None for none. Raises `BpfError`."""
        return self._read("bpf_map_lookup_elem", key)

    def take(self, key: bytes | None) -> bytes | None:
        """Return the value of a key and delete it; None for none. Raises `BpfError`."""
        return self._read("bpf_map_lookup_and_delete_elem", key)

    def has(self, value: bytes) -> bool:
        """Whether a value may be in a bloom filter. Raises `BpfError`."""
        buffer = ctypes.create_string_buffer(value, self.value.buffer_size)
        return self._try("bpf_map_lookup_elem", None, buffer, verb="look up in")

    def set(self, key: bytes | None, value: bytes, flags: int, *, verb: str = "set") -> None:
        """Set the value of a key. Raises `BpfError`."""
        arguments = self._reference.fd, key, value, flags
        libbpf.call("bpf_map_update_elem", *arguments, doing=self._doing(verb))

    def delete(self, key: bytes) -> bool:
        """Delete a key; False where there is none. Raises `BpfError`."""
        return self._try("bpf_map_delete_elem", key, verb="delete from")

    def _read(self, function: str, key: bytes | None) -> bytes | None:
        value = ctypes.create_string_buffer(self.value.buffer_size)
        found = self._try(function, key, value, verb="look up in")
        return value.raw if found else None

    def _get_next_key(self, here: bytes | None, following: ctypes.Array[ctypes.c_char]) -> bool:
        try:
            return self._try("bpf_map_get_next_key", here, following, verb="iterate over")
        except BpfError as error:
            if self._reference.type in _STORAGES:
                error.hint = "values of local storage are looked up by a descriptor, not listed"
            raise

    def _is_filled(self, key: bytes) -> bool:
        try:
            return self.look_up(key) is not None
        except BpfError:  # of some types only programs can read an element
            return True

    def _in_batches(self) -> Iterator[tuple[bytes, bytes]] | None:
        """Return the entries; None where the kernel has no batches for the map."""
        map_ = self._reference
        if map_.type not in BATCHED:
            return None
        sizes = map_.key_size, self.value.buffer_size
        return in_batches(map_.fd, sizes, map_.max_entries, doing=self._doing("iterate over"))

    def _try(self, function: str, *arguments: Any, verb: str) -> bool:
        """Call a function of libbpf; False where the kernel has no such key."""
        call, doing = libbpf.call, self._doing(verb)
        result = call(function, self._reference.fd, *arguments, doing=doing, answer=errno.ENOENT)
        return result != -errno.ENOENT

    def _doing(self, verb: str) -> str:
        return f"{verb} map {self._reference.name}"
