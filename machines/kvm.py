"""KVM, in an emulated guest that has it: doctor, and three tests in each kind of guest.

QEMU emulates AMD's SVM, so an emulated guest has a /dev/kvm that works: its guests are guests of a
guest. Times in its output are those of its clock, which counts instructions.
"""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_bpflink.vm import kernels
from pytest_bpflink.vm.cache import cache_part

from . import newer_qemu
from .stage import SELFTESTS, SessionError, counts

if TYPE_CHECKING:
    from .stage import Stage

OUTER, INNER = "6.12", "6.1"
TESTS = (f"{SELFTESTS}/test_link_pinning.py", "-k", "pin_raw_tp and not open_pinned")
PASSED = 3

# What the kinds of guests are called here, and by --kernel-guest.
KINDS = {"saved": "warm", "restored": "warm", "cold": "cold", "plain": "plain"}

# QEMU 7.2 emulates SVM too, and did not get an inner kernel up in six minutes of a processor.
QEMU_RELEASE = 10

# Without -icount the inner guests' timers run ahead of the outer guest's clock, and they hang. With
# the registers of wide vectors, an inner Linux 7.2 crashed.
LEFT_OUT = "xsave,pku,avx,avx2,fma,f16c,vaes,vpclmulqdq"
CLOCK = "-icount shift=0,sleep=on"

# What QEMU's emulation of SVM does wrong is mended by a library.
MENDED = Path(__file__).with_name("svm_interrupts.c")

# Stands for QEMU, and changes the machine of the outer guest. With -icount QEMU refuses KVM: where
# this machine has one, it is found not to work, and the outer guest is emulated all the same.
QEMU = """#!/bin/sh
for word; do
    shift
    case $word in max,*) word=$word{without} ;; esac
    set -- "$@" "$word"
done
LD_PRELOAD={library} exec {program} "$@" {clock}
"""

INSIDE = """
set -eu
modprobe kvm_amd
# To poll for an interrupt costs the outer guest's processor as much as to run.
echo 0 > /sys/module/kvm/parameters/halt_poll_ns
# A guest that is to be saved writes to all of its memory, which is a file: an exit for each page.
cp -a {cache}/guests /tmp/guests
mount -t tmpfs -o huge=always,mode=700 guests {cache}/guests
cp -a /tmp/guests/. {cache}/guests
echo '==> doctor'
{python} -m pytest_bpflink.cli doctor 2>&1 | tee /tmp/doctor
grep -q '{works}' /tmp/doctor || exit 0
for kind in {kinds}; do
    echo "==> $kind"
    {python} -m pytest -p no:cacheprovider {tests} --kernel {inner} --kernel-guest $kind
done
"""

# What doctor says of a KVM that works, and the line of a kernel in the table at pytest's end.
WORKS = "a kernel booted with it"
TABLE = rf"^{re.escape(INNER)} .* kvm +(\S+ s) "


def run(stage: Stage) -> str:
    """Boot the outer guest, and return what passed in it."""
    stage.packages()
    bpflink = (sys.executable, "-m", "pytest_bpflink.cli")
    stage.run(*bpflink, "kernels", "fetch", OUTER, INNER, seconds=900)
    cache = _cache(stage)
    # A run makes these first, which would take minutes in the outer guest: objects of BPF programs,
    # modules as pytest rewrites them, an image with Python.
    emulated = (*TESTS, "--kernel", INNER, "--kernel-guest", "cold")
    stage.pytest(*emulated, seconds=600, variables={"BPFLINK_CACHE": str(cache)})
    path = f"{Path(sys.executable).parent}:/usr/sbin:/usr/bin:/sbin:/bin"
    inside = stage.directory / "inside.sh"
    inside.write_text(
        INSIDE.format(
            cache=shlex.quote(str(cache)),
            python=sys.executable,
            works=WORKS,
            kinds=" ".join(KINDS.values()),
            tests=shlex.join(TESTS),
            inner=INNER,
        )
    )
    program = newer_qemu.command(stage, release=QEMU_RELEASE)
    without = "".join(f",-{name}" for name in LEFT_OUT.split(","))
    library = stage.directory / "svm_interrupts.so"
    stage.run("clang", "-shared", "-fPIC", "-O2", "-Wall", "-o", library, MENDED, seconds=60)
    wrapped = QEMU.format(
        without=without, library=library, program=shlex.join(program), clock=CLOCK
    )
    beneath = _program(stage.directory / "beneath", wrapped)
    within = _program(stage.directory / "within", f'#!/bin/sh\nexec {shlex.join(program)} "$@"\n')
    command = ("env", f"BPFLINK_CACHE={cache}", f"PATH={within}:{path}", "sh", inside)
    # The outer guest's save is of no use to others.
    outer = stage.directory / "outer"
    outer.mkdir(mode=0o700)
    (outer / "kernels").symlink_to(cache_part("kernels"))
    output = stage.run(
        *(*bpflink, "vm", "--memory", "4096", OUTER, "--", *command),
        seconds=1800,
        variables={"BPFLINK_CACHE": str(outer), "PATH": f"{beneath}:{path}"},
    )
    return _summary(output)


def _cache(stage: Stage) -> Path:
    """Make the cache of the runs in the outer guest, with no other kernel than theirs."""
    store = cache_part("kernels")
    kernel = kernels.find(INNER).image.relative_to(store).parts[0]
    cache = stage.directory / "inner"
    (cache / "kernels").mkdir(mode=0o700, parents=True)
    cache.chmod(0o700)
    (cache / "kernels" / kernel).symlink_to(store / kernel)
    return cache


def _program(directory: Path, text: str) -> Path:
    """Make a program that stands for QEMU, and return its directory."""
    directory.mkdir()
    program = directory / newer_qemu.NAME
    program.write_text(text)
    program.chmod(0o755)
    return directory


def _summary(output: str) -> str:
    """Return how many tests passed in each kind of guest, and how soon each guest was up."""
    parts = re.split(r"^==> (\w+)$", output, flags=re.MULTILINE)
    doctor = "".join(parts[2:3])
    if WORKS not in doctor:
        said = next((line for line in doctor.splitlines() if line.startswith("KVM ")), "nothing")
        raise SessionError(f"doctor sees no KVM in the outer guest: {said}\n{output}")
    times = []
    for kind, text in zip(KINDS, parts[4::2], strict=True):
        found = re.search(TABLE, text, re.MULTILINE)
        saves = "saving a guest" in text
        if not found or saves is not (kind == "saved") or counts(text).passed != PASSED:
            raise SessionError(f"{kind}: not as it should be:\n{text}")
        times.append(f"{kind} {found[1]}")
    return f"{PASSED} tests passed in each guest under KVM; up after: {', '.join(times)}"
