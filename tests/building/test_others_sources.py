"""Sources as others write them: they compile, load where libbpf loads them, and can be read.

The sources in `tests/sources` are written in the manners of others, a folder for each: with their
includes, headers, flags, sections, and kinds of maps and programs.
"""

from __future__ import annotations

import ctypes
import errno
import re
import shutil
import tomllib
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from pytest_bpflink import BpfError, MapType, ProgType
from pytest_bpflink.binding import libbpf
from pytest_bpflink.binding.btf import Kind
from pytest_bpflink.binding.kernel_btf import vmlinux
from pytest_bpflink.building.compilation import object_of
from pytest_bpflink.building.recipe import Recipe
from tests.support import ROOT

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from pytest_bpflink import BpfFs, KernelInfo, Map, Object

SOURCES = ROOT / "tests/sources"
NAMES = sorted(str(each.relative_to(SOURCES)) for each in SOURCES.rglob("*.c"))

#: What the loaders of these objects choose before loading.
SIZES = {
    "bcc/off_cpu.bpf.c": {"stackmap": 1024, "info": 10240},
    "bcc/run_queue.bpf.c": {"start": 10240},
    "systemd/restrict-fs.bpf.c": {"cgroup_hash": 2048},
    "systemd/restrict-ifaces.bpf.c": {"sd_restrictif": 4},
    "systemd/socket-bind.bpf.c": {"sd_bind_deny": 16},
}
TYPES = {
    "cilium/bpf_host.c": {
        "tail_handle_ipv4": ProgType.SCHED_CLS,
        "cil_from_netdev": ProgType.SCHED_CLS,
    },
    "cilium/bpf_maglev.c": {"cil_select": ProgType.XDP},
    "cilium/bpf_xdp.c": {"cil_xdp_entry": ProgType.XDP},
}

#: The first kernels that load these; Linux 5.10 loads all others.
SINCE = {
    "networks/congestion_link.bpf.c": (6, 4),
    "networks/hooks_of_netfilter.bpf.c": (6, 4),
    "networks/ordered_devices.bpf.c": (6, 7),
    "storage/arena.bpf.c": (6, 9),
    "storage/of_cgroups.bpf.c": (6, 2),
    "storage/of_tasks.bpf.c": (5, 11),
    "storage/timers.bpf.c": (5, 15),
    "storage/without_keys.bpf.c": (5, 16),
    "systemd/sysctl-monitor.bpf.c": (6, 12),
    "systemd/userns-restrict.bpf.c": (5, 11),
    "tracing/dynamic_pointers.bpf.c": (6, 1),
    "tracing/iterators_of_cgroups.bpf.c": (5, 19),
    "tracing/loader.bpf.c": (5, 14),
    "tracing/loops.bpf.c": (5, 17),
    "tracing/many_functions.bpf.c": (5, 18),
    "tracing/numbers.bpf.c": (6, 4),
    "tracing/references.bpf.c": (6, 2),
    "tracing/symbols.bpf.c": (5, 11),
    "tracing/texts.bpf.c": (5, 13),
}
#: The first kernels that may refuse these: they are not as the programs were written for.
CHANGED = {
    # 6.12 knows what programs of hooks may return; with 6.15 the hook bpf() has another argument.
    "bootstrap/lsm.bpf.c": (6, 12),
    "systemd/restrict-fs.bpf.c": (6, 12),  # nor does 6.12 know the range of a negation
    # The verifier takes a variable for unused that only bpf_map_peek_elem() reads.
    "storage/without_keys.bpf.c": (7, 0),
}
#: Functions that not every kernel's BTF has: compilers give some other arguments than C does.
FUNCTIONS = {"bootstrap/fentry.bpf.c": ("do_unlinkat", "vfs_statfs")}
#: Options that not every kernel is built with.
OPTIONS = {"tracing/symbols.bpf.c": "CONFIG_KALLSYMS_ALL"}
#: The first libbpf that loads these; libbpf 1.1 loads all others.
LIBBPF = {
    "networks/congestion_link.bpf.c": (1, 2),
    "networks/hooks_of_netfilter.bpf.c": (1, 3),
    "networks/ordered_devices.bpf.c": (1, 3),
}

