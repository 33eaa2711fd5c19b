"""Layouts of big-endian machines, read on this one: BTF of clang's, and statfs(2)'s struct."""

from __future__ import annotations

import struct
import subprocess
from typing import TYPE_CHECKING

import pytest

from pytest_bpflink.binding.btf import Btf
from pytest_bpflink.building.clang import clang
from pytest_bpflink.introspection.pins import MAGIC, _first_member

if TYPE_CHECKING:
    from pathlib import Path

SOURCE = """
enum color { red = 1 };
struct inner { unsigned char x : 4, y : 4; };
struct it {
    unsigned three : 3;
    int five : 5;
    unsigned char byte;
    int seven : 7;
    unsigned nine : 9;
    struct inner inner;
    int whole;
    double ratio;
    enum color color;
    unsigned short numbers[2];
};
struct it value = {5, -3, 200, -60, 300, {2, 9}, 0x01020304, 0.5, red, {1, 258}};
"""
VALUE = {
    "three": 5,
    "five": -3,
    "byte": 200,
    "seven": -60,
    "nine": 300,
    "inner": {"x": 2, "y": 9},
    "whole": 0x01020304,
    "ratio": 0.5,
    "color": 1,
    "numbers": [1, 258],
}

TARGETS = ("bpfel", "bpfeb")


def _sections(built: bytes) -> dict[str, bytes]:
    """Return the contents of an ELF file's sections by name."""
    order = "<" if built[5] == 1 else ">"
    (start,) = struct.unpack_from(f"{order}Q", built, 40)
    size, count, of_names = struct.unpack_from(f"{order}HHH", built, 58)
    headers = [
        struct.unpack_from(f"{order}IIQQQQ", built, start + at * size) for at in range(count)
    ]
    names = headers[of_names][4]
    found = {}
    for name, _, _, _, offset, length in headers:
        end = built.index(0, names + name)
        found[built[names + name : end].decode()] = built[offset : offset + length]
    return found


@pytest.fixture(params=TARGETS)
def compiled(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Btf, int, bytes]:
    """The BTF of SOURCE, the type of its variable, and the variable's bytes."""
    compiler = clang()
    if compiler is None:
        pytest.skip("clang is not installed")
    source, built = tmp_path / "value.c", tmp_path / "value.o"
    source.write_text(SOURCE)
    how = ("-target", request.param, "-O2", "-g", "-c", str(source), "-o", str(built))
    subprocess.run([compiler, *how], check=True)
    sections = _sections(built.read_bytes())
    btf = Btf(sections[".BTF"])
    return btf, btf.section(".data")["value"].type_id, sections[".data"]


def test_values_are_read_as_clang_lays_them_out(compiled: tuple[Btf, int, bytes]) -> None:
    btf, type_id, data = compiled
    assert btf.decode(type_id, data) == VALUE


@pytest.mark.parametrize("name", list(VALUE))
def test_a_written_member_leaves_its_neighbours(
    compiled: tuple[Btf, int, bytes], name: str
) -> None:
    btf, type_id, data = compiled
    zero = {"inner": {"x": 0, "y": 0}, "numbers": [0, 0]}.get(name, 0)
    written = btf.encode(type_id, {name: zero}, data)
    assert btf.decode(type_id, written) == VALUE | {name: zero}
    assert btf.encode(type_id, {name: VALUE[name]}, written) == data


def test_bytes_that_are_no_btf_are_refused() -> None:
    with pytest.raises(ValueError, match="not BTF: it begins with 7f45"):
        Btf(b"\x7fELF")


@pytest.mark.parametrize(
    ("layout", "size", "order"),
    [("<qq", 8, "little"), (">II", 4, "big"), (">qq", 8, "big")],
    ids=["x86", "s390x", "other big-endian machines"],
)
def test_type_of_a_file_system_is_the_first_member(layout: str, size: int, order: str) -> None:
    statfs = struct.pack(layout, MAGIC, 4096).ljust(120, b"\xff")
    assert _first_member(statfs, size, order) == MAGIC  # type: ignore[arg-type]
