"""A project with one test, which loads a BPF program in a guest, and a cache of its own.

Its clang fails in guests: the test passes only with an object that the host has compiled.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

from pytest_bpflink.vm import kernels
from pytest_bpflink.vm.cache import cache_root

if TYPE_CHECKING:
    from pathlib import Path

KERNEL = "6.1"

PROGRAM = """
#include "vmlinux.h"
#include <bpf/bpf_helpers.h>

int value = VALUE;

SEC("cgroup_skb/egress")
int keep(struct __sk_buff *skb)
{
	return value & 1;
}
"""

TEST = """
from pytest_bpflink import Object

def test_value():
    with Object.open("it.bpf.c") as opened:
        assert opened.data["value"] == 7
"""

_CLANG = """#!/bin/sh
case $(uname -r) in 6.1.*) echo "no clang in a guest" >&2; exit 1;; esac
exec clang "$@"
"""


def make_project(directory: Path) -> dict[str, str]:
    """Write the project's files to DIRECTORY; return the environment for `command`."""
    cache = directory / "cache"
    (cache / "kernels").mkdir(parents=True)
    tree = kernels.find(KERNEL).image.parents[1]
    subprocess.run(["cp", "-a", "--reflink=auto", tree, cache / "kernels"], check=True)
    if (cache_root() / "kvm.json").exists():
        shutil.copy(cache_root() / "kvm.json", cache)
    (directory / "it.bpf.c").write_text(PROGRAM.replace("VALUE", "7"))
    (directory / "test_it.py").write_text(TEST)
    clang = directory / "clang"
    clang.write_text(_CLANG)
    clang.chmod(0o755)
    return {
        "HOME": str(directory),
        "BPFLINK_CACHE": str(cache),
        "CLANG": str(clang),
        "PATH": os.environ["PATH"],
        "PYTHONDONTWRITEBYTECODE": "1",
    }


def command(*options: str) -> list[str]:
    """Return the command that runs the project's test."""
    return [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *options, "test_it.py"]
