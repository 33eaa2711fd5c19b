"""A save's key depends on the content of files, not on their paths or times. No guest runs."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_bpflink.vm.identity import identity
from pytest_bpflink.vm.image import digests, guest_image
from pytest_bpflink.vm.image.digests import Contents
from pytest_bpflink.vm.image.inventory import Inventory
from pytest_bpflink.vm.image.packed_root import PackedRoot
from pytest_bpflink.vm.kernels import Kernel
from pytest_bpflink.vm.machines import virtme
from pytest_bpflink.vm.machines.acceleration import Acceleration
from pytest_bpflink.vm.warm import save_key
from tests.support.damage import DAMAGES, damaged

if TYPE_CHECKING:
    from collections.abc import Callable

NEEDED = "lib/modules/6.1/kernel/fs/9p/9p.ko"
OTHER = "lib/modules/6.1/kernel/fs/xfs/xfs.ko"


class Host:
    """The files that a save depends on, below a directory; `key` is their present key."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.kernel = Kernel("6.1", "6.1", "6.1", root / "boot/vmlinuz", root, {})
        self.write("boot/vmlinuz", "a kernel")
        self.write("lib/modules/6.1/modules.dep", "kernel/fs/9p/9p.ko:\nkernel/fs/xfs/xfs.ko:\n")
        for module in (NEEDED, OTHER):
            self.write(module, "a module")
        self.program("qemu/" + QEMU)
        self.program("venv/bin/virtme-run")
        self.write("venv/lib/python3.11/site-packages/virtme_ng-1.42.dist-info/RECORD", "1.42")
        self.write("cpuinfo", "model name\t: Fast\nflags\t\t: fpu sse\ncpu MHz\t\t: 2000\n\n")
        for place in ("checkout", "site-packages"):
            self.write(f"{place}/pytest_bpflink/plugin.py", "")
        self.inventory = Inventory(
            python="/usr/bin/python3",
            startup={},
            path=("/usr/lib",),
            files=("/a.py",),
            plugin=(str(root / "checkout/pytest_bpflink/plugin.py"),),
            libraries=(),
            standard="/usr/lib/python3.11",
            tag="cpython-311",
            code=Path("/code.zip"),
            code_digest="",
            digest="packages",
        )
        self.machine = ["512", "1"]
        self.kvm = False
        self.packed: PackedRoot | None = None

    def write(self, name: str, text: str) -> Path:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    def program(self, name: str, text: str = "#!/bin/sh\n") -> None:
        self.write(name, text).chmod(0o755)

    @property
    def key(self) -> str:
        parts = save_key.dependencies(
            self.kernel,
            self.inventory,
            acceleration=Acceleration(kvm=self.kvm, reason=""),
            cache=self.root / "cache",
            packed=self.packed,
        )
        return save_key.digest(parts, machine=self.machine)


QEMU = f"qemu-system-{os.uname().machine}"


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    """Make a host whose programs and processor are described by files of the test."""
    host = Host(tmp_path)
    monkeypatch.setenv("PATH", f"{tmp_path / 'qemu'}:{os.environ['PATH']}")
    monkeypatch.setattr(virtme, "virtme_run", lambda: str(tmp_path / "venv/bin/virtme-run"))
    monkeypatch.setattr(save_key, "_CPUINFO", tmp_path / "cpuinfo")
    return host


def test_packed_root_and_its_modules(host: Host) -> None:
    veth = "kernel/drivers/net/veth.ko"
    host.write("lib/modules/6.1/modules.dep", f"{veth}:\n")
    host.write(f"lib/modules/6.1/{veth}", "a module")
    keys = [host.key]
    host.packed = PackedRoot((), (), (), size=7, digest="packed")
    keys.append(host.key)
    host.packed = replace(host.packed, digest="packed anew")
    keys.append(host.key)
    host.write(f"lib/modules/6.1/{veth}", "another module")
    keys.append(host.key)
    assert len({*keys}) == 4


