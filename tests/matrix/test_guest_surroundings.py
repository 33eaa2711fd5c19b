"""Real guests: the files that programs look for, odd Pythons, and odd paths of the host."""

from __future__ import annotations

import os
import shutil
import sys
import sysconfig
import tempfile
import venv
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pytest_bpflink.vm.image import guest_image
from pytest_bpflink.vm.kernels import find
from tests.support import ROOT
from tests.support.long import long
from tests.support.stored_kernels import CACHE

if TYPE_CHECKING:
    from collections.abc import Iterator

# Emulated guests beside others.
SECONDS = 400

KCONFIG = """
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
extern unsigned int CONFIG_HZ __kconfig;
volatile __u32 hz;
SEC("cgroup_skb/egress")
int run(struct __sk_buff *skb)
{
    hz = CONFIG_HZ;
    return 1;
}
char LICENSE[] SEC("license") = "GPL";
"""


@pytest.fixture(autouse=True)
def _no_cache(pytester: pytest.Pytester) -> None:
    pytester.makeini("[pytest]\naddopts = -v -p no:cacheprovider")


@pytest.fixture
def stored_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BPFLINK_CACHE", str(CACHE))


@pytest.mark.usefixtures("stored_kernels")
@pytest.mark.parametrize(
    ("kind", "kernels"),
    [("warm", "5.10,6.1,7.2"), pytest.param("plain", "6.1", marks=long)],
)
def test_what_programs_look_for_is_there_and_what_is_full_says_so(
    pytester: pytest.Pytester, kind: str, kernels: str
) -> None:
    pytester.path.joinpath("hz.bpf.c").write_text(KCONFIG)
    pytester.mkdir("data").joinpath("old").mkdir()
    pytester.makepyfile(
        f"""
        import errno, os, socket
        import pytest

        def test_kconfig(bpf_object, bpf_kernel):
            assert bpf_kernel.config["CONFIG_HZ"]
            bpf_object("hz.bpf.c")

        def test_own_name():
            assert socket.gethostbyname(socket.gethostname()) == "127.0.0.1"

        def test_rename():
            try:
                os.rename("data/old", "data/new")
            except OSError as error:
                assert ({kind!r}, error.errno) == ("plain", errno.EXDEV)
            else:
                assert os.listdir("data") == ["new"]

        @pytest.mark.parametrize("place", ["/tmp", "/dev/shm", "/run"])
        def test_full(place):
            with open(f"{{place}}/full", "wb", buffering=0) as file:
                with pytest.raises(OSError) as caught:
                    while file.write(bytes(1 << 16)):
                        pass
            assert caught.value.errno == errno.ENOSPC
            # Room for the worker is left.
            assert len(bytes(16 << 20)) == 16 << 20
        """
    )

    result = pytester.runpytest_subprocess(
        "--kernel", kernels, "--kernel-guest", kind, timeout=SECONDS
    )

    result.assert_outcomes(passed=6 * len(kernels.split(",")))