#: Maps that are no mappings of keys to values for user space.
EVENTS = {MapType.PERF_EVENT_ARRAY, MapType.RINGBUF}
WITHOUT_KEYS = {MapType.QUEUE, MapType.STACK}
UNREADABLE = {
    MapType.CGROUP_ARRAY: "only programs read its slots",
    MapType.XSKMAP: "only programs read its slots",
    MapType.SOCKMAP: "a socket is read as its cookie, which needs values of 8 bytes",
    MapType.SK_STORAGE: "its values are found by the descriptor of a socket",
    MapType.TASK_STORAGE: "its values are found by the descriptor of a process",
    MapType.INODE_STORAGE: "its values are found by the descriptor of a file",
    MapType.CGRP_STORAGE: "its values are found by the descriptor of a cgroup",
    MapType.ARENA: "it is memory, which mmap() of its descriptor gives",
}

NUMBER = re.compile(r"[ymn]|-?\d+|0x[0-9a-f]+", re.IGNORECASE)


class Manner(NamedTuple):
    """What a folder's `pytest.toml` says to clang."""

    include: list[Path]
    defines: dict[str, object]

    @classmethod
    def of(cls, folder: Path) -> Manner:
        file = folder / "pytest.toml"
        given = tomllib.loads(file.read_text()) if file.exists() else {}
        flags = given.get("pytest", {}).get("bpflink_cflags", [])
        macros = [each[2:].partition("=") for each in flags if each.startswith("-D")]
        return cls(
            [folder / each[2:] for each in flags if each.startswith("-I")],
            {name: value or True for name, _, value in macros},
        )


class OpenOptions(ctypes.Structure):
    """The beginning of `struct bpf_object_open_opts`."""

    _fields_ = [
        ("sz", ctypes.c_size_t),
        ("object_name", ctypes.c_char_p),
        ("relaxed_maps", ctypes.c_bool),
        ("pin_root_path", ctypes.c_char_p),
        ("unused", ctypes.c_uint32),
        ("kconfig", ctypes.c_char_p),
    ]


class Verdict(NamedTuple):
    """What became of an object: the errno of a refusal, or its maps by name with their types."""

    errno: int
    maps: dict[str, int]


def verdict_of_libbpf(name: str, file: Path, pins: BpfFs, config: dict[str, str]) -> Verdict:
    """Open and load an object by libbpf alone."""
    library = ctypes.CDLL(libbpf.path(), use_errno=True)
    for each in ("bpf_object__open_file", "bpf_object__next_map", "bpf_object__next_program"):
        getattr(library, each).restype = ctypes.c_void_p
    library.bpf_map__name.restype = library.bpf_program__name.restype = ctypes.c_char_p
    quoted = {
        each: value if NUMBER.fullmatch(value) else f'"{value}"' for each, value in config.items()
    }
    text = "\n".join(f"{each}={value}" for each, value in quoted.items()).encode()
    pin_root = str(pins / "of_libbpf").encode()
    options = OpenOptions(ctypes.sizeof(OpenOptions), pin_root_path=pin_root, kconfig=text)
    opened = library.bpf_object__open_file(str(file).encode(), ctypes.byref(options))
    if not opened:
        return Verdict(ctypes.get_errno(), {})
    here = ctypes.c_void_p(opened)

    def in_object(kind: str) -> dict[str, ctypes.c_void_p]:
        found, after = {}, None
        while after := getattr(library, f"bpf_object__next_{kind}")(here, ctypes.c_void_p(after)):
            pointer = ctypes.c_void_p(after)
            found[getattr(library, f"bpf_{kind}__name")(pointer).decode()] = pointer
        return found

    try:
        maps = in_object("map")
        for each, size in SIZES.get(name, {}).items():
            library.bpf_map__set_max_entries(maps[each], size)
        programs = in_object("program")
        for each, kind in TYPES.get(name, {}).items():
            library.bpf_program__set_type(programs[each], int(kind))
        refused = -library.bpf_object__load(here)
        types = {each: library.bpf_map__type(pointer) for each, pointer in maps.items()}
        return Verdict(refused, types)
    finally:
        library.bpf_object__close(here)


