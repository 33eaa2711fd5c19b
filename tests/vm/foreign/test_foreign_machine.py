"""The machine of a guest of another architecture, and what it shows of the host."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pytest_bpflink.vm.architectures import ALL, own
from pytest_bpflink.vm.image.debian_root import Root
from pytest_bpflink.vm.image.inventory import Inventory
from pytest_bpflink.vm.kernels import Kernel
from pytest_bpflink.vm.machines import kvm
from pytest_bpflink.vm.machines.errors import MachineError
from pytest_bpflink.vm.machines.machine import Machine
from pytest_bpflink.vm.machines.plain import Worker
from pytest_bpflink.vm.warm import foreign
from tests.support.kernel_trees import write

FOREIGN = "s390x" if own() == "arm64" else "arm64"
STANDARD = "/opt/python/lib/python3.11"


@pytest.fixture
def kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Kernel:
    """A kernel without modules, on a host with an emulator for it."""
    program = tmp_path / "bin" / ALL[FOREIGN].qemu
    write(program).chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent), prepend=os.pathsep)
    return Kernel(f"{FOREIGN}:6.12", "6.12", "6.12.1", tmp_path / "Image", None, {}, arch=FOREIGN)


@pytest.fixture
def root(tmp_path: Path) -> Root:
    return Root(tmp_path / "a, root", "/usr/bin/python3.13", "/usr/lib/python3.13", "313", "")


def of_host(kernel: Kernel, root: Root, *, cwd: str, sites: tuple[str, ...] = ()) -> set[str]:
    """Return the directories that a guest shows."""
    known = Inventory(
        python="/opt/python/bin/python3",
        startup={},
        path=("/opt/python/lib/python311.zip", STANDARD, f"{STANDARD}/lib-dynload", *sites),
        files=(),
        plugin=(),
        libraries=(),
        standard=STANDARD,
        tag="cpython-311",
        code=Path("/code.zip"),
        code_digest="",
        digest="",
    )
    shown = foreign.of_host(kernel, Worker("python", Path(cwd), {}), known, root)
    assert shown["library"] == ["/usr/lib/python3.13", STANDARD]
    assert shown["sites"] == list(sites)
    return set(shown["directories"])


def test_roots_of_guest_and_host_are_shared_read_only(kernel: Kernel, root: Root) -> None:
    command = list(foreign.draw(kernel, root, memory_mib=512, cpus=1).command)
    assert command[0].endswith(ALL[FOREIGN].qemu)
    shared = [word for word in command if word.startswith("local,")]
    how = "security_model=none,readonly=on,multidevs=remap"
    doubled = str(root.path).replace(",", ",,")
    assert shared == [f"local,id=root,path={doubled},{how}", f"local,id=host,path=/,{how}"]


def test_hosts_directories_are_shown_but_those_of_the_system(kernel: Kernel, root: Root) -> None:
    shown = of_host(kernel, root, cwd="/tmp")
    assert "/tmp" in shown
    assert not shown & {"/", "/usr", "/etc", "/bin", "/lib", "/proc", "/var", "/tmp/below"}


def test_needed_directories_are_shown_wherever_they_are(
    kernel: Kernel, root: Root, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BPFLINK_CACHE", "/var/lib")
    assert {"/var/cache", "/var/lib"} <= of_host(kernel, root, cwd="/var/cache")
    assert "/usr/share" in of_host(kernel, root, cwd="/", sites=("/usr/share", "/nonexistent/x"))


@pytest.mark.parametrize("cwd", ["/", "/usr", "/etc"])
def test_working_directory_hides_nothing_of_the_guests_root(
    kernel: Kernel, root: Root, cwd: str
) -> None:
    assert cwd not in of_host(kernel, root, cwd=cwd)


def test_plain_guest_is_of_this_architecture(kernel: Kernel, tmp_path: Path) -> None:
    machine = Machine(
        kernel,
        acceleration=kvm.detect(kernel),
        directory=tmp_path / "machine",
        cwd=tmp_path,
        environment={},
    )
    with machine, pytest.raises(MachineError) as caught:
        machine.start()
    assert str(caught.value) == (
        f"{kernel.spec}: a plain guest has this machine's root and architecture; leave out"
        " --kernel-guest=plain"
    )
