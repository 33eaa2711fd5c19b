"""Real guests of kernels that lack something: it is left out, or named at the first boot."""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING

import execnet
import pytest

from pytest_bpflink.vm.kernels import Kernel, find
from pytest_bpflink.vm.machines.errors import BootFailed
from pytest_bpflink.vm.machines.kvm import detect
from pytest_bpflink.vm.machines.machine import Machine
from pytest_bpflink.vm.warm.cold import ColdMachine
from pytest_bpflink.vm.warm.warm import WarmMachine
from tests.support.kernel_trees import copy_modules
from tests.support.long import long

if TYPE_CHECKING:
    from pathlib import Path


def machine_of(kernel: Kernel, kind: type[Machine], tmp_path: Path, *append: str) -> Machine:
    return kind(
        kernel,
        acceleration=detect(find("6.1")),
        directory=tmp_path / "own",
        cwd=tmp_path,
        environment=dict(os.environ),
        append=append,
    )


def kernel_without(module: str, spec: str, tmp_path: Path) -> Kernel:
    """Make a tree without a module and without what tells that it lacks it."""
    kernel = find(spec)
    assert kernel.module_directory
    tree = tmp_path / "tree"
    (tree / "boot").mkdir(parents=True)
    shutil.copy(kernel.image, tree / "boot")
    copy_modules(kernel.module_directory, tree / "lib/modules" / kernel.release)
    for path in tree.rglob(f"{module}.ko*"):
        path.unlink()
    return find(str(tree))


@pytest.mark.parametrize(
    ("module", "option", "spec", "kind"),
    [
        ("9p", "CONFIG_9P_FS", "6.12", WarmMachine),
        pytest.param("9p", "CONFIG_9P_FS", "6.12", Machine, marks=long),
        pytest.param("9pnet_virtio", "CONFIG_NET_9P_VIRTIO", "6.12", ColdMachine, marks=long),
        pytest.param("9pnet_virtio", "CONFIG_NET_9P_VIRTIO", "6.12", Machine, marks=long),
        pytest.param("overlay", "CONFIG_OVERLAY_FS", "6.12", ColdMachine, marks=long),
        pytest.param("overlay", "CONFIG_OVERLAY_FS", "6.12", Machine, marks=long),
        pytest.param("virtio_pci", "CONFIG_VIRTIO_PCI", "6.1", ColdMachine, marks=long),
        pytest.param("virtio_pci", "CONFIG_VIRTIO_PCI", "6.1", Machine, marks=long),
        pytest.param("virtio_console", "CONFIG_VIRTIO_CONSOLE", "6.1", ColdMachine, marks=long),
        pytest.param("virtio_console", "CONFIG_VIRTIO_CONSOLE", "6.1", Machine, marks=long),
    ],
)
def test_what_guests_need_is_named_at_the_first_boot(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    *,
    module: str,
    option: str,
    spec: str,
    kind: type[Machine],
) -> None:
    kernel = kernel_without(module, spec, tmp_path)
    with machine_of(kernel, kind, tmp_path) as machine:
        starts: list[None] = []
        launch = machine._launch
        monkeypatch.setattr(
            machine, "_launch", lambda *words, **more: starts.append(launch(*words, **more))
        )
        machine.start()
        with pytest.raises(BootFailed) as raised:
            machine.wait_ready()
    assert str(raised.value).splitlines()[0] == (
        f"Linux {kernel.release} can't run as a guest: it has no {option}, built in or as a module"
    )
    assert raised.value.lacking == (option,)
    assert not raised.value.timed_out
    assert len(starts) == 1


def test_file_system_that_a_kernel_lacks_is_left_out(tmp_path: Path) -> None:
    """With debugfs=off there is no /sys/kernel/debug, as without CONFIG_DEBUG_FS."""
    with machine_of(find("6.12"), ColdMachine, tmp_path, "debugfs=off") as machine:
        machine.start()
        machine.wait_ready()
        group = execnet.Group()
        gateway = group.makegateway(f"popen//python={machine.gateway_python}")
        channel = gateway.remote_exec(
            "import os; channel.send([os.path.ismount(path) for path in"
            " ('/sys/kernel/debug', '/sys/kernel/tracing', '/sys/fs/bpf')])"
        )
        assert channel.receive(60) == [False, True, True]
        group.terminate(5)
