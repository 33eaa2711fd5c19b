"""The host prepares rewritten modules and BPF objects before guests start."""

from __future__ import annotations

import marshal
import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.nobody import NOBODY

if TYPE_CHECKING:
    from collections.abc import Callable

    Run = Callable[..., pytest.RunResult]


@pytest.fixture
def cache(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Path:
    cache = pytester.mkdir("cache")
    monkeypatch.setenv("BPFLINK_CACHE", str(cache))
    return cache


def rewritten(directory: Path) -> list[str]:
    return sorted(file.name.partition(".")[0] for file in directory.rglob("*-pytest-*.pyc"))


@pytest.mark.usefixtures("cache")
def test_sources_that_tests_name_are_compiled_before_guests_boot(
    pytester: pytest.Pytester, with_fakes: Run
) -> None:
    for name in ("here/x/one", "here/node_modules/two", "here/venv/three", "elsewhere/four"):
        file = pytester.path / f"{name}.bpf.c"
        file.parent.mkdir(parents=True)
        file.write_text(f"int {Path(name).name};\n")
    (pytester.path / "here/venv/pyvenv.cfg").touch()
    (pytester.path / "here/unnamed.bpf.c").write_text("int unnamed;\n")
    tests = "names = ['one', 'two', 'three', 'four']\ndef test_x(): pass"
    (pytester.path / "here/test_x.py").write_text(tests)
    (pytester.path / "here/test_y.py").write_text("unnamed = 1")

    result = with_fakes("--kernel", "good", "here/test_x.py::test_x")

    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["compiling one.bpf.c", "booting good"])
    for other in ("two", "three", "four", "unnamed"):
        result.stdout.no_fnmatch_line(f"compiling {other}.bpf.c")


@pytest.mark.usefixtures("cache")
def test_sources_in_other_directories_are_compiled_if_tests_name_them(
    pytester: pytest.Pytester, with_fakes: Run
) -> None:
    pytester.makeini("[pytest]\nbpflink_sources = src/bpf\nbpflink_cflags = -DLIMIT=3")
    (pytester.path / "src/bpf/deeper").mkdir(parents=True)
    for name in ("deeper/named", "other"):
        (pytester.path / f"src/bpf/{name}.bpf.c").write_text("int limit = LIMIT;\n")
    (pytester.path / "tests").mkdir()
    (pytester.path / "tests/conftest.py").write_text("PROGRAM = '../src/bpf/deeper/named.bpf.c'")
    (pytester.path / "tests/test_x.py").write_text("def test_x(): pass")

    result = with_fakes("--kernel", "good", "tests")

    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["compiling named.bpf.c", "booting good"])
    result.stdout.no_fnmatch_line("compiling other.bpf.c")


@pytest.mark.usefixtures("cache")
def test_the_error_of_a_source_is_that_of_the_test_that_asks_for_it(
    pytester: pytest.Pytester, with_fakes: Run
) -> None:
    (pytester.path / "x.bpf.c").write_text("nonsense")
    pytester.makepyfile(
        """
        import subprocess
        from pytest_bpflink.building.compilation import object_of

        def test_x(request):
            # In the guest it must not be run.
            subprocess.run = None
            object_of(request.path.with_name("x.bpf.c"))

        def test_y(): pass
        """
    )

    result = with_fakes("--kernel", "good")

    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(["*CompileError: *compile *x.bpf.c*", "*unknown type name*"])


@pytest.mark.skipif(os.geteuid() != 0, reason="giving files to others needs root")
@pytest.mark.parametrize("whose", ["file", "directory"])
def test_rewritten_module_that_another_user_may_have_written_is_not_executed(
    pytester: pytest.Pytester,
    with_fakes: Run,
    monkeypatch: pytest.MonkeyPatch,
    cache: Path,
    whose: str,
) -> None:
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    module = pytester.makepyfile("def test_x(): pass")
    with_fakes("--kernel", "good").assert_outcomes(passed=1)
    (planted,) = cache.rglob(f"{module.stem}*.pyc")
    executed = pytester.path / "executed"
    code = compile(f"open({str(executed)!r}, 'w')", "planted", "exec")
    planted.write_bytes(planted.read_bytes()[:16] + marshal.dumps(code))
    os.chown(planted if whose == "file" else planted.parent, NOBODY, -1)

    result = with_fakes("--kernel", "good")

    result.assert_outcomes(passed=1)
    assert not executed.exists()
    result.stdout.fnmatch_lines([f"bpflink: {cache}/pycache in the cache is not used, since *"])


@pytest.mark.parametrize("writes", ["beside", "in the cache"])
def test_guests_need_not_rewrite_tests_nor_the_plugin(
    pytester: pytest.Pytester,
    with_fakes: Run,
    monkeypatch: pytest.MonkeyPatch,
    cache: Path,
    *,
    writes: str,
) -> None:
    monkeypatch.delenv("PYTHONDONTWRITEBYTECODE", raising=False)
    if writes == "in the cache":
        monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    pytester.makepyfile(
        test_x="""
        import os
        from conftest import compiled

        def test_x():
            assert "FAKE_GUEST_CONSOLE" in os.environ
            assert not {"test_x.py", "test_z.py", "probing.py"} & compiled
        """,
        test_broken="this is no Python",
        test_z="from test_x import test_x",
        other="",
    )
    pytester.makeconftest(
        """
        import os, sys

        compiled = set()

        def note(event, arguments):
            if event == "compile" and arguments[1]:
                compiled.add(os.path.basename(os.fsdecode(arguments[1])))

        sys.addaudithook(note)
        import pytest_bpflink.features.probing
        """
    )

    result = with_fakes("--kernel", "good", "--continue-on-collection-errors")

    assert result.parseoutcomes()["passed"] == 2
    written = cache if writes == "in the cache" else pytester.path
    assert {"test_x", "test_z", "conftest"} <= set(rewritten(written))
    if writes == "in the cache":
        assert not list(pytester.path.glob("__pycache__/*"))
        assert str(pytester.path)[1:] in str(next(cache.rglob("test_x*.pyc")))


def test_assertions_that_are_not_rewritten_stay_so(
    pytester: pytest.Pytester, with_fakes: Run, cache: Path
) -> None:
    pytester.makepyfile("def test_x(): pass")

    with_fakes("--kernel", "good", "--assert=plain").assert_outcomes(passed=1)

    assert rewritten(cache) == rewritten(pytester.path) == []
