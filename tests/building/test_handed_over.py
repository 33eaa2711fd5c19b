"""BPF objects that a host compiles for guests of another architecture, and hands to them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pytest_bpflink import CompileError
from pytest_bpflink.building import compilation, handed_over, kernel_types
from pytest_bpflink.building.clang import Target, clang
from tests.support.kernel_trees import write

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_bpflink.building.recipe import Made

SOURCE = """
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#include <asm/of_guest.h>

int value = OF_GUEST;
#ifndef __TARGET_ARCH_s390
#error "no s390"
#endif

SEC("cgroup_skb/egress")
int keep(struct __sk_buff *skb)
{
	return value & 1;
}
"""
KERNEL_TYPES = '#include "vmlinux.h"\nint value = OF_KERNEL;\n'


@pytest.fixture
def target(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Target:
    """A big-endian machine, with headers of its own."""
    monkeypatch.setenv("BPFLINK_CACHE", str(tmp_path / "cache"))
    write(tmp_path / "headers/asm/types.h", "#include <asm-generic/types.h>\n")
    write(tmp_path / "headers/asm/posix_types.h", "#include <asm-generic/posix_types.h>\n")
    write(tmp_path / "headers/asm/bitsperlong.h", "#define __BITS_PER_LONG 64\n")
    write(tmp_path / "headers/asm/of_guest.h", "#define OF_GUEST 0x01020304\n")
    return Target("s390x", "big", tmp_path / "headers")


def _be_handed(made: dict[Path, Made], directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Be a guest that is handed what was made."""
    # A guest reads the file once.
    handed_over._read.cache_clear()
    text = handed_over.describe(made).decode()
    monkeypatch.setenv(handed_over.VARIABLE, str(write(directory / "handed.json", text)))


@pytest.fixture
def hand_over(
    target: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., list[str]]:
    """Compile sources and be the guest that is handed the objects; return what was compiled."""

    def header() -> Path:
        return write(tmp_path / "types/vmlinux.h", "#define OF_KERNEL 7\n")

    def hand(*sources: Path) -> list[str]:
        said: list[str] = []
        made = compilation.made_for_each(
            sources, target, header=header, before_each=lambda source: said.append(source.name)
        )
        _be_handed(made, tmp_path, monkeypatch)
        # The guest has no clang.
        monkeypatch.setattr(compilation, "clang", lambda: None)
        monkeypatch.setattr(compilation, "_compiled", {})
        return said

    return hand


def test_object_is_for_the_guests_machine(
    hand_over: Callable[..., list[str]], tmp_path: Path
) -> None:
    source = write(tmp_path / "it.bpf.c", SOURCE)
    assert hand_over(source) == ["it.bpf.c"]
    built = compilation.object_of(source)
    image = built.read_bytes()
    assert (built.name, image[:6]) == ("it.bpf.o", b"\x7fELF\x02\x02")
    assert bytes.fromhex("01020304") in image


def test_source_includes_the_types_of_the_guests_kernel(
    hand_over: Callable[..., list[str]], tmp_path: Path
) -> None:
    source = write(tmp_path / "it.bpf.c", KERNEL_TYPES)
    hand_over(source)
    assert bytes.fromhex("00000007") in compilation.object_of(source).read_bytes()


def test_object_is_compiled_once(
    hand_over: Callable[..., list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write(tmp_path / "it.bpf.c", SOURCE)
    with monkeypatch.context() as first:
        hand_over(source)
        first.setattr(compilation, "clang", clang)
        assert hand_over(source) == []


def test_guest_says_why_a_source_does_not_compile(
    hand_over: Callable[..., list[str]], tmp_path: Path
) -> None:
    source = write(tmp_path / "it.bpf.c", "int value = missing;\n")
    hand_over(source)
    with pytest.raises(CompileError, match="use of undeclared identifier 'missing'"):
        compilation.object_of(source)


@pytest.mark.parametrize("change", ["edited", "new"])
def test_source_that_the_host_has_not_compiled(
    hand_over: Callable[..., list[str]], tmp_path: Path, change: str
) -> None:
    source = write(tmp_path / "it.bpf.c", SOURCE)
    hand_over(source)
    other = write(tmp_path / ("it.bpf.c" if change == "edited" else "new.bpf.c"), SOURCE + "\n")
    with pytest.raises(CompileError) as caught:
        compilation.object_of(other)
    assert str(caught.value) == (
        f"compile {other}: ENOENT (No such file or directory); clang is not installed in this"
        " guest; the host compiles what pytest's own process asks for, with the variables that the"
        " host has itself (CPATH and others)"
    )


def test_host_without_clang(
    hand_over: Callable[..., list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compilation, "clang", lambda: None)
    source = write(tmp_path / "it.bpf.c", SOURCE)
    hand_over(source)
    with pytest.raises(CompileError, match="clang is not installed"):
        compilation.object_of(source)


def test_kernel_without_btf_has_no_types(
    target: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write(tmp_path / "it.bpf.c", KERNEL_TYPES)
    made = compilation.made_for_each(
        [source],
        target,
        header=lambda: kernel_types.of_kernel("a kernel", lambda: None),
        before_each=lambda _: None,
    )
    _be_handed(made, tmp_path, monkeypatch)
    with pytest.raises(CompileError, match="no BTF was found in the kernel's image"):
        compilation.object_of(source)


def test_types_are_those_of_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BPFLINK_CACHE", str(tmp_path / "cache"))
    running = Path("/sys/kernel/btf/vmlinux")
    if not running.exists():
        pytest.skip("this kernel has no BTF")
    header = kernel_types.of_kernel("a kernel", running.read_bytes)
    assert "struct task_struct {" in header.read_text()
    assert kernel_types.of_kernel("a kernel", lambda: None) == header
