"""Sources of others compile: their flags, their vmlinux.h, and several of them to one object."""

from __future__ import annotations

import errno
import subprocess
from pathlib import Path

import pytest

from pytest_bpflink import BpfError, CompileError, Object
from pytest_bpflink.building import clang, compilation, inline_sources, static_linking
from pytest_bpflink.building.clang import Target
from pytest_bpflink.building.recipe import CFLAGS, Recipe, absolute
from tests.support.kernel_trees import write

BEGIN = "#include <linux/bpf.h>\n#include <bpf/bpf_helpers.h>\n"
# Only a vmlinux.h has this struct. The value is the size of a user's own one, or of the kernel's.
TYPED = "int value = sizeof(struct task_struct);\n"
KERNELS, OWN = 8, 12


def types(size: int) -> str:
    return f"#pragma once\nstruct task_struct {{ char bytes[{size}]; }};\n"


@pytest.fixture(autouse=True)
def _surroundings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BPFLINK_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv(CFLAGS, raising=False)
    # In place of the running kernel's types.
    monkeypatch.setenv("BPFLINK_VMLINUX_H", str(write(tmp_path / "kept/vmlinux.h", types(KERNELS))))


def value_in(source: Path | list[Path], **options: object) -> int:
    with Object.open(source, **options) as opened:  # type: ignore[arg-type]
        value: int = opened.data["value"]
        return value


@pytest.mark.parametrize(
    "include",
    ['"vmlinux.h"', "<vmlinux.h>", "<x86/vmlinux.h>", '"../bpf/vmlinux.h"', '"sub/own.h"'],
)
def test_vmlinux_h_is_found_however_it_is_included(tmp_path: Path, include: str) -> None:
    write(tmp_path / "sub/own.h", '#pragma once\n# include "deeper.h"\n')
    write(tmp_path / "sub/deeper.h", "#include <vmlinux.h>\n")
    source = write(tmp_path / "x.bpf.c", f"#include {include}\n{TYPED}")
    assert value_in(source) == KERNELS


def test_vmlinux_h_by_names_that_lead_outside(tmp_path: Path) -> None:
    source = write(tmp_path / "x.bpf.c", f'#include "../../../../../vmlinux.h"\n{TYPED}')
    with pytest.raises(CompileError, match=r"vmlinux\.h' file not found"):
        Object.open(source)
    assert not [*(tmp_path / "cache").rglob("vmlinux.h")]


@pytest.mark.parametrize("include", ['"vmlinux.h"', "<vmlinux.h>", '"sub/own.h"'])
@pytest.mark.parametrize("place", [".", "headers"])
def test_own_vmlinux_h_wins(tmp_path: Path, include: str, place: str) -> None:
    write(tmp_path / "sub/own.h", '#include "vmlinux.h"\n')
    write(tmp_path / place / "vmlinux.h", types(OWN))
    source = write(tmp_path / "x.bpf.c", f"#include {include}\n{TYPED}")
    assert value_in(source, include=[tmp_path / "headers"]) == OWN


def test_own_vmlinux_h_wins_as_soon_as_it_is_there(tmp_path: Path) -> None:
    source = write(tmp_path / "x.bpf.c", f"#include <vmlinux.h>\n{TYPED}")
    assert value_in(source) == KERNELS
    write(tmp_path / "vmlinux.h", types(OWN))
    assert value_in(source) == OWN


def test_source_beside_headers_of_a_system_s_names_does_not_change_their_order(
    tmp_path: Path,
) -> None:
    """Clang ignores an -I of a directory that is also searched last."""
    write(tmp_path / "bpf/bpf_helpers.h", "int value = 5;\n")
    source = write(tmp_path / "x.bpf.c", "#include <bpf/bpf_helpers.h>\n")
    assert value_in(source, include=[tmp_path]) == 5


def test_defines_and_directories_of_one_object(tmp_path: Path) -> None:
    write(tmp_path / "headers/limit.h", "#define TWICE(x) (2 * (x))\n")
    text = "#include <limit.h>\n#if FLAG\nint value = TWICE(LIMIT);\n#endif\n"
    source = write(tmp_path / "x.bpf.c", text)
    include = [tmp_path / "headers"]
    defines = {"LIMIT": 3, "FLAG": True, "UNSET": None}
    assert value_in(source, defines=defines, include=include) == 6
    assert value_in(source, defines={**defines, "LIMIT": "(1 + 3)"}, include=include) == 8
    with pytest.raises(CompileError, match=r"x.bpf.c:1:10: fatal error: 'limit.h' file not found"):
        Object.open(source)
    with pytest.raises(ValueError, match="'-o' is no name of a macro"):
        Object.open(source, defines={"-o": 1})


