"""Compiling `.bpf.c`: what the cache's key is made of, and what becomes of it without a cache."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from pytest_bpflink import BpfError, CompileError, Object
from pytest_bpflink.building import compilation as compiling
from pytest_bpflink.building import prebuilt
from tests.support.nobody import NOBODY

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
    built = compiling.object_of(source)
    assert built.name == "source.bpf.o"
    assert built.is_relative_to(source.parent / "cache")

    monkeypatch.setattr(subprocess, "run", lambda *_, **__: pytest.fail("compiled again"))
    assert compiling.object_of(source) == built
    monkeypatch.setattr(compiling, "_compiled", {})  # as another process finds it
    assert compiling.object_of(source) == built


@pytest.mark.skipif(os.geteuid() != 0, reason="giving files to others needs root")
@pytest.mark.parametrize("planted", ["parts.json", "object", "entry", "objects"])
def test_object_that_another_user_may_have_written_is_compiled_again(
    source: Path, planted: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    built = compiling.object_of(source)
    right = built.read_bytes()
    entry = built.parents[1]
    built.write_bytes(b"planted")
    places = {"parts.json": entry / planted, "object": built, "entry": entry}
    os.chown(places.get(planted, entry.parent), NOBODY, -1)
    monkeypatch.setattr(compiling, "_compiled", {})  # as another process finds it

    assert compiling.object_of(source).read_bytes() == right


def test_compiled_once_by_two_names(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (source.parent / "elsewhere").symlink_to(source.parent)
    built = compiling.object_of(source)

    monkeypatch.setattr(subprocess, "run", lambda *_, **__: pytest.fail("compiled again"))
    assert compiling.object_of(source.parent / "elsewhere" / source.name) == built


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


def test_compiled_again_when_a_header_changes(source: Path) -> None:
    first = compiling.object_of(source)
    assert value_in(source) == 7
    (source.parent / "value.h").write_text("#define VALUE 9\n")
    assert value_in(source) == 9
    (source.parent / "value.h").write_text("#define VALUE 7\n")
    assert compiling.object_of(source) == first


@pytest.fixture
def built(source: Path) -> Path:
    """An object that came with its source, as those of the selftests do in the wheel."""
    made = prebuilt.build(source.parent, source.parent, named="here")
    assert [file.name for file in made] == ["source.bpf.o", "prebuilt.json"]
    prebuilt._read.cache_clear()
    return made[0]


def test_object_that_came_with_its_source_is_taken(
    source: Path, built: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert value_in(source) == 7
    monkeypatch.setattr(compiling, "clang", lambda: None)
    os.utime(built, (0, 0))  # as installers leave it
    assert compiling.object_of(source) == built
    assert str(source.parent).encode() not in built.read_bytes()


def test_edited_source_is_compiled_anew(source: Path, built: Path) -> None:
    (source.parent / "value.h").write_text("#define VALUE 9\n")
    assert compiling.object_of(source) != built
    assert value_in(source) == 9


def test_object_of_another_machine_is_not_taken(
    source: Path, built: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert prebuilt.find(source) == built
    monkeypatch.setattr(platform, "machine", lambda: "another")
    assert prebuilt.find(source) is None


def test_object_that_merely_stands_beside_is_not_taken(source: Path) -> None:
    """Nothing says what it was made of; who means it names it."""
    source.with_suffix(".o").write_bytes(b"anything")
    assert value_in(source) == 7


def test_cache_that_can_not_be_written(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocked = source.parent / "blocked"
    blocked.write_text("a file where the cache's directory should be")
    monkeypatch.setenv("BPFLINK_CACHE", str(blocked))
    assert value_in(source) == 7
    assert not compiling.object_of(source).is_relative_to(source.parent)


def test_without_clang(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiling, "clang", lambda: None)
    with pytest.raises(CompileError, match=r"clang is not installed .*apt install clang"):
        compiling.object_of(source)
    assert compiling.clang_version() == ""


def test_nothing_is_left_of_a_failed_compilation(source: Path) -> None:
    (source.parent / "value.h").unlink()
    with pytest.raises(BpfError, match=r"'value.h' file not found"):
        compiling.object_of(source)
    assert not (source.parent / "cache").exists()


def test_vmlinux_header(source: Path) -> None:
    """`vmlinux.h` is made of the running kernel's BTF, and is what CO-RE needs."""
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


def test_prepared_for_guests(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was prepared is not compiled again, even where the kernel's types are others."""
    monkeypatch.delenv("BPFLINK_VMLINUX_H", raising=False)
    broken = source.with_name("broken.bpf.c")
    broken.write_text("nonsense")
    with_types = source.with_name("types.bpf.c")
    with_types.write_text('#include "vmlinux.h"\nint value;\n')
    compiled: list[Path] = []
    compiling.prepare([broken, source, with_types], before_each=compiled.append)
    assert compiled == [broken, source, with_types]

    monkeypatch.setattr(compiling, "_compiled", {})
    monkeypatch.setattr(compiling, "_KERNEL_BTF", source)  # another kernel's
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: pytest.fail("compiled again"))
    assert compiling.object_of(source).name == "source.bpf.o"
    assert compiling.object_of(with_types).name == "types.bpf.o"
    with pytest.raises(CompileError, match="unknown type name 'nonsense'"):
        compiling.object_of(broken)


def test_the_error_of_another_run_is_not_believed(
    source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    header = source.with_name("part.h")
    source.write_text('#include "part.h"\n')
    compiling.prepare([source], before_each=lambda _: None)
    header.write_text("int value;\n")
    with pytest.raises(CompileError):
        compiling.object_of(source)

    monkeypatch.setenv("BPFLINK_RUN", "another")
    assert compiling.object_of(source).name == "source.bpf.o"


def test_what_is_compiled_already_is_not_announced(source: Path) -> None:
    compiled: list[Path] = []
    compiling.object_of(source)
    compiling.prepare([source], before_each=compiled.append)
    assert compiled == []
