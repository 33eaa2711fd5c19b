"""From a SPEC to a libbpf: which one is taken, and when one is built."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pytest_bpflink.binding import libbpf
from pytest_bpflink.building import libbpf_build
from pytest_bpflink.building.libbpf_choice import choose
from pytest_bpflink.building.libbpf_library import LibbpfError, check, release
from pytest_bpflink.vm.kernels.apt import AptError
from tests.support.libbpfs import copy_system_libbpf
from tests.support.nobody import NOBODY

if TYPE_CHECKING:
    from collections.abc import Callable

SOURCE = """
int bpf_object__open_file(void) { return 0; }
int libbpf_major_version(void) { return MAJOR; }
const char *libbpf_version_string(void) { return "v1.9.0"; }
"""
MAKEFILE = """
OUTPUT ?= $(OBJDIR)/
$(OUTPUT)libbpf.so: $(OUTPUT)libbpf.so.1.9.0
	ln -s libbpf.so.1.9.0 $@
$(OUTPUT)libbpf.so.1.9.0: libbpf.c
	echo built >> $(LOG)
	cc -shared -fPIC -DMAJOR=1 -o $@ libbpf.c
"""


class Said:
    """Keeps messages, in place of a terminal."""

    def __init__(self) -> None:
        self.passing: list[str] = []
        self.lines: list[str] = []

    def __call__(self, text: str) -> None:
        self.passing.append(text)

    def line(self, text: str) -> None:
        self.lines.append(text)

    def done(self) -> None:
        pass


class Workshop:
    """An empty cache, source trees that build in no time, and a count of builds."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.log = directory / "log"
        self.said = Said()

    def tree(self, place: str = "src") -> Path:
        makefile = self.directory / "tree" / place / "Makefile"
        makefile.parent.mkdir(parents=True)
        makefile.write_text(MAKEFILE)
        makefile.with_name("libbpf.c").write_text(SOURCE)
        return self.directory / "tree"

    def choose(self, spec: str | Path) -> Path:
        return Path(choose(str(spec), self.said, directory=self.directory))

    def builds(self) -> int:
        return len(self.log.read_text().splitlines()) if self.log.exists() else 0


@pytest.fixture
def workshop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workshop:
    monkeypatch.setenv("BPFLINK_CACHE", str(tmp_path / "cache"))
    workshop = Workshop(tmp_path)
    monkeypatch.setenv("LOG", str(workshop.log))
    return workshop


@pytest.fixture
def compiled(tmp_path: Path) -> Callable[..., Path]:
    """Compile C to a shared object in the test's directory."""

    def compile_c(source: str, *flags: str) -> Path:
        library = tmp_path / "compiled.so"
        command = ["cc", "-shared", "-fPIC", *flags, "-xc", "-", "-o", str(library)]
        subprocess.run(command, input=source, text=True, check=True)
        return library

    return compile_c


# Paths.


def test_system(workshop: Workshop) -> None:
    assert workshop.choose("system") == Path(libbpf.SONAME)


def test_shared_object(workshop: Workshop, compiled: Callable[..., Path]) -> None:
    library = compiled(SOURCE, "-DMAJOR=1")
    assert workshop.choose(library) == library


def test_library_is_unloaded_after_a_look_at_it(
    workshop: Workshop, compiled: Callable[..., Path]
) -> None:
    """While it is loaded, the dynamic linker returns it in place of the system's libbpf."""
    library = compiled(SOURCE, "-DMAJOR=1")
    assert release(str(workshop.choose(library))) == "1.9.0"
    assert str(library) not in Path("/proc/self/maps").read_text()


def test_relative_path_is_taken_from_the_given_directory(
    workshop: Workshop, compiled: Callable[..., Path]
) -> None:
    library = compiled(SOURCE, "-DMAJOR=1")
    assert workshop.choose(library.name) == library


