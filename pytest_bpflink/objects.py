"""A BPF object file, its programs and maps, and its global variables by name.

`Object.open()` reads the file, `load()` hands it to the kernel; in between, `rodata` can be
written. Programs and maps borrow from their object: they are of no use once it is closed.
"""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import MutableMapping
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from pytest_bpflink import libbpf
from pytest_bpflink.btf import Btf
from pytest_bpflink.compile import object_of
from pytest_bpflink.errors import BpfError, by_name
from pytest_bpflink.ids import note_made
from pytest_bpflink.uapi import AttachType, BpfMapInfo, BpfProgInfo, ProgType
from pytest_bpflink.variables import Globals

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_bpflink.link import Link

# PERCPU_HASH, PERCPU_ARRAY, LRU_PERCPU_HASH and PERCPU_CGROUP_STORAGE of enum bpf_map_type.
_PER_CPU_MAPS = frozenset({5, 6, 10, 21})
_ELF_MAGIC = b"\x7fELF"


class Object:
    """A BPF object: a `.bpf.o` file, opened and perhaps loaded.

    Lives until `close()` or the end of a `with` block. Then its programs and maps go, except those
    that a link, a pin or another descriptor still holds.
    """

    def __init__(self, pointer: int, path: Path) -> None:
        self._pointer: int | None = pointer
        self.path = path
        """The file that it was opened from, as it was named."""
        self.loaded = False
        """Whether the kernel has its programs and maps."""

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Self:
        """Read a `.bpf.o`, or compile a `.bpf.c` and read that; the kernel is not asked yet.

        Raises `BpfError`: ENOENT where there is no file, EINVAL or an errno of libbpf's own for a
        file that is no BPF object; `CompileError` for a source that clang refuses.
        """
        doing = f"open BPF object {Path(path)}"
        file = object_of(path)
        _require_elf(file, doing)
        pointer = libbpf.call("bpf_object__open_file", os.fsencode(file), None, doing=doing)
        return cls(pointer, Path(path))

    def load(self) -> Self:
        """Hand its programs and maps to the kernel, and return the object itself.

        Raises `VerifierError` when the verifier refuses a program, `BpfError` for anything else;
        the object can't be loaded again then.
        """
        libbpf.call("bpf_object__load", self.pointer, doing=f"load BPF object {self.path}")
        self.loaded = True
        return self

    def close(self) -> None:
        """Release everything that it holds; idempotent."""
        if self._pointer is None:
            return
        pointer, self._pointer = self._pointer, None
        self.__dict__.pop("programs", None)
        for name in ("bss", "data", "rodata"):
            section = self.__dict__.pop(name, None)
            if section is not None:
                section.release()
        libbpf.call("bpf_object__close", pointer, doing=f"close {self.path}")

    @property
    def pointer(self) -> int:
        """The `struct bpf_object *`. Raises `BpfError` with EBADF after `close()`."""
        if self._pointer is None:
            raise BpfError(errno.EBADF, f"use BPF object {self.path}", hint="it was closed")
        return self._pointer

    def program(self, name: str) -> Program:
        """Return a program by the name of its function.

        Raises `UnknownName`, which says which there are.
        """
        return by_name("program", name, self.programs, self.path)

    def map(self, name: str) -> Map:
        """Return a map by its name. Raises `UnknownName`, which says which there are."""
        return by_name("map", name, self.maps, self.path)

    @cached_property
    def programs(self) -> dict[str, Program]:
        """All its programs, by the names of their functions."""
        each = _each("bpf_object__next_program", self.pointer)
        return {program.name: program for program in (Program(self, one) for one in each)}

    @property
    def maps(self) -> dict[str, Map]:
        """All its maps by name, those of libbpf's own making (`.bss`, `.rodata`) included."""
        each = _each("bpf_object__next_map", self.pointer)
        return {one.name: one for one in (Map(self, pointer) for pointer in each)}

    @cached_property
    def bss(self) -> Globals:
        """Global variables that start as zero."""
        return self._globals(".bss")

    @cached_property
    def data(self) -> Globals:
        """Global variables that start as something else."""
        return self._globals(".data")

    @cached_property
    def rodata(self) -> Globals:
        """Global constants: written before `load()`, then frozen, so that the verifier knows."""
        return self._globals(".rodata")

    @cached_property
    def btf(self) -> Btf | None:
        """The object's types; None when it was compiled without `-g`."""
        pointer = libbpf.call("bpf_object__btf", self.pointer, doing="ask for BTF")
        if not pointer:
            return None
        size = ctypes.c_uint32()
        raw = libbpf.call("btf__raw_data", pointer, ctypes.byref(size), doing="read BTF")
        return _types(ctypes.string_at(raw, size.value))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        if getattr(self, "_pointer", None) is not None:
            self.close()

    def __repr__(self) -> str:
        state = "closed" if self._pointer is None else "loaded" if self.loaded else "open"
        return f"<Object {self.path.name} {state}>"

    def _globals(self, section: str) -> Globals:
        name = f"{section} of {self.path.name}"
        for each in self.maps.values():
            if self.btf and each.is_internal and each.name.endswith(section):
                return Globals(name, each, self.btf, self.btf.section(section))
        return Globals(name, None, None, {})


