"""The root of guests of another architecture, from a small archive of our own."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest

from pytest_bpflink.vm.architectures import ALL, own
from pytest_bpflink.vm.image import debian_root
from pytest_bpflink.vm.image.inventory import ImageError, Inventory
from pytest_bpflink.vm.kernels import KernelFetchError, Store, find
from tests.support.debian_archive import Deb, feed, kernel_deb, make_archive, needs_apt

FOREIGN = "s390x" if own() == "arm64" else "arm64"
DEBS = [
    Deb("base", "1", {"bin/dash": "sh", "usr/share/doc/base/copyright": ""}, "libc", arch=FOREIGN),
    Deb("libc", "1:2.36-9", {"lib/loader.so.1": "loader"}, "python", arch=FOREIGN),
    Deb(
        "python",
        "3.11",
        {"usr/bin/python3.11": "python", "usr/lib/python3.11/os.py": "name = 'posix'\n"},
        arch=FOREIGN,
    ),
    Deb("unwanted", "1", {"bin/unwanted": ""}, "", arch=FOREIGN),
    kernel_deb(f"linux-image-6.1.0-9-{FOREIGN}", "6.1.99-1")._replace(arch=FOREIGN),
    kernel_deb(f"linux-image-6.1.0-10-{FOREIGN}", "6.1.100-1")._replace(arch=FOREIGN),
]

pytestmark = needs_apt


@pytest.fixture
def inventory() -> Inventory:
    """The Python of this process, without files."""
    return Inventory(
        python=sys.executable,
        startup={},
        path=(),
        files=(),
        plugin=(),
        libraries=(),
        standard="/usr/lib/python3.11",
        tag="cpython-311",
        code=Path("/code.zip"),
        code_digest="",
        digest="",
    )


@pytest.fixture
def archive_of_another(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make an archive of another architecture, from which an empty cache is fed."""
    del store  # apt is told to take archives without a signature
    root = tmp_path / "other"
    make_archive(root, DEBS)
    feed(monkeypatch, f"file:{root}")
    monkeypatch.setenv("BPFLINK_CACHE", str(tmp_path / "a, cache"))
    monkeypatch.setattr(debian_root, "_PACKAGES", ("base",))
    return root


@pytest.mark.usefixtures("archive_of_another")
def test_packages_are_unpacked_with_what_they_depend_on(
    inventory: Inventory, tmp_path: Path
) -> None:
    said: list[str] = []
    root = debian_root.find(ALL[FOREIGN], inventory, said.append)
    assert (root.python, root.library) == ("/usr/bin/python3.11", "/usr/lib/python3.11")
    assert (root.path / "usr/bin/sh").read_text() == "sh"
    assert (root.path / "usr/lib/loader.so.1").read_text() == "loader"
    assert (root.path / "lib").readlink() == Path("usr/lib")
    assert not (root.path / "bin/unwanted").exists()
    assert not (root.path / "usr/share/doc/base/copyright").exists()
    assert "nobody" in (root.path / "etc/passwd").read_text()
    assert said[0] == f"fetching the root of {FOREIGN} guests, 25 MB of bookworm"

    again = debian_root.find(ALL[FOREIGN], inventory, pytest.fail)
    assert again == root
    assert not [*(tmp_path / "a, cache").glob("apt-*")]


@pytest.mark.usefixtures("archive_of_another")
def test_modules_are_compiled_if_the_guest_can_use_the_result(inventory: Inventory) -> None:
    tag = sys.implementation.cache_tag
    if tag != inventory.tag:
        pytest.skip(f"this Python is {tag}")
    root = debian_root.find(ALL[FOREIGN], inventory, lambda _: None)
    assert [path.name for path in root.path.rglob("*.pyc")] == ["os.cpython-311.pyc"]


@pytest.mark.usefixtures("archive_of_another")
def test_suite_that_the_mirror_lacks(inventory: Inventory) -> None:
    with pytest.raises(ImageError, match=f"^there is no root for {FOREIGN} guests: apt-get "):
        debian_root.find(ALL[FOREIGN], replace(inventory, tag="cpython-313"), lambda _: None)


def test_next_kernel_is_taken_if_the_mirror_lacks_one(archive_of_another: Path) -> None:
    gone = archive_of_another / f"pool/linux-image-6.1.0-10-{FOREIGN}_6.1.100-1.deb"
    gone.unlink()
    said: list[str] = []
    kernel = find(f"{FOREIGN}:6.1", progress=said.append)
    assert (kernel.version, kernel.arch) == ("6.1.99", FOREIGN)
    assert "6.1: the mirror lists Linux 6.1.100, and does not have it" in said


def test_kernel_that_is_nowhere(archive_of_another: Path) -> None:
    for package in (archive_of_another / "pool").glob("*.deb"):
        package.unlink()
    with pytest.raises(KernelFetchError, match=r"none can be fetched: "):
        find(f"{FOREIGN}:6.1")