@pytest.mark.parametrize(
    ("spec", "sentence"),
    [
        ("missing.so", "nor a path: no .*/missing.so"),
        ("", "a SPEC is needed"),
        ("0.8", "libbpf 1.0 is the first that will do"),
        (".", "no source tree of libbpf: it has neither src/libbpf.c nor"),
        (__file__, "can't be loaded: .*invalid ELF header"),
    ],
)
def test_unusable_spec(workshop: Workshop, spec: str, sentence: str) -> None:
    with pytest.raises(LibbpfError, match=sentence):
        workshop.choose(spec)


def test_another_library(workshop: Workshop, compiled: Callable[..., Path]) -> None:
    library = compiled("int sqrt_of_two;")
    with pytest.raises(LibbpfError, match="is no libbpf: it has no bpf_object__open_file"):
        workshop.choose(library)


@pytest.mark.parametrize(
    "source",
    [
        pytest.param("void bpf_object__open_file(void) {}", id="0.5"),
        pytest.param(SOURCE, id="0.6"),
    ],
)
def test_too_old(workshop: Workshop, compiled: Callable[..., Path], source: str) -> None:
    library = compiled(source, "-DMAJOR=0")
    with pytest.raises(LibbpfError, match=r"is older than libbpf 1\.0"):
        workshop.choose(library)


# Source trees.


@pytest.mark.parametrize("place", ["src", "tools/lib/bpf"])
def test_tree_is_built_once_and_not_written_to(workshop: Workshop, place: str) -> None:
    tree = workshop.tree(place)
    before = sorted(tree.rglob("*"))
    first = workshop.choose(tree)

    assert first == workshop.choose(tree)
    assert first.name == "libbpf.so.1.9.0"
    assert workshop.builds() == 1
    assert sorted(tree.rglob("*")) == before


@pytest.mark.skipif(os.geteuid() != 0, reason="giving files to others needs root")
@pytest.mark.parametrize("whose", ["the library", "its directory"])
def test_library_that_another_user_may_have_written_is_built_anew(
    workshop: Workshop, compiled: Callable[..., Path], whose: str
) -> None:
    tree = workshop.tree()
    library = workshop.choose(tree)
    executed = workshop.directory / "executed"
    source = f"""
#include <stdio.h>
__attribute__((constructor)) void run(void) {{ fclose(fopen("{executed}", "w")); }}
"""
    library.write_bytes(compiled(source).read_bytes())
    os.chown(library if whose == "the library" else library.parent, NOBODY, -1)

    assert workshop.choose(tree) == library

    assert release(str(library)) == "1.9.0"
    assert library.stat().st_uid == library.parent.stat().st_uid == 0
    assert workshop.builds() == 2
    assert not executed.exists()


def test_changed_tree_is_built_anew(workshop: Workshop) -> None:
    tree = workshop.tree()
    first = workshop.choose(tree)
    (tree / "src/libbpf.c").write_text(SOURCE + "int more;")

    assert workshop.choose(tree) != first
    assert workshop.builds() == 2


def test_tree_can_be_named_by_its_src(workshop: Workshop) -> None:
    tree = workshop.tree()
    assert workshop.choose(tree / "src") == workshop.choose(tree)


def test_tree_that_does_not_build(workshop: Workshop) -> None:
    tree = workshop.tree()
    (tree / "src/libbpf.c").write_text("int broken(")
    with pytest.raises(LibbpfError, match=r"make failed:\n(.|\n)*libbpf.c:1"):
        workshop.choose(tree)
    assert not list((workshop.directory / "cache/libbpf").glob("[!.]*"))


