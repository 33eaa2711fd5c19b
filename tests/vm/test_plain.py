"""The QEMU command of a plain guest, as virtme-ng composes it; no guest is started."""

from __future__ import annotations

import os
import platform
import shlex
import shutil
import stat
import subprocess
import sys
import tempfile
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pytest_bpflink.vm.kernels import Kernel, find
from pytest_bpflink.vm.machines import plain, virtme
from pytest_bpflink.vm.machines.acceleration import Acceleration
from pytest_bpflink.vm.machines.errors import ComposeError, MachineError
from pytest_bpflink.vm.machines.machine import Machine
from tests.support.kernel_trees import copy_modules

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

QEMU = f"qemu-system-{platform.machine()}"
TCG = Acceleration(kvm=False, reason="TCG")


@pytest.fixture(scope="module")
def kernel() -> Kernel:
    """Find a kernel; it is not booted."""
    return find("6.1")


@pytest.fixture
def compose(kernel: Kernel, tmp_path: Path) -> Callable[..., list[str]]:
    """Return a function that composes a guest with some options changed."""

    def composed(
        *,
        acceleration: Acceleration = TCG,
        directory: Path = tmp_path,
        kernel: Kernel = kernel,
        append: Sequence[str] = (),
    ) -> list[str]:
        return plain.compose(
            kernel,
            acceleration=acceleration,
            directory=directory,
            worker=plain.Worker("/usr/bin/python3", tmp_path, {"KEY": "a 'b'\n\"c\""}),
            memory_mib=640,
            cpus=2,
            append=append,
        )

    return composed


def kernel_command_line(command: list[str]) -> list[str]:
    return shlex.split(command[command.index("-append") + 1])


def chardevs(command: list[str]) -> dict[str, str]:
    options = [after for word, after in pairwise(command) if word == "-chardev"]
    return {option.partition("id=")[2].partition(",")[0]: option for option in options}


def test_console_and_errors_go_to_files(compose: Callable[..., list[str]], tmp_path: Path) -> None:
    found = chardevs(compose())
    assert found["console"] == "file,id=console,path=/dev/fdset/1,append=on"
    for name in ("stderr", "dev_stdout", "dev_stderr"):
        assert found[name] == f"file,id={name},path={tmp_path}/stderr.log,append=on"


def test_worker_s_streams_are_qemu_s(compose: Callable[..., list[str]]) -> None:
    found = chardevs(compose())
    assert found["stdin"].startswith("stdio,")
    assert found["stdout"] == "file,id=stdout,path=/proc/self/fd/1"


def test_an_oops_ends_the_guest(compose: Callable[..., list[str]]) -> None:
    command = compose()
    assert {"oops=panic", "panic=-1"} <= set(kernel_command_line(command))
    assert "-no-reboot" in command


def test_size_and_options_are_passed_on(compose: Callable[..., list[str]]) -> None:
    command = compose(append=["quiet_please=1"])
    assert command[command.index("-m") + 1] == "640M"
    assert command[command.index("-smp") + 1] == "2"
    assert "quiet_please=1" in kernel_command_line(command)


def test_init_stays_last(compose: Callable[..., list[str]]) -> None:
    """The kernel passes the words after init= on its command line to init."""
    assert kernel_command_line(compose(append=["x=1"]))[-1].startswith("init=")


def test_host_name_of_a_kernel_with_a_long_id(kernel: Kernel) -> None:
    """A kernel takes 64 characters; ids of paths can be longer."""
    ids = ["6.12-" + "x" * length for length in (50, 51, 52, 500)]
    names = [virtme.host_name(replace(kernel, id=id_)) for id_ in ids]
    assert names[0] == "bpflink-6-12-" + "x" * 50
    assert len({*names}) == len(names)
    take = "import socket, sys; socket.sethostname(sys.argv[1])"
    for name in names:
        subprocess.run(["unshare", "--uts", sys.executable, "-c", take, name], check=True)


@pytest.mark.parametrize("name", ["own", "a, b c's"])
def test_modules_are_the_kernel_s_own(
    compose: Callable[..., list[str]], kernel: Kernel, tmp_path: Path, name: str
) -> None:
    """virtme-ng 1.42 doubles commas in their path, and finds copies of a few in the directory."""
    (tmp_path / name).mkdir()
    command = compose(directory=tmp_path / name)
    assert f"virtme_link_mods={kernel.module_directory}" in kernel_command_line(command)
    modules = tmp_path / name / "kernel/lib/modules" / kernel.release
    assert {"9p.ko", "overlay.ko", "virtio_pci.ko"} <= {each.name for each in modules.iterdir()}
    with (tmp_path / name / "initramfs").open("rb") as initramfs:
        listed = subprocess.run(
            ["busybox", "cpio", "-t"], stdin=initramfs, capture_output=True, check=True
        )
    assert b"modules/9p.ko\n" in listed.stdout


@pytest.mark.skipif(not shutil.which("zstd"), reason="zstd is not on this host")
def test_packed_modules_at_a_path_with_a_space(
    compose: Callable[..., list[str]], kernel: Kernel, tmp_path: Path
) -> None:
    """virtme-ng 1.42 has a shell unpack .zst, without quoting their paths."""
    tree = tmp_path / "a, tree"
    assert kernel.module_directory
    modules = copy_modules(kernel.module_directory, tree / "lib/modules" / kernel.release)
    subprocess.run(["zstd", "--quiet", "--rm", *modules], check=True)
    subprocess.run(["depmod", "-b", tree, kernel.release], check=True)
    command = compose(kernel=replace(kernel, modules=tree))
    assert f"virtme_link_mods={tree}/lib/modules/{kernel.release}" in kernel_command_line(command)
    copy = tmp_path / "kernel/copies/9p.ko"
    assert copy.read_bytes().startswith(b"\x7fELF")
    assert copy.read_bytes() in (tmp_path / "initramfs").read_bytes()


