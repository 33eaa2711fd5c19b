"""Attaching to USDT probes, the static tracepoints of programs and libraries.

A probe may be in several places of its file: each use of it in the source is one, and so is each
inlined copy. libbpf attaches to all of them and returns a `struct bpf_link *` without a descriptor.
The links of the kernel are below: one for all places (`uprobe_multi`: Linux 6.6 and libbpf 1.3), or
one for each place (5.15). Older kernels have none: the attachment is a perf event for each place.
"""

from __future__ import annotations

import ctypes
import errno
import os
from typing import TYPE_CHECKING, Self

from pytest_bpflink.binding import libbpf
from pytest_bpflink.binding.opts import UsdtOptions
from pytest_bpflink.bpf.attaching.attach_events import attach_as_section_says
from pytest_bpflink.bpf.link import created
from pytest_bpflink.errors import BpfError, NotSupported
from pytest_bpflink.introspection import ids
from pytest_bpflink.introspection.descriptors import kind_of_descriptor
from pytest_bpflink.introspection.linkinfo import read_link_info

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from pytest_bpflink.bpf.handles import ObjectHandle, ProgramHandle
    from pytest_bpflink.bpf.link import Link


class UsdtAttachment:
    """A program on all places of a USDT probe, with or without BPF links.

    Lives until `destroy()`, the end of a `with` block, or `Object.close()`.
    """

    def __init__(self, specs: _Specs, links: tuple[Link, ...], name: str) -> None:
        self._specs = specs
        self._name = name
        self.links = links
        """One link for all places (6.6, libbpf 1.3), or one for each (5.15); none on older kernels.

        A pinned link stays attached without this process.
        """
        specs.before_release = self._destroy_links

    def destroy(self) -> None:
        """Destroy the links, or detach from the places where there are none; idempotent."""
        self._destroy_links()
        if not self.links or not self._specs.in_use:
            self._specs.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.destroy()

    def __repr__(self) -> str:
        return f"<UsdtAttachment {self._name}, {len(self.links)} links>"

    def _destroy_links(self) -> None:
        for link in self.links:
            link.destroy()


def attach_usdt(
    program: ProgramHandle, file: Path | None, *, probe: str = "", pid: int = -1, cookie: int = 0
) -> UsdtAttachment:
    """Attach to all places of a probe; see `Program.attach_usdt()`."""
    name, specs, fds = _attach(program, file, probe=probe, pid=pid, cookie=cookie)
    return UsdtAttachment(specs, tuple(created(fd, name) for fd in fds), name)


def to_usdt(
    program: ProgramHandle, file: Path | None, *, probe: str = "", pid: int = -1, cookie: int = 0
) -> Link:
    """Attach to a probe by one BPF link. Raises `NotSupported` where that takes several, or none.

    The link does not need the program's object, as other links don't.
    """
    name, specs, fds = _attach(program, file, probe=probe, pid=pid, cookie=cookie)
    if len(fds) == 1:
        return created(fds[0], name)
    for fd in fds:
        os.close(fd)
    specs.release()
    here = f"Linux {os.uname().release} with libbpf {libbpf.version()}"
    instead = "Program.attach_usdt() attaches it, too"
    if not fds:
        raise NotSupported(
            f"attach {name} by a BPF link", since="Linux 5.15", here=f"{here}; {instead}"
        )
    raise NotSupported(
        f"attach {name} by one BPF link, for {len(fds)} places",
        since="Linux 6.6 and libbpf 1.3",
        here=f"{here}; {instead}, by a link for each place",
    )


class _Specs:
    """libbpf's `struct bpf_link *` of an attachment, whose descriptors `_take_over()` took from it.

    It accounts for elements of the object's map `__bpf_usdt_specs`, which say where the arguments
    of the probe are. Elements that are released go to the next attachment, so they are kept while a
    link lives that needs them. libbpf needs the object to release them: `Object.close()` does it
    first.
    """

    def __init__(self, owner: ObjectHandle, pointer: int, name: str) -> None:
        self._owner = owner
        self._pointer: int | None = pointer
        self._name = name
        self.link_ids: list[int] = []
        self.before_release: Callable[[], None] | None = None
        owner.before_closing.append(self)

    @property
    def in_use(self) -> bool:
        """Whether a link of the attachment is alive: a pin may hold it, or another descriptor."""
        return any(ids.is_alive("link", number) for number in self.link_ids)

    def __call__(self) -> None:
        self.release()

    def release(self) -> None:
        """Release the elements; where there are no links this detaches, too. Idempotent."""
        if self._pointer is None:
            return
        pointer, self._pointer = self._pointer, None
        self._owner.before_closing.remove(self)
        if self.before_release:
            self.before_release()
        libbpf.call("bpf_link__destroy", pointer, doing=f"destroy {self._name}")


def _attach(
    program: ProgramHandle, file: Path | None, *, probe: str, pid: int, cookie: int
) -> tuple[str, _Specs, list[int]]:
    """Attach, and return the attachment's name, its account, and the descriptors of its links."""
    for each in program.owner.before_closing.copy():
        if isinstance(each, _Specs) and each.link_ids and not each.in_use:
            each.release()
    before = _descriptors()
    if file is None:
        name = f"{program.name} ({program.section})"
        pointer = attach_as_section_says(program)
    else:
        name = f"{program.name} on {file}:{probe}"
        provider, _, event = probe.partition(":")
        if not (provider and event):
            hint = 'a USDT probe is named with its provider: attach(path, probe="provider:name")'
            raise BpfError(errno.EINVAL, f"attach {name}", hint=hint)
        pointer = libbpf.call(
            "bpf_program__attach_usdt",
            program.pointer,
            pid,
            os.fsencode(file),
            provider.encode(),
            event.encode(),
            ctypes.byref(UsdtOptions(usdt_cookie=cookie)),
            doing=f"attach {name}",
        )
    specs = _Specs(program.owner, pointer, name)
    fds = _take_over(program.id, _descriptors() - before)
    specs.link_ids = [read_link_info(fd).id for fd in fds]
    return name, specs, fds


def _take_over(prog_id: int, fds: set[int]) -> list[int]:
    """Return duplicates of the links' descriptors, and leave libbpf others in their places.

    So a link does not end with libbpf's account. libbpf keeps the perf events that links have
    before 6.6, and disables them in the end; the program of a uprobe runs all the same while a link
    holds it.
    """
    taken = []
    with open(os.devnull, "rb") as null:
        for fd in sorted(fds):
            if _is_link(fd) and read_link_info(fd).prog_id == prog_id:
                taken.append(os.dup(fd))
                os.dup2(null.fileno(), fd, inheritable=False)
    return taken


def _descriptors() -> set[int]:
    return {int(name) for name in os.listdir("/proc/self/fd")}


def _is_link(fd: int) -> bool:
    try:
        return kind_of_descriptor(fd) == "link"
    except FileNotFoundError:  # of the directory that was listed
        return False
