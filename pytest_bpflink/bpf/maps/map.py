"""Maps of BPF objects: chosen before they are loaded, and attached where they are struct_ops."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from pytest_bpflink.binding import libbpf
from pytest_bpflink.binding.uapi import BpfNumber, MapType
from pytest_bpflink.bpf.handles import ObjectHandle
from pytest_bpflink.bpf.link import attached
from pytest_bpflink.bpf.maps.loaded_map import LoadedMap
from pytest_bpflink.errors import BpfError, NotSupported
from pytest_bpflink.introspection.ids import note_made

if TYPE_CHECKING:
    from pytest_bpflink.binding.btf import Btf
    from pytest_bpflink.bpf.link import Link
    from pytest_bpflink.bpf.maps.global_variables import Globals


class Owner(ObjectHandle, Protocol):
    """The object that a map is borrowed from."""

    def variables_in(self, map_name: str) -> Globals | None:
        """Return the global variables in a map of the object; None for any other map."""


class LibbpfMap:
    """A map of an object, as libbpf knows it."""

    is_open = False
    """The object has it."""

    def __init__(self, owner: Owner, pointer: int) -> None:
        self._owner = owner
        self._pointer = pointer
        self.name = libbpf.text("bpf_map__name", pointer) or ""

    @property
    def pointer(self) -> int:
        """The `struct bpf_map *`. Raises `BpfError` with EBADF after the object is closed."""
        _ = self._owner.pointer
        return self._pointer

    @property
    def loaded(self) -> bool:
        """Whether the kernel has the map."""
        return self._owner.loaded

    @property
    def fd(self) -> int:
        """The map's descriptor. Raises `BpfError` before the object is loaded."""
        return self._ask("bpf_map__fd")

    @property
    def type(self) -> MapType:
        """How the map keeps its values."""
        return MapType(self._ask("bpf_map__type"))

    @property
    def max_entries(self) -> int:
        """How many entries the map can have."""
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
        """Bytes of a value."""
        return self._ask("bpf_map__value_size")

    @property
    def btf(self) -> Btf | None:
        """The object's types."""
        return self._owner.btf

    @property
    def key_type(self) -> int:
        """The BTF type of keys; 0 for none."""
        return self._ask("bpf_map__btf_key_type_id")

    @property
    def value_type(self) -> int:
        """The BTF type of values; 0 for none."""
        return self._ask("bpf_map__btf_value_type_id")

    @property
    def variables(self) -> Globals | None:
        """The global variables in the map; None for any other map."""
        return self._owner.variables_in(self.name)

    def pin(self, path: str | os.PathLike[str], doing: str) -> None:
        """Pin the map."""
        number = libbpf.read_info(self.fd, BpfNumber, doing=doing).id
        note_made("map", number)
        libbpf.call("bpf_map__pin", self.pointer, os.fsencode(path), doing=doing)

    def close(self) -> None:
        """Nothing: closing the object closes the map."""

    def _ask(self, function: str) -> int:
        return libbpf.call(function, self.pointer, doing=f"ask about map {self.name}")


class Map(LoadedMap):
    """A map of an `Object`, borrowed from it; or one that is opened or made, and closed.

    What is chosen before loading, and attaching, need an `Object`: for another map they raise
    `BpfError` with EINVAL.
    """

    @property
    def loaded(self) -> bool:
        """Whether the kernel has the map."""
        return self._reference.loaded

    @property
    def is_internal(self) -> bool:
        """Whether the map holds global variables."""
        if not self.pointer:
            return self._reference.variables is not None
        return bool(self._ask("bpf_map__is_internal"))

    def set_max_entries(self, number: int) -> None:
        """Choose, before `Object.load()`, how many entries the map can have.

        Raises `BpfError` with EBUSY once it is loaded.
        """
        self._change("bpf_map__set_max_entries", number, verb=f"set max_entries to {number} of")

    @property
    def pin_path(self) -> Path | None:
        """Where loading pins the map, or finds it pinned (`LIBBPF_PIN_BY_NAME`); None: nowhere."""
        path = libbpf.text("bpf_map__pin_path", self.pointer) if self.pointer else None
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
        pointer = libbpf.call("bpf_map__attach_struct_ops", self._of_object(doing), doing=doing)
        try:
            return attached(pointer, self.name)
        except BpfError as error:
            # Without BPF_F_LINK libbpf's `struct bpf_link *` has the descriptor of the map.
            refusal = NotSupported(f"attach {self.name} by a BPF link", since="Linux 6.4", here="")
            refusal.hint = 'needs Linux 6.4, libbpf 1.2, and a map in SEC(".struct_ops.link")'
            raise refusal from error

    def _ask(self, function: str) -> int:
        doing = self._doing("ask about")
        return libbpf.call(function, self._of_object(doing), doing=doing)

    def _change(self, function: str, value: Any, *, verb: str) -> None:
        doing = self._doing(verb)
        libbpf.call(function, self._of_object(doing), value, doing=doing)

    def _of_object(self, doing: str) -> int:
        """Return the `struct bpf_map *`. Raises `BpfError` with EINVAL where there is none."""
        if not self.pointer:
            raise BpfError(errno.EINVAL, doing, hint="that takes a map of an Object")
        return self.pointer
