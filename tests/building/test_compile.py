"""Compiling `.bpf.c`: the files on which the cache's key depends, and compiling without a cache."""

from __future__ import annotations

import ctypes
import json
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pytest_bpflink import BpfError, CompileError, Object
from pytest_bpflink.binding import libbpf
from pytest_bpflink.building import compilation, kernel_types, object_cache, prebuilt
from pytest_bpflink.building.handed_over import VARIABLE, describe
from tests.support.damage import DAMAGES, damaged
from tests.support.nobody import NOBODY

if TYPE_CHECKING:
    from collections.abc import Callable

SOURCE = """
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#include "value.h"

int value = VALUE;

SEC("cgroup_skb/egress")
int keep(struct __sk_buff *skb)
{
	return value & 1;
}
"""


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("BPFLINK_CACHE", str(tmp_path / "cache"))
    (tmp_path / "value.h").write_text("#define VALUE 7\n")
    source = tmp_path / "source.bpf.c"
    source.write_text(SOURCE)
    return source


def value_in(source: Path) -> int:
    with Object.open(source) as opened:
        value: int = opened.data["value"]
        return value


def test_compiled_once(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    built = compilation.object_of(source)
    assert built.name == "source.bpf.o"
    assert built.is_relative_to(source.parent / "cache")

    monkeypatch.setattr(subprocess, "run", lambda *_, **__: pytest.fail("compiled again"))
    assert compilation.object_of(source) == built
    monkeypatch.setattr(compilation, "_compiled", {})  # as another process finds it
    assert compilation.object_of(source) == built


@pytest.mark.parametrize("damage", ["cut", "no parts", "other parts", "zero byte", *DAMAGES])
@pytest.mark.parametrize("name", ["parts.json", "object"])
def test_damaged_entry_is_compiled_again(
    source: Path, name: str, damage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    built = compilation.object_of(source)
    right = built.read_bytes()
    file = built if name == "object" else built.parents[1] / name
    shapes = {
        "no parts": b'{"parts": {}, "object": ""}',
        "other parts": json.dumps({"parts": {str(source): 1}, "object": 1}).encode(),
        "zero byte": b'{"parts": {"\\u0000": ""}, "object": ""}',
    }
    file.write_bytes((damaged(file) | shapes)[damage])
    monkeypatch.setattr(compilation, "_compiled", {})  # as another process finds it
    monkeypatch.setattr(object_cache, "_contents", {})

    assert compilation.object_of(source).read_bytes() == right

    monkeypatch.setattr(compilation, "_compiled", {})
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: pytest.fail("compiled again"))
    assert compilation.object_of(source) == built


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_failure_is_none(
    source: Path, damage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    built = compilation.object_of(source)
    (built.parents[1] / "parts.json").unlink()
    (built.parents[1] / "failure.json").write_bytes(DAMAGES[damage])
    monkeypatch.setattr(compilation, "_compiled", {})
    assert compilation.object_of(source) == built


@pytest.mark.skipif(os.geteuid() != 0, reason="giving files to others needs root")
@pytest.mark.parametrize("planted", ["parts.json", "object", "entry", "objects"])
def test_object_that_another_user_may_have_written_is_compiled_again(
    source: Path, planted: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    built = compilation.object_of(source)
    right = built.read_bytes()
    entry = built.parents[1]
    built.write_bytes(b"planted")
    places = {"parts.json": entry / planted, "object": built, "entry": entry}
    os.chown(places.get(planted, entry.parent), NOBODY, -1)
    monkeypatch.setattr(compilation, "_compiled", {})  # as another process finds it

    assert compilation.object_of(source).read_bytes() == right


def test_compiled_once_by_two_names(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (source.parent / "elsewhere").symlink_to(source.parent)
    built = compilation.object_of(source)

    monkeypatch.setattr(subprocess, "run", lambda *_, **__: pytest.fail("compiled again"))
    assert compilation.object_of(source.parent / "elsewhere" / source.name) == built


def test_compiled_again_when_its_name_leads_elsewhere(source: Path) -> None:
    other = source.parent / "other"
    other.mkdir()
    (other / source.name).write_text(SOURCE)
    (other / "value.h").write_text("#define VALUE 9\n")
    link = source.parent / "link"
    link.symlink_to(source.parent)
    assert value_in(link / source.name) == 7
    link.unlink()
    link.symlink_to(other)
    assert value_in(link / source.name) == 9


def test_compiled_again_when_the_source_changes(source: Path) -> None:
    assert value_in(source) == 7
    source.write_text(SOURCE.replace("VALUE;", "VALUE + 1;"))
    assert value_in(source) == 8


@pytest.fixture
def handed_over(source: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make a directory as in a guest without clang, to which the host handed objects over."""
    broken = source.with_name("broken.bpf.c")
    broken.write_text("int x = unknown;")
    made = compilation.made_of([source, broken])
    (source.parent / "index").write_bytes(describe(made))
    monkeypatch.setenv(VARIABLE, str(source.parent / "index"))
    monkeypatch.setattr(compilation, "clang", lambda: None)
    compilation._compiled.clear()  # as in another process
    return source.parent


def test_object_of_the_host_needs_no_clang(handed_over: Path, source: Path) -> None:
    built = compilation.object_of(source)
    assert built.is_relative_to(handed_over / "cache")
    (handed_over / "link").symlink_to(handed_over)
    assert compilation.object_of(handed_over / "link/source.bpf.c") == built


def test_error_of_the_clang_of_the_host(handed_over: Path) -> None:
    with pytest.raises(CompileError, match="use of undeclared identifier 'unknown'"):
        compilation.object_of(handed_over / "broken.bpf.c")


@pytest.mark.usefixtures("handed_over")
def test_object_of_the_host_is_not_for_another_source(source: Path) -> None:
    source.write_text(SOURCE.replace("VALUE;", "VALUE + 1;"))
    with pytest.raises(CompileError, match="clang is not installed"):
        compilation.object_of(source)


def test_compiled_again_when_a_header_changes(source: Path) -> None:
    first = compilation.object_of(source)
    assert value_in(source) == 7
    (source.parent / "value.h").write_text("#define VALUE 9\n")
    assert value_in(source) == 9
    (source.parent / "value.h").write_text("#define VALUE 7\n")
    assert compilation.object_of(source) == first


@pytest.fixture
def headers(source: Path) -> Callable[[str, int], Path]:
    """Write another `value.h` into a directory, and return the directory."""

    def write(directory: str, value: int) -> Path:
        made = source.parent / directory
        made.mkdir(exist_ok=True)
        (made / "value.h").write_text(f"#define VALUE {value}\n")
        return made

    return write


@pytest.mark.parametrize("variable", ["CPATH", "C_INCLUDE_PATH"])
def test_compiled_again_when_clang_is_to_look_elsewhere(
    source: Path,
    headers: Callable[[str, int], Path],
    monkeypatch: pytest.MonkeyPatch,
    variable: str,
) -> None:
    (source.parent / "value.h").unlink()
    first, second = headers("first", 5), headers("second", 6)
    monkeypatch.setenv(variable, str(first))
    assert value_in(source) == 5
    monkeypatch.setenv(variable, str(second))
    assert value_in(source) == 6
    monkeypatch.setenv(variable, "first")
    monkeypatch.chdir(source.parent)
    assert value_in(source) == 5
    monkeypatch.chdir(second)
    with pytest.raises(CompileError, match=r"'value.h' file not found"):
        compilation.object_of(source)


def test_compiled_again_when_a_new_header_shadows_another(
    source: Path, headers: Callable[[str, int], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    (source.parent / "value.h").unlink()
    missing = source.parent / "missing"
    empty = source.parent / "empty"
    empty.mkdir()
    monkeypatch.setenv("CPATH", f"{missing}:{empty}:{headers('last', 5)}")
    assert value_in(source) == 5
    headers("empty", 6)
    assert value_in(source) == 6
    headers("missing", 7)
    assert value_in(source) == 7
    headers(".", 8)  # beside the source
    assert value_in(source) == 8
    (source.parent / "value.h").unlink()
    assert value_in(source) == 7


@pytest.mark.parametrize(
    "include",
    [
        '#include "first.h"\n',
        '#define NAME "optional.h"\n#ifdef NAME\n#include NAME\n#endif\n',
        '#if __has_include("optional.h")\n#include "optional.h"\n#endif\n',
        "# include_next <optional.h>\n",
    ],
)
def test_every_way_to_include_a_header_counts(
    source: Path, headers: Callable[[str, int], Path], monkeypatch: pytest.MonkeyPatch, include: str
) -> None:
    source.with_name("first.h").write_text('#include "optional.h"\n')
    source.write_text("#define VALUE 1\n" + include + SOURCE.replace('#include "value.h"', ""))
    last = headers("last", 0)
    (last / "optional.h").write_text("")
    monkeypatch.setenv("CPATH", f"{source.parent / 'before'}:{last}")
    assert value_in(source) == 1
    before = headers("before", 0)
    (before / "optional.h").write_text("#undef VALUE\n#define VALUE 2\n")
    assert value_in(source) == 2


def test_places_that_do_not_matter_do_not_count(
    source: Path, headers: Callable[[str, int], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    behind = source.parent / "behind"
    monkeypatch.setenv("CPATH", str(behind))
    behind.mkdir()
    built = compilation.object_of(source)
    headers("behind", 9)
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: pytest.fail("compiled again"))
    assert compilation.object_of(source) == built


@pytest.fixture
def built(source: Path) -> Path:
    """An object that came with its source, as the selftests' objects do in the wheel."""
    made = prebuilt.build(source.parent, source.parent, named="here")
    assert [file.name for file in made] == ["source.bpf.o", "prebuilt.json"]
    prebuilt._read.cache_clear()
    return made[0]


def test_object_that_came_with_its_source_is_taken(
    source: Path, built: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert value_in(source) == 7
    monkeypatch.setattr(compilation, "clang", lambda: None)
    os.utime(built, (0, 0))  # as installers leave it
    assert compilation.object_of(source) == built
    assert str(source.parent).encode() not in built.read_bytes()


def test_edited_source_is_compiled_anew(source: Path, built: Path) -> None:
    (source.parent / "value.h").write_text("#define VALUE 9\n")
    assert compilation.object_of(source) != built
    assert value_in(source) == 9


def test_object_of_another_machine_is_not_taken(
    source: Path, built: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert prebuilt.find(source) == built
    monkeypatch.setattr(platform, "machine", lambda: "another")
    assert prebuilt.find(source) is None


def test_object_that_merely_stands_beside_is_not_taken(source: Path) -> None:
    """Nothing says which source it was compiled from. A user who wants it names the object."""
    source.with_suffix(".o").write_bytes(b"anything")
    assert value_in(source) == 7


def test_cache_that_can_not_be_written(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocked = source.parent / "blocked"
    blocked.write_text("a file where the cache's directory should be")
    monkeypatch.setenv("BPFLINK_CACHE", str(blocked))
    assert value_in(source) == 7
    assert not compilation.object_of(source).is_relative_to(source.parent)


COUNT = """
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

unsigned int packets, largest;

SEC("xdp")
int count(struct xdp_md *ctx)
{
	unsigned int before = packets, length = ctx->data_end - ctx->data;

	%s__sync_fetch_and_add(&packets, 1);
	if (length > largest)
		largest = length;
	return before;
}
"""
# What 32-bit jumps begin with, which came with the instruction set v3: `if w1 > w2`, and its like.
JUMPS = {0x06 | operation << 4 | source << 3 for operation in range(1, 14) for source in (0, 1)}


@pytest.mark.parametrize(
    ("use", "is_newer"), [("", False), ("before = ", True)], ids=["counts", "uses the result"]
)
def test_newer_instructions_only_where_they_are_needed(
    tmp_path: Path, use: str, *, is_newer: bool
) -> None:
    source = tmp_path / "count.bpf.c"
    source.write_text(COUNT % use)
    with Object.open(source) as loaded:
        loaded.load()
        count = loaded.program("count")
        assert [count.run(data=bytes(64)).retval for _ in range(3)] == [0, 1, 2]
        size = libbpf.call("bpf_program__insn_cnt", count.pointer, doing="count")
        first = libbpf.call("bpf_program__insns", count.pointer, doing="read")
        assert bool(JUMPS & {*ctypes.string_at(first, size * 8)[::8]}) is is_newer


def test_instruction_set_of_the_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BPFLINK_CFLAGS", "-mcpu=v1")
    source = tmp_path / "count.bpf.c"
    source.write_text(COUNT % "before = ")
    with pytest.raises(CompileError) as caught:
        compilation.object_of(source)
    assert "XADD" in caught.value.log


def test_without_clang(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compilation, "clang", lambda: None)
    with pytest.raises(CompileError, match=r"clang is not installed .*apt install clang"):
        compilation.object_of(source)
    assert compilation.clang_version() == ""


def test_nothing_is_left_of_a_failed_compilation(source: Path) -> None:
    (source.parent / "value.h").unlink()
    with pytest.raises(BpfError, match=r"'value.h' file not found"):
        compilation.object_of(source)
    kept = [file for file in (source.parent / "cache").rglob("*") if file.is_file()]
    assert [file.name for file in kept] == ["failure.json"]


def test_vmlinux_header(source: Path) -> None:
    """`vmlinux.h` is made from the running kernel's BTF, and CO-RE needs it."""
    source.write_text("""
#include "vmlinux.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>

int pid;

SEC("raw_tp/sys_enter")
int read_pid(void *ctx)
{
	struct task_struct *task = (void *)bpf_get_current_task();

	pid = BPF_CORE_READ(task, tgid);
	return 0;
}

char LICENSE[] SEC("license") = "GPL";
""")
    with Object.open(source).load() as loaded, loaded.program("read_pid").attach():
        os.getppid()
        assert loaded.bss["pid"] != 0


def test_processes_at_once_make_one_object(source: Path) -> None:
    script = (
        "import sys; from pytest_bpflink.building.compilation import object_of;"
        " print(object_of(sys.argv[1]))"
    )
    started = [
        subprocess.Popen([sys.executable, "-c", script, source], stdout=subprocess.PIPE, text=True)
        for _ in range(4)
    ]
    outputs = {process.communicate()[0].strip() for process in started}
    assert len(outputs) == 1
    built = Path(outputs.pop())
    assert sorted(path.name for path in built.parent.parent.rglob("*") if path.is_file()) == [
        "parts.json",
        "source.bpf.o",
    ]


def test_prepared_sources_are_not_compiled_in_guests(
    source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A prepared source is not compiled again, even on a kernel with other types."""
    monkeypatch.delenv("BPFLINK_VMLINUX_H", raising=False)
    broken = source.with_name("broken.bpf.c")
    broken.write_text("nonsense")
    with_types = source.with_name("types.bpf.c")
    with_types.write_text('#include "vmlinux.h"\nint value;\n')
    compiled: list[Path] = []
    compilation.prepare([broken, source, with_types], before_each=compiled.append)
    assert compiled == [broken, source, with_types]

    monkeypatch.setattr(compilation, "_compiled", {})
    monkeypatch.setattr(kernel_types, "_KERNEL_BTF", source)  # another kernel's
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: pytest.fail("compiled again"))
    assert compilation.object_of(source).name == "source.bpf.o"
    assert compilation.object_of(with_types).name == "types.bpf.o"
    with pytest.raises(CompileError, match="unknown type name 'nonsense'"):
        compilation.object_of(broken)


def test_the_error_is_kept_as_the_object_is(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source.write_text('#include "part.h"\n')
    compilation.prepare([source], before_each=lambda _: None)
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: pytest.fail("compiled again"))
    monkeypatch.setattr(object_cache, "_contents", {})  # as another process finds it
    with pytest.raises(CompileError, match=r"'part.h' file not found"):
        compilation.object_of(source)
    announced: list[Path] = []
    compilation.prepare([source], before_each=announced.append)
    assert announced == []


@pytest.mark.parametrize(
    ("said", "status"),
    [
        ("x.c:1:1: error: no\n", -9),
        ("clang: error: unable to execute command: Killed\n", 1),
        ("x.c:1:10: fatal error: cannot open file './value.h': Too many open files\n", 1),
    ],
)
def test_an_error_that_the_machine_may_be_the_cause_of_is_not_kept(
    source: Path, monkeypatch: pytest.MonkeyPatch, said: str, status: int
) -> None:
    failed = subprocess.CompletedProcess([], status, b"", said.encode())
    with monkeypatch.context() as first:
        first.setattr(subprocess, "run", lambda *_, **__: failed)
        with pytest.raises(CompileError):
            compilation.object_of(source)
    assert value_in(source) == 7


@pytest.mark.parametrize("place", ["part.h", "named/part.h"])
def test_the_error_is_not_believed_once_the_missing_header_is_there(
    source: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    monkeypatch.setenv("CPATH", str(source.parent / "named"))
    source.write_text('#include "value.h"\n#include "part.h"\n')
    compilation.prepare([source], before_each=lambda _: None)
    header = source.parent / place
    header.parent.mkdir(exist_ok=True)
    header.write_text("int value;\n")
    assert compilation.object_of(source).name == "source.bpf.o"


def test_the_error_is_not_believed_once_a_header_changed(source: Path) -> None:
    header = source.with_name("value.h")
    header.write_text("#error no value\n")
    compilation.prepare([source], before_each=lambda _: None)
    header.write_text("#define VALUE 9\n")
    assert value_in(source) == 9


def test_source_that_is_compiled_already_is_not_announced(source: Path) -> None:
    compiled: list[Path] = []
    compilation.object_of(source)
    compilation.prepare([source], before_each=compiled.append)
    assert compiled == []