def is_refused_for_a_reason(name: str, number: int, kernel: KernelInfo) -> bool:
    """Whether a kernel or libbpf is too old or too new, or is built or set up without something."""
    release = tuple(map(int, libbpf.version().split(".")[:2]))
    option = OPTIONS.get(name)
    return (
        kernel.version < SINCE.get(name, ())
        or kernel.version >= CHANGED.get(name, (99,))
        or release < LIBBPF.get(name, ())
        or (option is not None and kernel.config.get(option) != "y")
        or (number == errno.ESRCH and not all(map(in_btf, FUNCTIONS.get(name, ()))))
        # Hosts may refuse trampolines to anyone.
        or (kernel.where == "native" and number == errno.EPERM)
    )


def in_btf(function: str) -> bool:
    """Whether programs can be attached to a function of the kernel by BTF."""
    try:
        vmlinux().find(function, Kind.FUNC)
    except BpfError:
        return False
    return True


def read(each: Map) -> None:
    """Read all that user space can read of a map."""
    if each.type in EVENTS:
        with each.reading() as events:
            assert [*events] == []
    elif each.type is MapType.USER_RINGBUF:
        with each.writing() as writer:
            assert writer
    elif each.type in WITHOUT_KEYS:
        with pytest.raises(IndexError):
            each.peek()
    elif each.type is MapType.BLOOM_FILTER:
        assert bytes(each.value_size) not in each
    elif each.type is MapType.SOCKHASH or (each.type is MapType.SOCKMAP and each.value_size == 8):
        assert dict(each) == {}
    elif each.type in UNREADABLE:
        with pytest.raises(BpfError):
            dict(each)
    else:
        elements = dict(each)
        assert len(elements) == len(each)
        if each.type is MapType.ARRAY:
            assert len(elements) == each.max_entries


# Linux 5.10 warns once of programs for tracing with maps such as hashes without BPF_F_NO_PREALLOC.
@pytest.mark.allow_dmesg("trace type BPF program uses run-time allocation")
@pytest.mark.parametrize("name", NAMES)
def test_source_of_others(
    name: str, bpf_object: Callable[..., Object], bpf_kernel: KernelInfo, bpffs: BpfFs
) -> None:
    source = SOURCES / name
    manner = Manner.of(source.parent)
    file = object_of(Recipe.of(source, manner.defines, manner.include))
    expected = verdict_of_libbpf(name, file, bpffs, bpf_kernel.config)
    assert expected.errno == 0 or is_refused_for_a_reason(name, expected.errno, bpf_kernel)
    options: dict[str, Any] = {
        **manner._asdict(),
        "max_entries": SIZES.get(name),
        "types": TYPES.get(name),
    }
    if expected.errno:
        with pytest.raises(BpfError) as refused:
            bpf_object(source, **options)
        assert refused.value.errno == expected.errno
        return
    loaded = bpf_object(source, **options)
    assert {each.name: int(each.type) for each in loaded.maps.values()} == expected.maps
    for each in loaded.maps.values():
        read(each)
    for section in loaded.sections.values():
        assert dict(section).keys() == set(section)


def test_flags_of_the_configuration(pytester: pytest.Pytester) -> None:
    """The flags of a manner are those that `bpflink_cflags` of its `pytest.toml` has."""
    shutil.copytree(SOURCES / "xdp_tutorial", pytester.path, dirs_exist_ok=True)
    pytester.makepyfile(
        """
        def test_loads(bpf_object):
            assert bpf_object("xdp_parse_kern.c").map("xdp_stats_map").max_entries == 5
            assert bpf_object("af_xdp_kern.c").map("xsks_map").max_entries == 64
        """
    )
    pytester.runpytest_subprocess("-p", "no:cacheprovider").assert_outcomes(passed=1)
