"""`bpflink doctor`: the programs and kernels that it finds, and its advice if they are missing."""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pytest_bpflink.binding import libbpf
from pytest_bpflink.features.privileges import missing_privileges
from pytest_bpflink.system.cgroup2 import cgroup2_mount
from pytest_bpflink.vm import architectures
from pytest_bpflink.vm.kernels import Store
from tests.support.command import BPFLINK, bpflink


def checks(done: subprocess.CompletedProcess[str]) -> dict[str, dict[str, Any]]:
    """Return the checks by name."""
    return {check["name"]: check for check in json.loads(done.stdout)["checks"]}


def test_machine_that_can_do_both() -> None:
    refusal = missing_privileges()
    if refusal:
        pytest.skip(refusal)
    done = bpflink("doctor", "--json")
    assert done.returncode == 0
    found = checks(done)
    assert json.loads(done.stdout)["native"]
    assert found["libbpf"]["found"] == f"{libbpf.version()} ({libbpf.path()})"
    assert found["cgroup2"]["found"] == f"at {cgroup2_mount()}"
    assert found["privileges"]["state"] == "ok"
    assert found["virtme-ng"]["found"] == str(Path(sys.executable).parent / "virtme-run")
    store = Store()
    kernels = str(store.root) if store.kernels() else "none here yet; they are fetched"
    assert kernels in found["kernels"]["found"]

    shown = bpflink("doctor")
    assert shown.returncode == 0
    assert shown.stdout.splitlines()[-2:] == ["tests on this kernel: yes", "tests in VMs: yes"]


@pytest.mark.skipif(not shutil.which("objdump"), reason="objdump is not installed")
def test_architectures_that_can_be_emulated(tmp_path: Path) -> None:
    there = [each for each in architectures.ALL.values() if each.name != "s390x"]
    for architecture in there:
        (tmp_path / architecture.qemu).touch(mode=0o755)
    others = ", ".join(each.name for each in there if each.name != architectures.own())
    check = checks(bpflink("doctor", "--json", PATH=str(tmp_path)))["emulators"]
    assert (check["state"], check["found"]) == ("note", f"kernels of {others} can run, too")
    assert check["advice"] == "for s390x: apt-get install qemu-system-misc"


def test_python_that_is_slow_to_emulate() -> None:
    """Its machine code shows how this Python was built."""
    found = checks(bpflink("doctor", "--json"))
    if "python" not in found:
        pytest.skip("guests are not emulated here")
    maps = Path("/proc/self/maps").read_text()
    library = re.search(r"/\S*/libpython3\S*", maps)
    code = library[0] if library else os.path.realpath(sys.executable)
    disassembly = subprocess.run(
        ["objdump", "--disassemble", "--no-show-raw-insn", code],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    ).stdout
    is_slow = re.search(r"call\s.*<_?Py\w+@plt>", disassembly) is not None
    assert found["python"]["state"] == ("note" if is_slow else "ok")


def test_without_programs_it_names_the_packages(tmp_path: Path) -> None:
    """With nothing on PATH, tests can run neither in guests nor on this kernel."""
    done = bpflink("doctor", "--json", PATH=str(tmp_path), BPFLINK_CACHE=str(tmp_path))
    found = checks(done)
    assert not json.loads(done.stdout)["vm"]
    qemu = f"qemu-system-{platform.machine()}"
    assert found["QEMU"]["state"] == "missing"
    assert found["QEMU"]["found"] == f"{qemu} is not on PATH"
    assert found["QEMU"]["advice"].startswith("apt-get install qemu-system-")
    assert found["busybox"]["advice"] == "apt-get install busybox-static"
    assert found["file"]["advice"] == "apt-get install file"
    assert found["clang"]["advice"] == "apt-get install clang libbpf-dev"
    assert found["kernels"]["found"] == "none in the store, and no apt to fetch any with"
    assert "KVM" not in found


def test_finds_programs_that_debian_puts_on_roots_path_only(tmp_path: Path) -> None:
    done = bpflink("doctor", "--json", PATH="/usr/bin:/bin", BPFLINK_CACHE=str(tmp_path))
    assert checks(done)["depmod"]["found"].endswith("sbin/depmod")


def test_fails_where_tests_can_run_nowhere(tmp_path: Path) -> None:
    """Without privileges, and without QEMU."""
    environment = {"PATH": str(tmp_path), "BPFLINK_CACHE": str(tmp_path)}
    drop = ["/usr/bin/setpriv", "--bounding-set=-all", "--inh-caps=-all"]
    done = subprocess.run(
        [*([] if os.geteuid() else drop), BPFLINK, "doctor"],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
    )
    assert done.returncode == 1
    assert "tests on this kernel: no, for want of privileges" in done.stdout
    assert "tests in VMs: no, for want of QEMU, " in done.stdout
    assert "needs CAP_NET_ADMIN, CAP_SYS_ADMIN, CAP_PERFMON, CAP_BPF, as root has" in done.stdout
