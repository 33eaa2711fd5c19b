"""A blueprint that is kept, since virtme-ng takes 0.1 s to compose a machine.

Knows each word that a machine's command may have. A kept command with another word is not run, and
virtme-ng composes the machine anew; so it does each time where a QEMU or a virtme-ng has words that
are unknown here.
"""

from __future__ import annotations

import contextlib
import json
import re
from typing import TYPE_CHECKING

from pytest_bpflink.vm.cache import is_texts, recall
from pytest_bpflink.vm.machines import qemu
from pytest_bpflink.vm.warm.blueprint import SHARE_TAG, Blueprint
from pytest_bpflink.vm.whole_file import write_whole

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

_FLAGS = {"-no-reboot"}

# None of these options names a program, or a file of the host that the guest may write to.
_OPTIONS = {
    "-name": r"bpflink-[a-z0-9-]*",
    "-m": r"[0-9]+M",
    "-smp": r"[0-9]+",
    "-machine": r"(q35|virt|accel=kvm|gic-version=\w+)(,(accel=kvm|gic-version=\w+))*",
    "-cpu": r"(max|host)(,-erms|,-fsrm|,topoext=on)*",
    "-fsdev": r"local,id=virtfs[0-9]+,path=/,security_model=none,readonly=on,multidevs=remap",
    "-device": rf"virtio-9p-[a-z]+,fsdev=\w+,mount_tag=(/dev/root|{SHARE_TAG})"
    r"|virtio-serial-[a-z]+,max_ports=2"
    r"|virtserialport,name=virtme\.(stdin|stdout|stderr),chardev=(stdin|stdout|stderr)"
    r"|i6300esb,id=watchdog0",
    "-chardev": r"stdio,id=stdin,signal=on,mux=off"
    r"|file,id=console,path=/dev/null"
    r"|file,id=(stdout|stderr),path=/proc/self/fd/[12]",
    "-serial": r"chardev:console",
    **dict.fromkeys(("-parallel", "-net", "-vga", "-display"), "none"),
}

_CONSOLE = r"(console|earlyprintk)=[\w,]+"


def keep(blueprint: Blueprint, file: Path) -> None:
    """Write a blueprint to FILE, unless `find` would not return it."""
    if _is_known(blueprint.command, blueprint.consoles):
        kept = {"command": blueprint.command, "consoles": blueprint.consoles}
        # The cache may be one that this user can't write to.
        with contextlib.suppress(OSError):
            write_whole(file, json.dumps(kept).encode())


def find(file: Path) -> Blueprint | None:
    """Return the blueprint in FILE; None if there is none, or one of its words is unknown."""
    kept = recall(file)
    command, consoles = kept.get("command"), kept.get("consoles")
    if is_texts(command) and is_texts(consoles) and _is_known(command, consoles):
        return Blueprint(tuple(command), tuple(consoles))
    return None


def _is_known(command: Sequence[str], consoles: Sequence[str]) -> bool:
    if not command or command[0] != str(qemu.find()):
        return False
    words = iter(command[1:])
    for option in words:
        if option in _FLAGS:
            continue
        if not re.fullmatch(_OPTIONS.get(option, "(?!)"), next(words, "")):
            return False
    return all(re.fullmatch(_CONSOLE, word) for word in consoles)