def test_flags_of_a_session(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = write(tmp_path / "x.bpf.c", "int value = LIMIT;\n")
    monkeypatch.setenv(CFLAGS, "-DLIMIT=3")
    assert value_in(source) == 3
    monkeypatch.setenv(CFLAGS, "-DLIMIT=4 -mcpu=v1")
    assert value_in(source) == 4
    assert value_in(source, defines={"LIMIT": 5}) == 5


def test_directories_in_flags_are_those_of_the_configuration() -> None:
    given = ["-Iinc", "-I", "x", "-DA=-Ib", "-isystem", "/y", "-mcpu=v4", "-include", "h.h"]
    assert absolute(given, Path("/p")) == [
        *("-I/p/inc", "-I", "/p/x", "-DA=-Ib", "-isystem", "/y", "-mcpu=v4"),
        *("-include", "/p/h.h"),
    ]


CALLS = """
int add(int a, int b);
int value = 1;
SEC("cgroup_skb/egress") int keep(struct __sk_buff *skb) { return add(value, skb->len) & 1; }
char LICENSE[] SEC("license") = "GPL";
"""
ADDS = "__attribute__((noinline)) int add(int a, int b) { return a + b + ADDED; }\n"


def test_several_sources_are_one_object(tmp_path: Path) -> None:
    sources = [write(tmp_path / "calls.bpf.c", BEGIN + CALLS), tmp_path / "adds.bpf.c"]
    write(sources[1], ADDS)
    with Object.open(sources, defines={"ADDED": 1}) as opened:
        assert [*opened.load().programs] == ["keep"]
        assert opened.data["value"] == 1
        assert opened.program("keep").run(bytes(64)).retval == (1 + 64 + 1) & 1
    with Object.open(sources, defines={"ADDED": 2}) as opened:
        assert opened.load().program("keep").run(bytes(64)).retval == (1 + 64 + 2) & 1


def test_objects_are_linked_with_sources(tmp_path: Path) -> None:
    write(tmp_path / "adds.bpf.c", "#define ADDED 3\n" + ADDS)
    built = compilation.object_of(tmp_path / "adds.bpf.c")
    with Object.open([write(tmp_path / "calls.bpf.c", BEGIN + CALLS), built]) as opened:
        assert opened.load().program("keep").run(bytes(64)).retval == (1 + 64 + 3) & 1


def test_linked_object_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sources = [tmp_path / "calls.bpf.c", tmp_path / "adds.bpf.c"]
    write(sources[0], BEGIN + CALLS)
    write(sources[1], ADDS)
    recipe = Recipe.of(sources, {"ADDED": 1})
    built = compilation.object_of(recipe)
    assert built.name == "calls.bpf.o"

    monkeypatch.setattr(compilation, "_compiled", {})  # as another process finds it
    with monkeypatch.context() as again:
        again.setattr(subprocess, "run", lambda *_, **__: pytest.fail("compiled again"))
        again.setattr(static_linking, "link", lambda _: pytest.fail("linked again"))
        assert compilation.object_of(recipe) == built
    write(sources[1], ADDS.replace("a + b", "a - b"))
    assert compilation.object_of(recipe) != built


def test_sources_that_do_not_go_together(tmp_path: Path) -> None:
    write(tmp_path / "a.bpf.c", "int twice(void) { return 1; }\n")
    write(tmp_path / "b.bpf.c", "int twice(void) { return 2; }\n")
    with pytest.raises(BpfError, match=r"link a.bpf.o, b.bpf.o: add b.bpf.o: EINVAL .*\n.*twice"):
        Object.open([tmp_path / "a.bpf.c", tmp_path / "b.bpf.c"])
    with pytest.raises(ValueError, match="one source at least"):
        Object.open([])


def test_objects_of_the_other_byte_order(tmp_path: Path) -> None:
    """The system's libbpf 1.1 can't link them; newer ones do."""
    target = Target("s390x", "big", tmp_path)
    recipe = Recipe.of([write(tmp_path / f"{name}.bpf.c", f"int {name};\n") for name in "ab"])
    made = compilation.made_for(recipe, target, header=lambda: tmp_path, before_each=lambda _: None)
    if made.object is None:
        assert (made.errno, made.hint) == (
            errno.EOPNOTSUPP,
            "the host's libbpf links objects of its own byte order only",
        )
    else:
        assert made.object.read_bytes()[:6] == b"\x7fELF\x02\x02"


@pytest.mark.parametrize("header", ["stdint.h", "stdio.h", "sys/socket.h", "netinet/in.h"])
def test_headers_of_glibc(tmp_path: Path, header: str) -> None:
    source = write(tmp_path / "x.bpf.c", f"#include <{header}>\nint value = sizeof(void *);\n")
    assert value_in(source, include=[]) == 8


def test_a_header_of_glibc_that_is_not_there_has_a_hint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clang, "_SUBSTITUTES", tmp_path)
    source = write(tmp_path / "x.bpf.c", "#include <gnu/stubs-other.h>\n")
    with pytest.raises(CompileError, match="libc6-dev-i386"):
        Object.open(source)


def test_text_of_a_test_is_a_source(tmp_path: Path) -> None:
    text = """
        int value = 7;
    """
    source = inline_sources.written(text)
    assert value_in(source) == 7
    assert source.name == "inline.bpf.c"
    assert source.is_relative_to(tmp_path / "cache")
    assert inline_sources.written("int value = 7;\n", name="other").name == "other.bpf.c"
    source.write_text("int value = 8;\n")
    assert value_in(inline_sources.written(text)) == 7
