"""What a test chooses before loading: values, sizes, programs, types, targets, pins."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pytest_bpflink import AttachType, BpfError, ProgType, UnknownName, VerifierError

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_bpflink import BpfFs, KernelInfo, Object

PROGRAMS = "progs/loading.bpf.c"
KNOWN = {"only": ["sum"]}


def pins(bpffs: BpfFs) -> list[str]:
    """Return what is pinned, but for the kernel's own."""
    return [name for name in os.listdir(bpffs) if not name.endswith(".debug")]


def test_values_of_every_section(bpf_object: Callable[..., Object]) -> None:
    values = {"rodata": {"limit": 10, "far_limit": 20}, "data": {"first": 30, "hot": 40}}
    loaded = bpf_object(PROGRAMS, **values, bss={"total": -1, "cold": 5}, **KNOWN)
    assert loaded.bss["total"] == -1
    assert loaded.program("sum").run(bytes(64)).retval == 105
    assert loaded.bss["total"] == 105
    assert loaded.section(".bss.cold")["cold"] == 5


def test_sections_by_name(bpf_open: Callable[..., Object]) -> None:
    opened = bpf_open(PROGRAMS, **KNOWN)
    assert {".rodata.far", ".data.hot", ".kconfig", ".bss"} < set(opened.sections)
    assert (opened.section(".data.hot")["hot"], opened.data["first"]) == (4, 3)
    opened.section(".data.hot")["hot"] = 400
    opened.section(".rodata.far")["far_limit"] = 0
    with pytest.raises(UnknownName, match=r"find section '.data.cold' in .*: .*\.data\.hot"):
        opened.section(".data.cold")

    assert opened.load().program("sum").run(bytes(64)).retval == 1 + 0 + 3 + 400
    opened.section(".data.hot")["hot"] = 40
    assert opened.program("sum").run(bytes(64)).retval == 44
    with pytest.raises(BpfError, match=r"write far_limit in .rodata.far .*frozen") as raised:
        opened.section(".rodata.far")["far_limit"] = 1
    assert raised.value.errno == errno.EACCES


def test_static_variables_are_read_through_the_map(bpf_open: Callable[..., Object]) -> None:
    opened = bpf_open("progs/static_only.bpf.c", rodata={"step": 5})
    assert opened.load().program("count").run(bytes(64)).retval == 0
    assert (opened.bss["counted"], opened.data["begun"], opened.rodata["step"]) == (5, 4, 5)
    opened.bss["counted"] = 100
    opened.program("count").run(bytes(64))
    assert (opened.bss["counted"], opened.data["begun"]) == (105, 5)
    with pytest.raises(BpfError, match=r"write step in .rodata .*frozen") as raised:
        opened.rodata["step"] = 1
    assert raised.value.errno == errno.EACCES


def test_negative_enum(bpf_object: Callable[..., Object]) -> None:
    loaded = bpf_object(PROGRAMS, **KNOWN)
    assert loaded.data["verdict"] == -7
    loaded.data["verdict"] = -1
    assert loaded.data["verdict"] == -1


def test_size_of_a_map(bpf_object: Callable[..., Object]) -> None:
    entries = bpf_object(PROGRAMS, max_entries={"start": 64}, **KNOWN).map("start")
    assert entries.max_entries == 64
    for number in range(64):
        entries[number] = number
    with pytest.raises(BpfError) as full:
        entries[64] = 64
    assert full.value.errno == errno.E2BIG
    with pytest.raises(BpfError, match="set max_entries to 65 of map start") as late:
        entries.set_max_entries(65)
    assert late.value.errno == errno.EBUSY


def test_programs_that_are_loaded(bpf_object: Callable[..., Object]) -> None:
    loaded = bpf_object(PROGRAMS, skip=["untyped"])
    assert loaded.program("sum").id
    with pytest.raises(BpfError):
        _ = loaded.program("untyped").fd
    loaded = bpf_object(PROGRAMS, only=["spare", "sum"], skip=["sum"])
    assert loaded.program("spare").run(bytes(64)).retval == 9
    with pytest.raises(BpfError):
        _ = loaded.program("sum").fd
    for names in ({"skip": ["none"]}, {"only": ["none"]}, {"max_entries": {"none": 1}}):
        with pytest.raises(UnknownName, match="'none'"):
            bpf_object(PROGRAMS, **names)


def test_type_of_a_section_that_names_none(bpf_object: Callable[..., Object]) -> None:
    loaded = bpf_object(PROGRAMS, only=["untyped"], types={"untyped": ProgType.XDP})
    assert loaded.program("untyped").type is ProgType.XDP
    assert loaded.program("untyped").run(bytes(64)).retval == 2
    kind = ProgType.CGROUP_SKB, AttachType.CGROUP_INET_EGRESS
    loaded = bpf_object(PROGRAMS, only=["untyped"], types={"untyped": kind})
    assert loaded.program("untyped").expected_attach_type is AttachType.CGROUP_INET_EGRESS


@pytest.mark.bpf_requires("attach:trace_fentry", since="5.5")
def test_function_to_attach_to(bpf_object: Callable[..., Object]) -> None:
    function = {"on_function": "bpf_fentry_test1"}
    loaded = bpf_object(PROGRAMS, only=["on_function"], attach_to=function)
    with loaded.program("on_function").attach():
        loaded.program("on_function").run()
    assert loaded.bss["total"] == 1
    with pytest.raises(BpfError, match="set the target of on_function to no_such"):
        bpf_object(PROGRAMS, only=["on_function"], attach_to={"on_function": "no_such"})