class Program:
    """A program of an `Object`, borrowed from it."""

    def __init__(self, owner: Object, pointer: int) -> None:
        self._owner = owner
        self._pointer = pointer
        self.name = libbpf.text("bpf_program__name", pointer) or ""
        """The name of its function."""
        self.section = libbpf.text("bpf_program__section_name", pointer) or ""
        """What `SEC()` says: the program's type and, for most types, its target."""

    @property
    def pointer(self) -> int:
        """The `struct bpf_program *`. Raises `BpfError` with EBADF after the object is closed."""
        _ = self._owner.pointer
        return self._pointer

    @property
    def type(self) -> ProgType:
        """Its program type."""
        return ProgType(self._ask("bpf_program__type"))

    @property
    def expected_attach_type(self) -> AttachType:
        """The attach type that it is loaded for."""
        return AttachType(self._ask("bpf_program__expected_attach_type"))

    @property
    def fd(self) -> int:
        """Its descriptor, borrowed. Raises `BpfError` before the object is loaded."""
        return self._ask("bpf_program__fd")

    @property
    def id(self) -> int:
        """The kernel's number for it."""
        doing = f"ask for the id of program {self.name}"
        return int(libbpf.read_info(self.fd, BpfProgInfo, doing=doing).id)

    def set_autoload(self, load: bool) -> None:  # noqa: FBT001 - libbpf's own shape
        """Choose whether `Object.load()` takes it along; before loading."""
        libbpf.call(
            "bpf_program__set_autoload", self.pointer, load, doing=f"set autoload of {self.name}"
        )

    def pin(self, path: str | os.PathLike[str]) -> None:
        """Pin it in a BPF FS; whoever asked removes the file."""
        doing = f"pin program {self.name} at {Path(path)}"
        note_made("program", self.id)
        libbpf.call("bpf_program__pin", self.pointer, os.fsencode(path), doing=doing)

    def attach(self, target: object | None = None, **options: Any) -> Link:
        """Attach it by a BPF link, which is the caller's to destroy.

        `target` is what a program of this type attaches to, and the options are those it has:

        - cgroup programs: a `Cgroup`; `flags`, `relative` (a program or link to stand before or
          after) and `expected_revision` (libbpf 1.6; kernels before 6.17 ignore or refuse them).
        - tcx (6.6), netkit (6.7; the primary device): a `Device`; the same options.
        - xdp: a `Device`; `flags` (`XdpFlags`).
        - flow_dissector, sk_lookup: a `NetNs`.
        - netfilter (6.4): a `NetNs`, or nothing for the present one; `pf`, `hooknum`, `priority`,
          `flags`.
        - sk_msg, sk_skb (6.10): a `Map` of sockets.
        - iter: nothing, a `Map`, a `Cgroup` with `order` (6.1), or `tid` or `pid` (6.1).
        - freplace: nothing, or a `Program` with `function`.
        - perf_event: a `PerfEvent`; `cookie`.
        - kprobe: a function's name with `offset`; uprobe: a `Path` with `offset` and `pid`; both
          with `retprobe` and `cookie`.
        - kprobe.multi: names or a pattern; uprobe.multi: a `Path` with `offsets` and `pid`; both
          with `retprobe` and `cookies`, as many as there are names or offsets.
        - fentry.multi, fexit.multi, fsession.multi (7.2, libbpf 1.8): names or a pattern;
          `cookies`, as many as there are names.
        - all others: nothing, since `SEC()` says it.

        Raises `BpfError`: EINVAL for the wrong kind of target, and what the kernel says;
        `NotSupported` where no BPF link comes of it (kprobe and tracepoint before 5.15).
        """
        from pytest_bpflink.attach import attach  # it knows all kinds of targets; objects don't

        return attach(self, target, options)

    def __repr__(self) -> str:
        return f"<Program {self.name} {self.section}>"

    def _ask(self, function: str) -> int:
        return libbpf.call(function, self.pointer, doing=f"ask about program {self.name}")


