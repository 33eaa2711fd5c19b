"""Guests ask their host to compile what it has not compiled before they started."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_bpflink.building import answering, asking, compilation
from pytest_bpflink.building.recipe import CFLAGS, Made, Recipe
from pytest_bpflink.matrix.messages import said
from pytest_bpflink.matrix.plain_values import DamagedError, dumps, loads, plain
from tests.support.kernel_trees import write
from tests.support.stored_kernels import CACHE

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_bpflink.building.asking import Request

    Run = Callable[..., pytest.RunResult]

TESTS = """
import subprocess
import pytest
from pytest_bpflink import CompileError, Object
from pytest_bpflink.building import clang, compilation

@pytest.fixture(autouse=True)
def no_clang_here(monkeypatch, request):
    if request.node.get_closest_marker("on_kernel").kwargs["spec"] != "native":
        monkeypatch.setattr(clang.subprocess, "run", None)

def value_in(opened):
    with opened:
        return opened.data["value"]

def test_macros():
    for number in (3, 4):
        assert value_in(Object.open("it.bpf.c", defines={"LIMIT": number})) == number + 1

def test_text(bpf_source):
    assert value_in(Object.open(bpf_source("int value = 5;"))) == 5

def test_several(bpf_source):
    sources = [bpf_source("int value = 6;"), bpf_source("int other = 6;", name="other")]
    assert value_in(Object.open(sources)) == 6

def test_files_that_only_the_guest_has(tmp_path):
    (tmp_path / "inc").mkdir()
    (tmp_path / "inc/a.h").write_text('#include "../b.h"')
    (tmp_path / "x.bpf.c").write_text("#include <inc/a.h>\\nint value = B;")
    for number in (7, 8):
        (tmp_path / "b.h").write_text(f"#define B {number}")
        assert value_in(Object.open(tmp_path / "x.bpf.c", include=[tmp_path])) == number

def test_header_that_is_new_in_an_earlier_place(tmp_path):
    (tmp_path / "late").mkdir()
    (tmp_path / "late/c.h").write_text("#define C 9")
    (tmp_path / "x.bpf.c").write_text("#include <c.h>\\nint value = C;")
    include = [tmp_path / "early", tmp_path / "late"]
    assert value_in(Object.open(tmp_path / "x.bpf.c", include=include)) == 9
    (tmp_path / "early").mkdir()
    (tmp_path / "early/c.h").write_text("#define C 10")
    assert value_in(Object.open(tmp_path / "x.bpf.c", include=include)) == 10

def test_error(tmp_path):
    (tmp_path / "x.bpf.c").write_text("int value = B;")
    with pytest.raises(CompileError) as raised:
        Object.open(tmp_path / "x.bpf.c")
    assert f"compile {tmp_path}/x.bpf.c: EINVAL (Invalid argument); clang" in str(raised.value)
    assert f"  {tmp_path}/x.bpf.c:1:13: error: use of undecl" in str(raised.value)
    with pytest.raises(OSError, match="no.bpf.c: ENOENT"):
        Object.open("no.bpf.c")

def test_fails(bpf_object):
    bpf_object("it.bpf.c")
