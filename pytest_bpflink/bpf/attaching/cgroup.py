"""Cgroups of version 2, which programs attach to.

When a cgroup is removed, the kernel detaches the links to it ("auto-detach", 5.7): some
milliseconds later, and not before the last socket that was made in the cgroup is closed.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

from pytest_bpflink.binding import libbpf
from pytest_bpflink.binding.uapi import (
    CGROUP_ATTACH_TYPES,
    QUERY_EFFECTIVE,
    AttachFlags,
    AttachType,
)
from pytest_bpflink.bpf.handles import require_program
from pytest_bpflink.bpf.wait import eventually
from pytest_bpflink.errors import BpfError
from pytest_bpflink.introspection import ids, linkinfo
from pytest_bpflink.introspection.prog_query import USUAL_PROGRAMS, prog_query
from pytest_bpflink.system.cgroup2 import own_cgroup

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_bpflink.bpf.handles import ProgramHandle


@dataclass(frozen=True)
class Attached:
    """The answer of `BPF_PROG_QUERY`: ids of programs in the order in which they run, and flags.

    `flags` belong to the attach type as a whole. With `effective`, 5.10 gives the real flags, and
    6.1 and later 0.
    """

    prog_ids: tuple[int, ...]
    flags: AttachFlags


class Cgroup:
    """A cgroup v2 directory.

    Lives until `remove()`, which the `cgroup` fixture calls; nested cgroups, made with `create()`,
    are removed with it.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        """The directory."""
        self.id = self.path.stat().st_ino
        """The kernel's id of the cgroup, as in the `info.cgroup_id` of a link."""
        self._fd: int | None = None
        self._removed = False

    def fileno(self) -> int:
        """Return a descriptor of the directory, opened on the first call and kept until `close()`.

        Raises `BpfError` with ENOENT when the cgroup is gone.
        """
        if self._fd is None:
            try:
                self._fd = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            except OSError as error:
                hint = "the cgroup is gone" if error.errno == errno.ENOENT else ""
                raise BpfError(error.errno or 0, f"open cgroup {self.path}", hint=hint) from error
        return self._fd

    def close(self) -> None:
        """Close the descriptor; links to the cgroup don't need it."""
        if self._fd is not None:
            fd, self._fd = self._fd, None
            os.close(fd)

    def create(self, name: str) -> Cgroup:
        """Make a cgroup below this one. Raises `FileExistsError` if it exists already."""
        path = self.path / name
        path.mkdir()
        return Cgroup(path)

    @contextlib.contextmanager
    def entered(self) -> Iterator[Self]:
        """Move this process into the cgroup for a `with` block, and then back.

        A socket belongs to the cgroup in which it was *made*, for good: make sockets in the block.
        """
        home = own_cgroup()
        self.add(os.getpid())
        try:
            yield self
        finally:
            _write(home / "cgroup.procs", str(os.getpid()))

    def add(self, pid: int) -> None:
        """Move a process into the cgroup."""
        _write(self.path / "cgroup.procs", str(pid))

    @property
    def procs(self) -> list[int]:
        """Pids of the processes in this cgroup, without nested ones."""
        return [int(pid) for pid in (self.path / "cgroup.procs").read_text().split()]

    @property
    def procs_below(self) -> set[int]:
        """Pids of the processes in this cgroup and in nested ones."""
        return {pid for path in self._directories_below() for pid in Cgroup(path).procs}

    def freeze(self, frozen: bool = True) -> None:  # noqa: FBT001, FBT002 - freeze(False) thaws
        """Freeze every process in this cgroup and in nested ones; with False, thaw them (5.2)."""
        _write(self.path / "cgroup.freeze", str(int(frozen)))

    def kill(self) -> None:
        """Kill every process in this cgroup and in nested ones: by `cgroup.kill` (5.14), or singly.

        Raises `AssertionError` when a process is still there after a second.
        """
        switch = self.path / "cgroup.kill"
        if switch.exists():
            _write(switch, "1")
        eventually(self._is_killed_empty, what=f"processes in {self.path} end by SIGKILL")

    def attached(self, attach_type: AttachType, *, effective: bool = False) -> Attached:
        """Return the programs attached to the cgroup; with `effective` all that run in it (4.15).

        Raises `BpfError`: EINVAL for an attach type that the kernel lacks.
        """
        try:
            return self._query(attach_type, effective=effective, room=USUAL_PROGRAMS)
        except BpfError as error:
            if error.errno != errno.ENOSPC:
                raise
            deep = len(self.path.parts)  # the programs of each level above may run here
            return self._query(attach_type, effective=effective, room=USUAL_PROGRAMS * deep)

    @property
    def is_attached_to(self) -> bool:
        """Whether any program is attached, by a link or without; False if the cgroup is gone."""
        for attach_type in CGROUP_ATTACH_TYPES:
            if attach_type not in _refused:
                try:
                    if self.attached(attach_type).prog_ids:
                        return True
                except BpfError as error:
                    if error.errno == errno.EINVAL:
                        _refused.add(attach_type)
        return False

    def attach(self, program: ProgramHandle, flags: AttachFlags | None = None) -> None:
        """Attach by the legacy `BPF_PROG_ATTACH` (4.10): without a link, until `detach()`.

        Raises `BpfError` with EPERM where another attachment excludes this one.
        """
        require_program(program, f"attach to {self.path} without a link")
        ids.note_made("program", program.id)  # the cgroup alone may keep it alive
        libbpf.call(
            "bpf_prog_attach",
            program.fd,
            self.fileno(),
            program.expected_attach_type,
            flags or 0,
            doing=f"attach {program.name} to {self.path} without a link",
        )

    def detach(self, program: ProgramHandle) -> None:
        """Undo `attach()`. Raises `BpfError` with ENOENT when the program is not attached."""
        require_program(program, f"detach from {self.path}")
        libbpf.call(
            "bpf_prog_detach2",
            program.fd,
            self.fileno(),
            program.expected_attach_type,
            doing=f"detach {program.name} from {self.path}",
        )

    def remove(self, *, within: float = 1.0) -> None:
        """Remove the cgroup and nested ones, and wait until their links are detached; idempotent.

        Processes are moved to the parent. Raises `AssertionError` when links are still attached
        after `within` seconds. The error names what holds the links: as a rule a socket that was
        made inside and is still open.
        """
        if self._removed:
            return
        links = self._links_inside()
        for directory in self._directories_below():
            _evacuate(directory, to=self.path.parent)
            _remove_directory(directory, within)
        self._removed = True
        self.close()
        if links:
            _await_auto_detach(self.path, links, within)

    def __fspath__(self) -> str:
        return str(self.path)

    def __repr__(self) -> str:
        return f"<Cgroup {self.path}>"

    def __del__(self) -> None:
        if getattr(self, "_fd", None) is not None:
            self.close()

    def _query(self, attach_type: AttachType, *, effective: bool, room: int) -> Attached:
        answer = prog_query(
            self.fileno(),
            attach_type,
            where=str(self.path),
            query_flags=QUERY_EFFECTIVE if effective else 0,
            room=room,
        )
        return Attached(answer.prog_ids, AttachFlags(answer.attach_flags))

    def _is_killed_empty(self) -> bool:
        alive = self.procs_below
        for pid in alive:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return not alive

    def _directories_below(self) -> list[Path]:
        """Return the directories of this cgroup and of nested ones, the deepest first."""
        return [Path(directory) for directory, _, _ in os.walk(self.path, topdown=False)]

    def _links_inside(self) -> dict[int, int]:
        """Return the links to this cgroup and nested ones: the cgroup's id by the link's id."""
        if next(ids.alive("link"), None) is None:
            return {}
        attached = set()
        for directory in self._directories_below():
            below = self if directory == self.path else Cgroup(directory)
            if below.is_attached_to:
                attached.add(below.id)
            if below is not self:
                below.close()
        return _links_to(attached) if attached else {}


