"""What a map is known by: libbpf's structure, or a descriptor."""

from __future__ import annotations

import os
import time
from functools import cached_property
from typing import TYPE_CHECKING, Protocol

from pytest_bpflink.binding import libbpf
from pytest_bpflink.binding.kernel_btf import types_by_id
from pytest_bpflink.binding.uapi import BpfMapInfo, MapType
from pytest_bpflink.bpf.descriptor import Descriptor, Reference
from pytest_bpflink.bpf.maps.global_variables import Globals

if TYPE_CHECKING:
    from pytest_bpflink.binding.btf import Btf

# Seconds in which the kernel surely has cleared a program array whose last descriptor went.
_CLEARED = 0.05


class MapReference(Reference, Protocol):
    """A map that the kernel has, or will have when an object is loaded."""

    @property
    def type(self) -> MapType:
        """How the map keeps its values."""

    @property
    def max_entries(self) -> int:
        """How many entries the map can have."""

    @property
    def flags(self) -> int:
        """The `BPF_F_*` with which the map is created."""

    @property
    def key_size(self) -> int:
        """Bytes of a key."""

    @property
    def value_size(self) -> int:
        """Bytes of a value."""

    @property
    def key_type(self) -> int:
        """The BTF type of keys; 0 for none."""

    @property
    def value_type(self) -> int:
        """The BTF type of values; 0 for none."""

    @property
    def variables(self) -> Globals | None:
        """The global variables in the map; None for any other map."""

    @property
    def loaded(self) -> bool:
        """Whether the kernel has the map."""


class MapDescriptor(Descriptor):
    """A map by a descriptor. What it is, the kernel says."""

    def __init__(self, fd: int) -> None:
        try:
            info = libbpf.read_info(fd, BpfMapInfo, doing="ask what a map is")
        except BaseException:
            os.close(fd)
            raise
        super().__init__("map", fd, info.id)
        self._opened = time.monotonic()
        self.name: str = info.name.decode(errors="replace")
        self.type = MapType(info.type)
        self.max_entries: int = info.max_entries
        self.flags: int = info.map_flags
        self.key_size: int = info.key_size
        self.value_size: int = info.value_size
        self.key_type: int = info.btf_key_type_id
        self.value_type: int = info.btf_value_type_id
        self._btf_id: int = info.btf_id

    @cached_property
    def btf(self) -> Btf | None:
        """The map's own BTF. Raises `BpfError` with EPERM without CAP_SYS_ADMIN."""
        return types_by_id(self._btf_id) if self._btf_id else None

    @cached_property
    def variables(self) -> Globals | None:
        """The global variables in the map; None for any other map."""
        found = self.btf.variables(self.value_type) if self.btf and self.value_type else None
        if found is None or self.btf is None:
            return None
        return Globals(f"{self.btf.name(self.value_type)} of map {self.id}", self, self.btf, found)

    def close(self) -> None:
        """Close the descriptor; of a program array not before the kernel has cleared it.

        Clearing is deferred when the last descriptor goes. If one that was opened by id meanwhile
        is closed before that is done, the kernel keeps the map for good (see `ids`).
        """
        if not self.is_open:
            return
        if self.type is MapType.PROG_ARRAY:
            time.sleep(max(0.0, self._opened + _CLEARED - time.monotonic()))
        if "variables" in self.__dict__ and self.variables is not None:
            self.variables.release()
        super().close()