"""


@pytest.fixture
def project(pytester: pytest.Pytester) -> pytest.Pytester:
    pytester.makeini("[pytest]\nbpflink_cflags = -Iheaders -DONE=1\naddopts = -p no:cacheprovider")
    write(pytester.path / "headers/one.h", "#define PLUS_ONE + ONE\n")
    write(pytester.path / "it.bpf.c", "#include <one.h>\nint value = LIMIT PLUS_ONE;\n")
    pytester.makepyfile(TESTS)
    return pytester


def _see_outcomes(result: pytest.RunResult, *, kernels: int) -> None:
    result.assert_outcomes(passed=6 * kernels, failed=kernels)
    output = result.stdout.str()
    place = "it.bpf.c:2:13: error: use of undeclared identifier 'LIMIT'"
    assert output.count(place) == kernels
    # Of the failed tests: no other line names a place in a file.
    frames = [line for line in result.outlines if re.match(r"\S+\.py:\d+: ", line)]
    assert len(frames) == kernels


@pytest.mark.usefixtures("project")
def test_host_compiles(with_fakes: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BPFLINK_CACHE", str(tmp_path / "cache"))
    _see_outcomes(with_fakes("--kernel", "native,good"), kernels=2)


def test_host_compiles_for_real_guests(
    project: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BPFLINK_CACHE", str(CACHE))
    result = project.runpytest_subprocess("--kernel", "5.10,7.2", timeout=300)
    _see_outcomes(result, kernels=2)


@pytest.mark.usefixtures("project")
def test_guest_that_compiles_itself_says_so(
    pytester: pytest.Pytester, with_fakes: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BPFLINK_CACHE", str(tmp_path / "cache"))
    pytester.makepyfile(
        test_own="""
        from pytest_bpflink import Object

        def test_own(monkeypatch, tmp_path):
            (tmp_path / "limit.h").write_text("#define LIMIT 5\\n")
            (tmp_path / "x.bpf.c").write_text("#include <limit.h>\\nint value = LIMIT;")
            monkeypatch.setenv("CPATH", str(tmp_path))
            with Object.open(tmp_path / "x.bpf.c") as opened:
                assert opened.data["value"] == 5
        """
    )
    result = with_fakes("--kernel", "good", "test_own.py")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(
        ["[[]good] x.bpf.c is compiled in the guest, *: clang's variables*"]
    )


@pytest.mark.usefixtures("project")
def test_guest_without_clang_says_why_the_host_did_not_compile(
    pytester: pytest.Pytester, with_fakes: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BPFLINK_CACHE", str(tmp_path / "cache"))
    pytester.makepyfile(
        test_own="""
        import pytest
        from pytest_bpflink import CompileError, Object
        from pytest_bpflink.building import clang, compilation
        from pytest_bpflink.matrix.worker import host_compiler

        def test_own(monkeypatch, tmp_path, bpf_source):
            for module in (clang, compilation):
                monkeypatch.setattr(module, "clang", lambda: None)
            with Object.open(bpf_source("int value = 5;")) as opened:
                assert opened.data["value"] == 5
            source = bpf_source("int value = 6;")
            monkeypatch.setattr(host_compiler, "_WITHOUT_CLANG_SECONDS", 0)
            with pytest.raises(CompileError, match="guest, and the host has not answered for 0 s"):
                Object.open(source)
            monkeypatch.setattr(host_compiler, "_WITHOUT_CLANG_SECONDS", 60)
            monkeypatch.setenv("CPATH", str(tmp_path))
            with pytest.raises(CompileError) as raised:
                Object.open(source)
            said = f"compile {source}: ENOENT (No such file or directory); clang is not installed"
            assert f"{said} in this guest, and clang's variables (CPATH" in str(raised.value)
            assert "set them before pytest starts, or give bpf_object() inc" in str(raised.value)
        """
    )
    result = with_fakes("--kernel", "good", "test_own.py")
    result.assert_outcomes(passed=1)
    assert "is compiled in the guest" not in result.stdout.str()


@pytest.fixture
def request_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Request]:
    monkeypatch.setenv("BPFLINK_CACHE", str(tmp_path / "cache"))

    def make(text: str) -> Request:
        return asking.request_for(Recipe.of(write(tmp_path / "x.bpf.c", text), {"A": 1}))

    return make


def test_request_arrives_as_it_was_sent(request_of: Callable[[str], Request]) -> None:
    request = request_of("int value = A;\n")
    message = dumps(("compile", plain((1, request.plain))))
    assert said(message) == ("compile", (1, request))


def _damages() -> dict[str, Callable[[list[Any]], None]]:
    def option_for_a_source(parts: list[Any]) -> None:
        parts[0] = ("-fplugin=/x.c",)
        parts[3]["-fplugin=/x.c"] = b""

    def source_that_is_not_sent(parts: list[Any]) -> None:
        parts[0] = ("/etc/passwd.c",)

    def outside(parts: list[Any]) -> None:
        parts[3]["/a/../../etc/x.h"] = b""

    def option_for_a_macro(parts: list[Any]) -> None:
        parts[1] = (("A -o/x", "1"),)

    def end_of_an_argument(parts: list[Any]) -> None:
        parts[1] = (("A", "1\0"),)

    def number(parts: list[Any]) -> None:
        parts[3]["/a"] = 1

    def nothing(parts: list[Any]) -> None:
        parts.clear()

    every = (option_for_a_source, source_that_is_not_sent, outside, option_for_a_macro)
    return {each.__name__: each for each in (*every, end_of_an_argument, number, nothing)}


@pytest.mark.parametrize("damage", _damages())
def test_request_that_no_guest_sends_is_damage(
    request_of: Callable[[str], Request], damage: str
) -> None:
    parts = list(request_of("int value = A;\n").plain)
    _damages()[damage](parts)
    with pytest.raises(DamagedError):
        said(dumps(("compile", (1, tuple(parts)))))


def test_files_of_a_guest_are_compiled_and_not_those_of_the_host(
    request_of: Callable[[str], Request], tmp_path: Path
) -> None:
    request = request_of("int value = A;\nint of_the_guest = 7;\n")
    (tmp_path / "x.bpf.c").write_text("int value = 0;\n")
    answer = answering.answer(request, compilation.made)
    assert answer
    assert answer.image
    assert b"of_the_guest" in answer.image
    # Its debug information names the guest's file, and not the copy.
    assert str(tmp_path / "x.bpf.c").encode() in answer.image
    assert b"/cache/sent/" not in answer.image
    assert (tmp_path / "x.bpf.c").read_text() == "int value = 0;\n"
    assert loads(dumps(plain(tuple(answer)))) == tuple(answer)


def test_host_that_compiles_otherwise_says_nothing(
    request_of: Callable[[str], Request], monkeypatch: pytest.MonkeyPatch
) -> None:
    request = request_of("int value = A;\n")
    monkeypatch.setenv(CFLAGS, "-DB=1")
    assert answering.answer(request, lambda _: Made(Path("/never"))) is None