@pytest.fixture
def aged(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let `Contents` remember files that were written just now."""
    monkeypatch.setattr(digests, "_SETTLED_NS", -1)


def change_the_kernel(host: Host) -> None:
    host.write("boot/vmlinuz", "a KERNEL")


def change_a_module(host: Host) -> None:
    host.write(NEEDED, "A module")


def need_another_module(host: Host) -> None:
    dependencies = "kernel/fs/9p/9p.ko: kernel/fs/xfs/xfs.ko\nkernel/fs/xfs/xfs.ko:\n"
    host.write("lib/modules/6.1/modules.dep", dependencies)


def change_a_package(host: Host) -> None:
    host.inventory = replace(host.inventory, digest="other packages")


def change_how_python_starts(host: Host) -> None:
    host.inventory = replace(host.inventory, startup={"PYTHONOPTIMIZE": "1"})


def change_the_memory(host: Host) -> None:
    host.machine = ["1024", "1"]


def change_the_accelerator(host: Host) -> None:
    host.kvm = True


def change_the_agent(_: Host) -> None:
    guest_image.own_digest = lambda: "another agent"


def change_qemu(host: Host) -> None:
    host.program(f"qemu/{QEMU}", "#!/bin/SH\n")


def change_virtme_ng(host: Host) -> None:
    host.write("venv/lib/python3.11/site-packages/virtme_ng-1.42.dist-info/RECORD", "1.43")


def change_the_processor(host: Host) -> None:
    host.write("cpuinfo", "model name\t: Slow\nflags\t\t: fpu sse\n\n")


@pytest.mark.parametrize(
    "change",
    [
        change_the_kernel,
        change_a_module,
        need_another_module,
        change_a_package,
        change_how_python_starts,
        change_the_memory,
        change_the_accelerator,
        change_the_agent,
        change_qemu,
        change_virtme_ng,
        change_the_processor,
    ],
)
def test_key_changes_with_what_a_save_depends_on(
    host: Host, monkeypatch: pytest.MonkeyPatch, change: Callable[[Host], None]
) -> None:
    monkeypatch.setattr(guest_image, "own_digest", guest_image.own_digest)  # to be put back
    before = host.key
    assert host.key == before
    change(host)
    assert host.key != before


@pytest.mark.usefixtures("aged")
def test_key_is_the_same_if_files_were_written_at_another_time(host: Host) -> None:
    """As on a new CI runner, which has installed and unpacked all files anew."""
    before = host.key
    for path in host.root.rglob("*"):
        os.utime(path, (1, 1))
    assert host.key == before
    shutil.rmtree(host.root / "cache")
    assert host.key == before


def test_key_is_the_same_for_a_kernel_at_another_place(host: Host, tmp_path: Path) -> None:
    before = host.key
    for name in ("boot", "lib"):
        shutil.copytree(tmp_path / name, tmp_path / "elsewhere" / name)
    root = tmp_path / "elsewhere"
    host.kernel = replace(host.kernel, image=root / "boot/vmlinuz", modules=root)
    assert host.key == before


@pytest.mark.usefixtures("aged")
@pytest.mark.parametrize("name", ["boot/vmlinuz", NEEDED, f"qemu/{QEMU}"])
def test_key_changes_with_the_content_whatever_size_and_time(host: Host, name: str) -> None:
    path, key = host.root / name, host.key
    before = path.stat()
    other = path.with_name("other")
    other.write_bytes(bytes(before.st_size))
    other.chmod(before.st_mode)
    os.utime(other, ns=(before.st_atime_ns, before.st_mtime_ns))
    other.rename(path)
    assert path.stat().st_mtime_ns == before.st_mtime_ns
    assert host.key != key


def test_key_is_the_same_if_a_module_changes_that_guests_do_not_need(host: Host) -> None:
    before = host.key
    host.write(OTHER, "another module")
    assert host.key == before


def test_key_changes_with_what_modules_there_are(host: Host, tmp_path: Path) -> None:
    """As in two trees of one release, with the same image and the same drivers for guests."""
    host.write("lib/modules/6.1/modules.dep.bin", "9p, xfs")
    before = host.key
    for name in ("boot", "lib"):
        shutil.copytree(tmp_path / name, tmp_path / "elsewhere" / name)
    host.write("elsewhere/lib/modules/6.1/modules.dep.bin", "9p")
    host.kernel = replace(host.kernel, modules=tmp_path / "elsewhere")
    assert host.key != before


def test_key_changes_with_a_virtme_ng_that_no_pip_has_installed(host: Host) -> None:
    shutil.rmtree(host.root / "venv/lib")
    before = host.key
    assert host.key == before
    host.program("venv/bin/virtme-run", "#!/bin/bash\n")
    assert host.key != before


def test_key_depends_on_the_processor_s_flags_under_kvm_alone(host: Host) -> None:
    emulated = host.key
    host.kvm = True
    accelerated = host.key
    host.write("cpuinfo", "model name\t: Fast\nflags\t\t: fpu sse avx\ncpu MHz\t\t: 1000\n\n")
    assert host.key != accelerated
    host.kvm = False
    assert host.key == emulated


def test_key_stays_the_same_while_the_plugin_is_edited(host: Host) -> None:
    before = host.key
    host.write("checkout/pytest_bpflink/plugin.py", "edited = True")
    assert host.key == before


def test_key_changes_with_the_plugin_that_is_installed(host: Host) -> None:
    plugin = host.root / "site-packages/pytest_bpflink/plugin.py"
    host.inventory = replace(host.inventory, plugin=(str(plugin),))
    before = host.key
    plugin.write_text("newer = True")
    assert host.key != before


class Reader:
    """Reads files, and counts how often it was asked to."""

    def __init__(self) -> None:
        self.asked = 0

    def __call__(self, path: Path) -> str:
        self.asked += 1
        return path.read_text()


@pytest.mark.usefixtures("aged")
def test_no_file_is_read_twice(tmp_path: Path) -> None:
    file, record, reader = tmp_path / "file", tmp_path / "cache/contents.json", Reader()
    file.write_text("one")
    for _ in range(2):
        known = Contents(record)
        assert known.ask(file, reader) == "one"
        known.keep()
    assert reader.asked == 1
    file.write_text("another")
    assert Contents(record).ask(file, reader) == "another"


def test_file_that_was_written_just_now_is_read_again(tmp_path: Path) -> None:
    """The file may be written again within one tick of the clock."""
    file, reader, known = tmp_path / "file", Reader(), Contents(tmp_path / "contents.json")
    file.write_text("one")
    assert [known.ask(file, reader) for _ in range(2)] == ["one", "one"]
    assert reader.asked == 2


@pytest.mark.usefixtures("aged")
def test_files_that_are_gone_are_forgotten(tmp_path: Path) -> None:
    old, new, record = tmp_path / "old", tmp_path / "new", tmp_path / "contents.json"
    for path in (old, new):
        path.touch()
        known = Contents(record)
        known.digest(path)
        known.keep()
        old.unlink(missing_ok=True)
    assert list(json.loads(record.read_text())) == [str(new)]


@pytest.mark.usefixtures("aged")
@pytest.mark.parametrize("damage", ["cut", *DAMAGES])
def test_damaged_record_is_made_anew(tmp_path: Path, damage: str) -> None:
    file, record, reader = tmp_path / "file", tmp_path / "contents.json", Reader()
    file.write_text("one")
    for content in (None, damage, None):
        if content:
            record.write_bytes(damaged(record)[content])
        known = Contents(record)
        assert known.ask(file, reader) == "one"
        known.keep()
    assert reader.asked == 2


@pytest.mark.usefixtures("aged")
@pytest.mark.parametrize("known", [1, None, [], [1], ["IDENTITY"], ["IDENTITY", 1], [1, 2, 3]])
def test_remembered_answer_of_another_type_is_asked_for_again(tmp_path: Path, known: Any) -> None:
    file, record = tmp_path / "file", tmp_path / "contents.json"
    file.write_text("one")
    if isinstance(known, list):
        known = [identity(file) if each == "IDENTITY" else each for each in known]
    record.write_text(json.dumps({str(file): known}))
    assert Contents(record).ask(file, Path.read_text) == "one"