# Attach types that this kernel does not know, which are asked for once: cgroups are removed often.
_refused: set[AttachType] = set()


def _write(file: Path, text: str) -> None:
    """Write to a file of the cgroup file system. Raises `BpfError`."""
    try:
        # With O_CREAT a file that the kernel lacks gives EACCES instead of ENOENT.
        fd = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC)
        try:
            os.write(fd, text.encode())
        finally:
            os.close(fd)
    except OSError as error:
        hint = "the cgroup is gone" if error.errno in {errno.ENOENT, errno.ENODEV} else ""
        raise BpfError(error.errno or 0, f"write {text} to {file}", hint=hint) from error


def _evacuate(directory: Path, *, to: Path) -> None:
    """Move all processes to another cgroup; processes that end meanwhile are skipped."""
    with contextlib.suppress(FileNotFoundError):
        for pid in (directory / "cgroup.procs").read_text().split():
            with contextlib.suppress(ProcessLookupError):
                (to / "cgroup.procs").write_text(pid)


def _remove_directory(directory: Path, within: float) -> None:
    """Remove a cgroup. Tasks that were just waited for may keep it busy for a moment (7.2)."""
    deadline = time.monotonic() + within
    while True:
        try:
            directory.rmdir()
        except FileNotFoundError:
            return
        except OSError as error:
            if error.errno != errno.EBUSY or time.monotonic() > deadline:
                raise
            time.sleep(0.001)
        else:
            return


def _links_to(cgroup_ids: set[int]) -> dict[int, int]:
    return {
        info.id: info.cgroup_id
        for info in linkinfo.infos()
        if isinstance(info, linkinfo.CgroupLinkInfo) and info.cgroup_id in cgroup_ids
    }


def _await_auto_detach(path: Path, attached: dict[int, int], within: float) -> None:
    try:
        eventually(lambda: not _still_attached(attached), within=within)
    except AssertionError:
        ids = ", ".join(map(str, _still_attached(attached)))
        raise AssertionError(
            f"{path} is removed, but after {within:g} s these links to it are still attached:"
            f" {ids}. What holds them: {_holding_sockets(set(attached.values()))}"
        ) from None


def _still_attached(attached: dict[int, int]) -> list[int]:
    """Return the links of `attached` that still are attached to their cgroup."""
    still = []
    for link_id, cgroup_id in attached.items():
        with contextlib.suppress(BpfError), ids.opened("link", link_id) as fd:
            if getattr(linkinfo.read_link_info(fd), "cgroup_id", 0) == cgroup_id:
                still.append(link_id)
    return still


def _holding_sockets(cgroup_ids: set[int]) -> str:
    from pytest_bpflink.system.cgroup_sockets import holders_of_cgroups

    found = holders_of_cgroups(cgroup_ids)
    return "; ".join(found) or "a socket that was made inside and is still open, as a rule"