@long
@pytest.mark.usefixtures("stored_kernels")
def test_least_memory_is_enough_to_boot(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("def test_x(): pass")

    result = pytester.runpytest_subprocess(
        *("--kernel", "5.10,7.2", "--kernel-guest", "cold", "--kernel-memory", "224"),
        timeout=SECONDS,
    )

    result.assert_outcomes(passed=2)


@pytest.mark.usefixtures("stored_kernels")
@pytest.mark.parametrize(
    ("name", "value", "options"),
    [
        ("PYTHONSAFEPATH", "1", []),
        pytest.param("PYTHONHOME", sys.base_prefix, [], marks=long),
        pytest.param("PYTHONPATH", "nowhere::with space:file:/nowhere:ä", ["-I"], marks=long),
    ],
)
def test_python_that_starts_otherwise(
    pytester: pytest.Pytester,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    value: str,
    options: list[str],
) -> None:
    pytester.path.joinpath("file").touch()
    pytester.makepyfile(
        f"""
        import os, sys

        def test_x():
            assert os.uname().release.startswith("6.1.")
            # pytester puts its directory before.
            assert os.environ[{name!r}].endswith({value!r})
            assert sys.flags.safe_path == ({name!r} == "PYTHONSAFEPATH")
        """
    )
    # With PYTHONHOME Python does not find its virtual environment.
    monkeypatch.setenv("PYTHONPATH", f"{sysconfig.get_paths()['purelib']}:{ROOT}")
    monkeypatch.setenv(name, value)

    result = pytester.run(
        *(sys.executable, *options, "-m", "pytest", "--kernel", "6.1", "--kernel-guest", "cold"),
        timeout=SECONDS,
    )

    result.assert_outcomes(passed=1)
    result.stdout.no_fnmatch_line("*the guest is a plain one*")


@pytest.fixture
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A directory with an odd name, or one where each guest has a file system of its own."""
    if request.param == "odd":
        odd = tmp_path / "a,b c's ä"
        odd.mkdir()
        yield odd
        return
    with tempfile.TemporaryDirectory(dir="/dev/shm") as directory:
        yield Path(directory)


def store_kernel(cache: Path) -> None:
    """Copy a kernel with few modules, and the finding about KVM, into a cache."""
    kernel = find("6.1")
    assert kernel.modules
    assert kernel.config_file
    root = cache / "kernels" / kernel.modules.name
    here = kernel.modules / "lib/modules" / kernel.release
    needed = [*guest_image.needed_modules(here)]
    # virtme-ng wants all but the first.
    for name in ("dummy", "fuse", "virtiofs", "virtio_mmio"):
        needed += here.rglob(f"{name}.ko*")
    for path in [kernel.image, kernel.config_file, *here.glob("modules.*"), *needed]:
        copy = root / path.relative_to(kernel.modules)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, copy)
    if (CACHE / "kvm.json").exists():
        shutil.copyfile(CACHE / "kvm.json", cache / "kvm.json")


def make_environment(directory: Path) -> Path:
    """Make a virtual environment that has the packages of these tests; return its Python."""
    venv.create(directory, symlinks=True)
    (packages,) = directory.glob("lib/python3*/site-packages")
    paths = sysconfig.get_paths()["purelib"], str(ROOT)
    (packages / "all.pth").write_text("".join(f"{path}\n" for path in paths))
    return directory / "bin/python"


@pytest.mark.parametrize(
    ("place", "kind"),
    [
        pytest.param("odd", "warm", marks=long),
        pytest.param("odd", "plain", marks=long),
        ("hidden", "cold"),
    ],
    indirect=["place"],
)
def test_guests_whose_files_are_at_odd_paths(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, place: Path, kind: str
) -> None:
    """The cache with its kernels, the virtual environment, TMPDIR and the project are there."""
    store_kernel(place / "cache")
    python = make_environment(place / "venv")
    (place / "tmp").mkdir()
    project = pytester.mkdir("p,q r's ä")
    project.joinpath("hz.bpf.c").write_text(KCONFIG)
    project.joinpath("test_x.py").write_text(
        "import os, subprocess, sys\n"
        "def test_x(bpf_object):\n"
        "    assert os.environb[b'ODD'] == b'x\\xffy'\n"
        f"    assert sys.executable == {str(python)!r}\n"
        "    subprocess.run(['modprobe', 'dummy'], check=True)\n"
        "    assert os.path.exists('/sys/module/dummy')\n"
        "    bpf_object('hz.bpf.c')\n"
    )
    monkeypatch.setenv("BPFLINK_CACHE", str(place / "cache"))
    monkeypatch.setenv("TMPDIR", str(place / "tmp"))
    monkeypatch.setenv("ODD", "x\udcffy")
    # That environment has no virtme-ng of its own.
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent), prepend=os.pathsep)
    monkeypatch.chdir(project)

    result = pytester.run(
        *(python, "-m", "pytest", "-v", "-p", "no:cacheprovider"),
        *("--kernel", "6.1", "--kernel-guest", kind, "--kernel-log", place / "log"),
        timeout=SECONDS,
    )

    result.assert_outcomes(passed=1)
    result.stdout.no_fnmatch_line("*the guest is *")
    assert (place / "log/6.1-1.log").stat().st_size > 0