class Map(MutableMapping[Any, Any]):
    """A map of an `Object`, borrowed from it: a mapping from keys to values.

    Keys and values are typed through BTF (see `pytest_bpflink.btf`), so an array's key is an
    `int`; what has no BTF type is `bytes`. A per-CPU map, which has a value for each processor,
    raises `BpfError` with EOPNOTSUPP.
    """

    def __init__(self, owner: Object, pointer: int) -> None:
        self._owner = owner
        self._pointer = pointer
        self.name = libbpf.text("bpf_map__name", pointer) or ""
        """Its name in the object; one of libbpf's own has the object's before the section's."""

    @property
    def pointer(self) -> int:
        """The `struct bpf_map *`. Raises `BpfError` with EBADF after the object is closed."""
        _ = self._owner.pointer
        return self._pointer

    @property
    def fd(self) -> int:
        """Its descriptor, borrowed."""
        return self._ask("bpf_map__fd")

    @property
    def id(self) -> int:
        """The kernel's number for it."""
        return int(libbpf.read_info(self.fd, BpfMapInfo, doing=self._doing("ask about")).id)

    @property
    def loaded(self) -> bool:
        """Whether the kernel has it."""
        return self._owner.loaded

    @property
    def is_internal(self) -> bool:
        """Whether it holds global variables."""
        return bool(self._ask("bpf_map__is_internal"))

    def attach(self) -> Link:
        """Put a struct_ops map in force by a BPF link, which is the caller's to destroy (6.4).

        The map is one in `SEC(".struct_ops.link")`. Raises `BpfError`: EINVAL for any other map,
        EEXIST where one of its name is in force; `NotSupported` where no BPF link comes of it.
        """
        from pytest_bpflink.attach import attach_struct_ops  # as in Program.attach()

        return attach_struct_ops(self)

    def pin(self, path: str | os.PathLike[str]) -> None:
        """Pin it in a BPF FS; whoever asked removes the file."""
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
        # The kernel would write a value for each processor into the room for one.
        if self._ask("bpf_map__type") in _PER_CPU_MAPS:
            hint = "a per-CPU map has a value for each processor, which is not offered"
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
    """How keys or values of a map become Python values, and back."""

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


def _each(function: str, owner: int) -> Iterator[int]:
    pointer = None
    while pointer := libbpf.call(function, owner, pointer, doing="look through an object"):
        yield pointer


# Of as many files as are in use at a time: to read the types takes longer than to load programs.
@lru_cache(maxsize=8)
def _types(raw: bytes) -> Btf:
    return Btf(raw)


def _require_elf(file: Path, doing: str) -> None:
    """Say clearly what libbpf says in the words of libelf."""
    try:
        with file.open("rb") as stream:
            start = stream.read(len(_ELF_MAGIC))
    except OSError as error:
        raise BpfError(error.errno or 0, doing) from error
    if start != _ELF_MAGIC:
        hint = "not an ELF file; compile it with clang -target bpf -O2 -g -c"
        raise BpfError(errno.EINVAL, doing, hint=hint)
