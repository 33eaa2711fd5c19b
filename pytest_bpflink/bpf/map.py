"""Maps of BPF objects, as mappings from keys to values."""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import MutableMapping
from functools import cached_property
from typing import TYPE_CHECKING, Any

from pytest_bpflink.binding import libbpf
from pytest_bpflink.binding.uapi import BpfMapInfo
from pytest_bpflink.bpf.link import attached
from pytest_bpflink.errors import BpfError, NotSupported
from pytest_bpflink.introspection.ids import note_made

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_bpflink.binding.btf import Btf
    from pytest_bpflink.bpf.handles import ObjectHandle
    from pytest_bpflink.bpf.link import Link

# PERCPU_HASH, PERCPU_ARRAY, LRU_PERCPU_HASH and PERCPU_CGROUP_STORAGE of enum bpf_map_type.
_PER_CPU_MAPS = frozenset({5, 6, 10, 21})


class Map(MutableMapping[Any, Any]):
    """A map of an `Object`, borrowed from it: a mapping from keys to values.

    Keys and values are typed through BTF (see `binding.btf`), so an array's key is an `int`;
    keys and values without a BTF type are `bytes`. A per-CPU map has a value for each processor,
    and raises `BpfError` with EOPNOTSUPP.
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

    def __getitem__(self, key: Any) -> Any:
        value = ctypes.create_string_buffer(self._value.size)
        try:
            self._call("bpf_map_lookup_elem", self._key.encode(key), value, verb="look up in")
        except BpfError as error:
            if error.errno == errno.ENOENT:
                raise KeyError(key) from error
            raise
        return self._value.decode(value.raw)

    def __setitem__(self, key: Any, value: Any) -> None:
        self._call(
            "bpf_map_update_elem", self._key.encode(key), self._value.encode(value), 0, verb="set"
        )

    def __delitem__(self, key: Any) -> None:
        try:
            self._call("bpf_map_delete_elem", self._key.encode(key), verb="delete from")
        except BpfError as error:
            if error.errno == errno.ENOENT:
                raise KeyError(key) from error
            raise

    def __iter__(self) -> Iterator[Any]:
        here: bytes | None = None
        while True:
            following = ctypes.create_string_buffer(self._key.size)
            try:
                self._call("bpf_map_get_next_key", here, following, verb="iterate over")
            except BpfError as error:
                if error.errno == errno.ENOENT:
                    return
                raise
            here = following.raw
            yield self._key.decode(here)

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __eq__(self, other: object) -> bool:
        return self is other

    def __hash__(self) -> int:
        return id(self)

    def __repr__(self) -> str:
        return f"<Map {self.name}>"

    @cached_property
    def _key(self) -> _Codec:
        return self._codec("bpf_map__btf_key_type_id", "bpf_map__key_size")

    @cached_property
    def _value(self) -> _Codec:
        # The kernel would write a value for each processor into a buffer for one.
        if self._ask("bpf_map__type") in _PER_CPU_MAPS:
            hint = "a per-CPU map has a value for each processor: no access to it is implemented"
            raise BpfError(errno.EOPNOTSUPP, self._doing("use"), hint=hint)
        return self._codec("bpf_map__btf_value_type_id", "bpf_map__value_size")

    def _codec(self, type_function: str, size_function: str) -> _Codec:
        return _Codec(self._owner.btf, self._ask(type_function), self._ask(size_function))

    def _ask(self, function: str) -> int:
        return libbpf.call(function, self.pointer, doing=self._doing("ask about"))

    def _call(self, function: str, *arguments: Any, verb: str) -> None:
        libbpf.call(function, self.fd, *arguments, doing=self._doing(verb))

    def _doing(self, verb: str) -> str:
        return f"{verb} map {self.name}"


class _Codec:
    """Converts keys or values of a map to Python values, and back."""

    def __init__(self, btf: Btf | None, type_id: int, size: int) -> None:
        self.size = size
        self._btf = btf if type_id else None
        self._type_id = type_id

    def decode(self, data: bytes) -> Any:
        return self._btf.decode(self._type_id, data) if self._btf else data

    def encode(self, value: Any) -> bytes:
        if isinstance(value, bytes) and len(value) == self.size:
            return value
        if self._btf is None:
            raise TypeError(f"needs {self.size} bytes, since it has no BTF type; not {value!r}")
        return self._btf.encode(self._type_id, value, bytes(self.size))