REPLACED = """
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

__attribute__((noinline)) int seven(struct xdp_md *ctx)
{
	volatile int number = 7;

	return number;
}

SEC("xdp")
int run_seven(struct xdp_md *ctx)
{
	return seven(ctx);
}

SEC("?freplace")
int eight(struct xdp_md *ctx)
{
	return 8;
}

char LICENSE[] SEC("license") = "GPL";
"""


@pytest.mark.bpf_requires("link:tracing", since="5.7")
def test_function_of_another_program(
    bpf_object: Callable[..., Object], bpf_source: Callable[..., Path]
) -> None:
    source = bpf_source(REPLACED)
    target = bpf_object(source).program("run_seven")
    chosen = {"only": ["eight"], "attach_to": {"eight": ("seven", target)}}
    replacing = bpf_object(source, **chosen).program("eight")
    assert target.run(bytes(64)).retval == 7
    with replacing.attach():
        assert target.run(bytes(64)).retval == 8


RELOCATED = """
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>

struct task_struct {
	int pid;
} __attribute__((preserve_access_index));

int offset;

SEC("socket")
int where(struct __sk_buff *skb)
{
	offset = bpf_core_field_offset(struct task_struct, pid);
	return 0;
}

char LICENSE[] SEC("license") = "GPL";
"""


def test_types_of_the_kernel_from_a_file(
    bpf_object: Callable[..., Object], bpf_source: Callable[..., Path], tmp_path: Path
) -> None:
    source = bpf_source(RELOCATED)
    types = Path("/sys/kernel/btf/vmlinux").read_bytes()
    (tmp_path / "types").write_bytes(types)
    loaded = bpf_object(source, btf=tmp_path / "types")
    assert loaded.program("where").run(bytes(64)).retval == 0
    assert loaded.bss["offset"] > 0
    with pytest.raises(BpfError, match=r"load BPF object .*inline\.bpf\.c: "):
        bpf_object(source, btf=tmp_path / "no types")


def test_log_of_the_verifier(bpf_object: Callable[..., Object]) -> None:
    loaded = bpf_object(PROGRAMS, log_level=2, only=["sum"])
    assert "processed" in loaded.program("sum").log
    assert "R1=ctx" in loaded.program("sum").log
    assert bpf_object(PROGRAMS, only=["sum"]).program("sum").log == ""
    with pytest.raises(VerifierError) as refused:
        bpf_object(PROGRAMS, log_level=1, only=["refused"])
    assert refused.value.program == "refused"
    assert "processed" in refused.value.verifier_log


def test_configuration_of_the_kernel(
    bpf_object: Callable[..., Object], bpf_kernel: KernelInfo
) -> None:
    loaded = bpf_object(PROGRAMS, **KNOWN)
    expected = int(bpf_kernel.config.get("CONFIG_HZ", 0))
    assert loaded.kconfig["CONFIG_HZ"] == expected
    assert loaded.kconfig["CONFIG_LSM"] == bpf_kernel.config.get("CONFIG_LSM", "").encode()
    major, minor, *_ = bpf_kernel.version
    assert loaded.kconfig["LINUX_KERNEL_VERSION"] >> 8 == (major << 8) + minor

    loaded = bpf_object(PROGRAMS, kconfig={"CONFIG_HZ": 7, "CONFIG_LSM": "mine"}, **KNOWN)
    assert loaded.kconfig["CONFIG_HZ"] == 7
    assert loaded.kconfig["CONFIG_LSM"] == b"mine"


@pytest.mark.parametrize("number", [1, 2])
def test_maps_are_pinned_for_this_test_only(
    bpf_object: Callable[..., Object], bpffs: BpfFs, number: int
) -> None:
    """The second of these two tests finds nothing that the first has pinned."""
    loaded = bpf_object("progs/pinned_by_name.bpf.c")
    assert pins(bpffs) == ["shared"]
    assert loaded.map("shared").pin_path == Path(bpffs / "shared")
    assert loaded.map("shared")[0] == 0
    loaded.map("shared")[0] = number
    assert bpf_object("progs/pinned_by_name.bpf.c").map("shared")[0] == number
    assert not os.path.exists("/sys/fs/bpf/shared")


def test_directory_of_pins(
    bpf_object: Callable[..., Object], bpffs: BpfFs, bpf_open: Callable[..., Object]
) -> None:
    os.mkdir(bpffs / "mine")
    bpf_object("progs/pinned_by_name.bpf.c", pin_root=bpffs / "mine")
    assert pins(bpffs) == ["mine"]
    assert os.listdir(bpffs / "mine") == ["shared"]
    opened = bpf_open("progs/pinned_by_name.bpf.c")
    opened.map("shared").set_pin_path(bpffs / "elsewhere")
    opened.load()
    assert os.path.exists(bpffs / "elsewhere")


def test_object_is_opened_only(bpf_object: Callable[..., Object]) -> None:
    opened = bpf_object(PROGRAMS, load=False, only=["spare"])
    assert not opened.loaded
    opened.configure(only=["sum"], rodata={"limit": 100})
    assert opened.load().program("sum").run(bytes(64)).retval == 109