def test_missing_tools_are_named(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    tree = workshop.tree()
    monkeypatch.setenv("PATH", str(workshop.directory))
    with pytest.raises(LibbpfError, match=r"needed to build it: apt-get install make gcc$"):
        workshop.choose(tree)


def test_missing_headers_are_named(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    tree = workshop.tree()
    monkeypatch.setattr(libbpf_build, "_compiles", lambda source: "zlib" in source)
    with pytest.raises(LibbpfError, match=r"needed to build it: apt-get install libelf-dev$"):
        workshop.choose(tree)


def test_orders_for_an_outer_make_are_not_passed_on(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MAKEFLAGS", "n")  # as in `make -n test`: build nothing
    assert workshop.choose(workshop.tree()).exists()


def test_cache_that_cannot_be_written(workshop: Workshop) -> None:
    tree = workshop.tree()
    (workshop.directory / "cache").write_text("")
    with pytest.raises(LibbpfError, match=r"can't be written: .*; BPFLINK_CACHE names another"):
        workshop.choose(tree)


# Versions, from a made-up distribution.


class Distribution:
    """In place of apt: source packages by suite, reachable or not."""

    def __init__(self, tree: Path) -> None:
        self.tree = tree
        self.packages = {"sid": ["1.9.0-1", "1.9.0-2", "1.10.0-1"], "bookworm": ["1.1.2-1"]}
        self.reachable = True
        self.read: list[str] = []

    def __call__(self, directory: Path, suites: tuple[str, ...], *, kind: str) -> Distribution:
        assert kind == "deb-src"
        assert suites[0] in directory.name
        self.suite = suites[0]
        return self

    def update(self, progress: Callable[[str], None]) -> str:
        progress("reading the lists of packages")
        self.read.append(self.suite)
        return "" if self.reachable else "there is no network"

    def output(self, program: str, *arguments: str, cwd: Path | None = None) -> str:
        if program == "apt-cache":
            stanza = "Package: libbpf\nVersion: {}\nFiles:\n abc 1 libbpf.tar.gz\n\n"
            return "".join(stanza.format(version) for version in self.packages[self.suite])
        if not self.reachable:
            raise AptError("apt-get source failed")
        name, _, version = arguments[-1].partition("=")
        assert (name, cwd is None) == ("libbpf", False)
        with tarfile.open(f"{cwd}/libbpf_{version}.orig.tar.gz", "w:gz") as archive:
            archive.add(self.tree, "libbpf-upstream")
        return ""


@pytest.fixture
def distribution(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> Distribution:
    distribution = Distribution(workshop.tree())
    monkeypatch.setattr(libbpf_build, "Apt", distribution)
    return distribution


@pytest.mark.parametrize(
    ("spec", "version"),
    [("newest", "1.10.0-1"), ("1.9", "1.9.0-2"), ("1.9.0", "1.9.0-2"), ("1.1", "1.1.2-1")],
)
@pytest.mark.usefixtures("distribution")
def test_newest_that_matches_is_built(workshop: Workshop, spec: str, version: str) -> None:
    library = workshop.choose(spec)
    assert library == workshop.directory / "cache/libbpf" / version / "libbpf.so.1.9.0"
    assert workshop.builds() == 1


def test_older_suites_are_read_only_where_needed(
    workshop: Workshop, distribution: Distribution
) -> None:
    workshop.choose("newest")
    assert distribution.read == ["sid"]


@pytest.mark.usefixtures("distribution")
def test_version_that_does_not_exist(workshop: Workshop) -> None:
    with pytest.raises(LibbpfError, match=r"no libbpf 3\.1; it has 1\.1\.2, 1\.9\.0, 1\.10\.0$"):
        workshop.choose("3.1")


def test_built_version_needs_no_network(workshop: Workshop, distribution: Distribution) -> None:
    first = workshop.choose("1.9")
    distribution.read.clear()
    distribution.reachable = False

    assert workshop.choose("1.9.0") == first
    assert distribution.read == []
    assert workshop.builds() == 1


def test_newest_without_network_is_the_newest_built(
    workshop: Workshop, distribution: Distribution
) -> None:
    built = workshop.choose("1.9")
    distribution.reachable = False

    assert workshop.choose("newest") == built
    assert workshop.said.lines == [
        "libbpf newest: there is no network; 1.9.0 is the newest built here"
    ]


def test_nothing_built_and_no_network(workshop: Workshop, distribution: Distribution) -> None:
    distribution.reachable = False
    with pytest.raises(LibbpfError, match=r"there is no network, and no such libbpf is built yet"):
        workshop.choose("newest")


def test_interrupted_build_is_swept(workshop: Workshop) -> None:
    stale = workshop.directory / "cache/libbpf/.building-killed"
    stale.mkdir(parents=True)
    workshop.choose(workshop.tree())
    assert not stale.exists()


def test_library_that_is_no_libbpf(tmp_path: Path) -> None:
    library = tmp_path / "libbpf.so.1"
    command = ["cc", "-shared", "-fPIC", "-xc", "-", "-o", str(library)]
    subprocess.run(command, input=b"", check=True)
    load = (
        f"from pytest_bpflink.binding import libbpf; libbpf.use({str(library)!r}); libbpf.version()"
    )

    done = subprocess.run(
        [sys.executable, "-c", load], capture_output=True, text=True, check=False, timeout=20
    )

    assert re.search("call libbpf_set_print: EOPNOTSUPP .* unknown release$", done.stderr.strip())


# Options of pytest.


@pytest.mark.parametrize(
    ("option", "variable", "chosen"),
    [("a.so", "b.so", "a.so"), (None, "b.so", "b.so"), (None, "", "c.so"), (None, None, "c.so")],
)
def test_option_before_environment_before_ini(
    pytester: pytest.Pytester,
    monkeypatch: pytest.MonkeyPatch,
    option: str | None,
    variable: str | None,
    chosen: str,
) -> None:
    pytester.makeini("[pytest]\nbpflink_libbpf = c.so")
    if variable is not None:
        monkeypatch.setenv("BPFLINK_LIBBPF", variable)
    result = pytester.runpytest_subprocess(*([f"--bpf-libbpf={option}"] if option else []))

    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(f"ERROR: --bpf-libbpf {chosen}: neither 'system', *")


def test_help_builds_nothing(pytester: pytest.Pytester) -> None:
    pytester.makeini("[pytest]\nbpflink_libbpf = missing.so")
    assert pytester.runpytest_subprocess("--help").ret == pytest.ExitCode.OK


@pytest.mark.parametrize("arguments", [[], ["-n1"]])
def test_path_in_the_ini_file_reaches_workers(
    pytester: pytest.Pytester,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
) -> None:
    # The path is relative to the ini file, not to the directory in which pytest runs.
    pytester.makeini("[pytest]\nbpflink_libbpf = libs/libbpf.so.1")
    library = copy_system_libbpf(pytester.mkdir("libs") / "libbpf.so.1")
    pytester.makepyfile(
        f"""
        from pytest_bpflink.binding import libbpf

        def test_libbpf(pytestconfig):
            assert libbpf.version()
            assert pytestconfig.option.bpf_libbpf == {str(library)!r}
            assert libbpf.path() == {str(library)!r}
        """
    )
    monkeypatch.chdir(pytester.mkdir("elsewhere"))
    result = pytester.runpytest_subprocess("..", *arguments)
    result.assert_outcomes(passed=1)


def test_newest_is_built_from_the_distributions_source() -> None:
    """It is built unless this machine has built it already; `bpf/test_newest_libbpf.py` uses it."""
    library = Path(choose("newest", Said(), directory=Path.cwd()))

    check(library)
    assert re.fullmatch(r"libbpf\.so(\.\d+){3}", library.name)
    assert library.parent.name.startswith(f"{library.name.removeprefix('libbpf.so.')}-")


def test_without_apt_although_its_lists_are_fresh(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BPFLINK_CACHE", str(tmp_path))
    for suites in libbpf_build._SUITES:
        apt = libbpf_build._apt(suites)
        directory = tmp_path / f"apt-sources-{suites[0]}"
        directory.mkdir(exist_ok=True)
        for name in (*apt.own_files, "updated"):
            (directory / name).touch()
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(LibbpfError, match=r"^there is no apt on this host"):
        choose("newest", Said(), directory=tmp_path)