def test_script_may_have_bytes_that_are_not_utf_8(kernel: Kernel, tmp_path: Path) -> None:
    worker = plain.Worker("/usr/bin/python3", tmp_path, {"KEY": "\udcff"})
    plain.compose(
        kernel,
        acceleration=TCG,
        directory=tmp_path,
        worker=worker,
        memory_mib=512,
        cpus=1,
        append=(),
    )
    assert b"KEY=\xff" in (tmp_path / "launch.sh").read_bytes()


@pytest.mark.parametrize(
    ("config", "option"),
    [
        ({"CONFIG_LSM": "yama,bpf"}, "lsm=yama,bpf"),
        ({"CONFIG_LSM": "yama,selinux"}, "lsm=yama,selinux,bpf"),
        ({}, "lsm=landlock,lockdown,yama,bpf"),
    ],
)
def test_bpf_is_added_to_the_kernel_s_own_security_modules(
    compose: Callable[..., list[str]], kernel: Kernel, config: dict[str, str], option: str
) -> None:
    assert option in kernel_command_line(compose(kernel=replace(kernel, config=config)))


def test_host_is_shared_read_only(compose: Callable[..., list[str]]) -> None:
    shared = [word for word in compose() if word.startswith("local,")]
    assert len(shared) == 1
    assert "readonly=on" in shared[0].split(",")


def test_directory_that_the_guest_would_not_see_is_mounted(
    compose: Callable[..., list[str]],
) -> None:
    with tempfile.TemporaryDirectory(dir="/dev/shm") as hidden:
        command = compose(directory=Path(hidden))
    assert f"virtme_initmount0={hidden.lstrip('/')}" in kernel_command_line(command)
    shared = [word for word in command if word.startswith("local,")]
    assert all("readonly=on" in word.split(",") for word in shared)


def test_emulated_guest_does_not_try_kvm(compose: Callable[..., list[str]]) -> None:
    assert not any("kvm" in word for word in compose())


@pytest.mark.skipif(not os.access("/dev/kvm", os.W_OK), reason="/dev/kvm is not on this host")
def test_accelerated_guest_does_not_fall_back_silently(compose: Callable[..., list[str]]) -> None:
    command = compose(acceleration=Acceleration(kvm=True, reason="KVM"))
    assert any("accel=kvm" in word for word in command)
    assert not any("tcg" in word for word in command)


def test_launch_script_gives_python_its_surroundings(
    compose: Callable[..., list[str]], tmp_path: Path
) -> None:
    compose()
    launch = tmp_path / "launch.sh"
    assert stat.S_IMODE(launch.stat().st_mode) == 0o600
    worker = plain.Worker("sh", tmp_path, {"KEY": "a 'b'\n\"c\"", "PATH": os.environ["PATH"]})
    script = worker.launch_script().replace("-u -c", "-c 'pwd; printf %s \"$KEY\"' #")
    done = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == f"{tmp_path}\na 'b'\n\"c\""


def test_files_that_qemu_makes_are_in_its_directory(
    compose: Callable[..., list[str]], tmp_path: Path
) -> None:
    """Otherwise the file for the guest's exit status would stay in /tmp."""
    own = tmp_path / "own"
    own.mkdir()
    paths = [option.partition("path=")[2] for option in chardevs(compose(directory=own)).values()]
    descriptors = ("/proc/self/fd/", "/dev/fdset/")
    made = [path for path in paths if path and not path.startswith(descriptors)]
    assert made
    assert all(path.startswith(f"{own}/") for path in made)


@pytest.fixture
def hide(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Return a function that hides a program from PATH."""

    def hidden(missing: str) -> None:
        directory = tmp_path / "bin"
        directory.mkdir()
        needed = {"sh", "file", "strings", "busybox", "depmod", "setpriv", "timeout", QEMU}
        for name in needed - {missing}:
            (directory / name).symlink_to(str(shutil.which(name)))
        monkeypatch.setenv("PATH", str(directory))

    return hidden


@pytest.mark.parametrize(
    ("missing", "sentence"),
    [
        (QEMU, r"could not compose .*QEMU is not installed: apt-get install qemu-system"),
        ("file", r"could not compose .*; apt-get install file"),
        ("setpriv", r"setpriv is needed to index .*: apt-get install kmod util-linux"),
    ],
)
def test_program_that_is_missing(
    kernel: Kernel, hide: Callable[[str], None], tmp_path: Path, *, missing: str, sentence: str
) -> None:
    hide(missing)
    machine = Machine(
        kernel, acceleration=TCG, directory=tmp_path / "own", cwd=tmp_path, environment={}
    )
    with machine, pytest.raises(MachineError, match=sentence):
        machine.start()
    assert not machine.alive


def test_virtme_ng_is_missing(
    compose: Callable[..., list[str]], hide: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    hide("virtme-run")
    monkeypatch.setattr(sys, "executable", "/nonexistent/python")
    with pytest.raises(ComposeError, match=r"pip install 'pytest-bpflink\[vm\]'"):
        compose()
