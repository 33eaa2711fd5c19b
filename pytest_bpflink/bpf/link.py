"""BPF links, which tie a program to a hook, and the references that keep a link alive.

A link lives while a descriptor or a pin refers to it; when the last reference goes, the kernel
detaches the program. A `Link` is one reference. It has libbpf's `bpf_link *` (attach, open) or a
bare descriptor (`from_fd`, `by_id`, `links()`), with the same behaviour and errors for both.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Protocol, Self

from pytest_bpflink.binding import libbpf
from pytest_bpflink.binding.opts import LinkUpdateOptions
from pytest_bpflink.binding.uapi import AttachFlags, BpfNumber
from pytest_bpflink.bpf.handles import require_map, require_program
from pytest_bpflink.bpf.programs.loaded_program import LoadedProgram
from pytest_bpflink.bpf.programs.references import ProgramDescriptor
from pytest_bpflink.errors import BpfError
from pytest_bpflink.introspection import ids
from pytest_bpflink.introspection.descriptors import kind_of_descriptor, require_kind
from pytest_bpflink.introspection.linkinfo import LinkInfo, read_link_info
from pytest_bpflink.introspection.pins import is_on_bpffs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pytest_bpflink.bpf.handles import LoadedProgramHandle, MapHandle
    from pytest_bpflink.introspection.holders import Holder


class Link:
    """One reference to a BPF link; released by `destroy()` or the end of a `with` block.

    Made by `Program.attach()`, `Link.open()`, `Link.from_fd()`, `Link.by_id()` and `links()`.
    Every method but `destroy()` and `close()` raises `BpfError` with EBADF after `destroy()`.
    """

    id: int
    """The kernel's number for this link, unique on the system; known after `destroy()` too."""

    pins: tuple[Path, ...] = ()
    """The paths at which this handle has pinned the link; the files may be gone."""

    before_pinning: Callable[[Path], None] | None = None
    """Called with each path before pinning: a fixture records it in case this process is killed."""

    def __init__(self, reference: _Reference, name: str) -> None:
        self._reference: _Reference | None = None
        self._name = name
        self._left_open: int | None = None
        self._disconnected = False
        self._programs: dict[int, LoadedProgram] = {}
        try:
            doing = f"read the id of {name}"
            self.id: int = libbpf.read_info(reference.fd, BpfNumber, doing=doing).id
        except BaseException:
            reference.destroy(f"destroy {name}")
            raise
        self._reference = reference

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Self:
        """Open a pinned link.

        Raises `BpfError`: ENOENT where there is no pin, EINVAL where a map or a program is pinned,
        EACCES where the file's mode refuses reading and writing.
        """
        doing = f"open the link pinned at {Path(path)}"
        pointer = libbpf.call("bpf_link__open", os.fsencode(path), doing=doing)
        reference = _LibbpfLink(pointer)
        try:
            require_kind(reference.fd, "link", doing)  # libbpf opens any pinned object as a link
        except BpfError:
            reference.destroy(doing)
            raise
        return cls(reference, f"link pinned at {Path(path)}")

    @classmethod
    def from_fd(cls, fd: int) -> Self:
        """Refer to the link behind a descriptor, which is duplicated and stays the caller's.

        Raises `BpfError`: EBADF for a descriptor that is not open, EINVAL for one of another kind.
        """
        doing = f"make a link of descriptor {fd}"
        require_kind(fd, "link", doing)
        return cls(_Descriptor(os.dup(fd)), f"link of descriptor {fd}")

    @classmethod
    def by_id(cls, link_id: int) -> Self:
        """Refer to a link by its id (5.8; needs CAP_SYS_ADMIN).

        Raises `BpfError`: ENOENT for 0 and for the id of a link that is gone, EAGAIN for one that
        is just being made, EPERM without the privilege.
        """
        return cls(_Descriptor(ids.open_by_id("link", link_id)), f"link {link_id}")

    @property
    def fd(self) -> int:
        """The descriptor that holds the link; borrowed, so don't close it."""
        return self._live("use").fd

    @property
    def info(self) -> LinkInfo:
        """What the kernel now says about the link, as the dataclass of the link's type."""
        doing = self._doing("read the info of")
        return read_link_info(self._live("read the info of").fd, doing=doing)

    @property
    def program(self) -> LoadedProgram:
        """The program that the link has now, lent until `destroy()` (needs CAP_SYS_ADMIN).

        `link.program.maps[".bss"]["counter"]` is a global variable of a running daemon. The kernel
        keeps each program that was asked for, also after an update, until this handle is destroyed.
        Raises `BpfError` with ENOENT for a link without a program, as of struct_ops.
        """
        number = self.info.prog_id
        if number not in self._programs:
            descriptor = ProgramDescriptor(ids.open_by_id("program", number))
            self._programs[number] = LoadedProgram(descriptor, is_lent=True)
        return self._programs[number]

    @property
    def pin_path(self) -> Path | None:
        """Where this handle is pinned or was opened; None without a pin, and after `unpin()`."""
        return self._live("look at").pin_path

    def pin(self, path: str | os.PathLike[str]) -> None:
        """Pin the link in a BPF FS, so that it outlives this handle and this process.

        Makes the last directory of the path where it is missing, as libbpf does. Raises `BpfError`:
        EBUSY when this handle is pinned already, EEXIST over an existing path, EINVAL outside a
        BPF FS (nothing is created), EPERM for a name with a dot, ENOENT for a deeper missing path.
        """
        where = Path(path).absolute()
        reference = self._live("pin")
        doing = self._doing("pin", f" at {where}")
        if reference.pin_path is not None:
            raise BpfError(errno.EBUSY, doing, hint=f"it is pinned at {reference.pin_path} already")
        if not is_on_bpffs(where):
            raise BpfError(
                errno.EINVAL, doing, hint="not in a BPF FS; the bpffs fixture mounts a fresh one"
            )
        if self.before_pinning:
            self.before_pinning(where)
        try:
            reference.pin(where, doing)
        except BpfError as error:
            if error.errno == errno.EPERM and "." in where.parent.name + where.name:
                error.hint = "a BPF FS refuses names with a dot"
            raise
        self.pins = (*self.pins, where)

    def unpin(self) -> None:
        """Remove the pin of this handle; the handle still holds the link.

        Raises `BpfError`: EINVAL when the handle is not pinned, ENOENT when the file is gone (the
        handle then stays pinned, as in libbpf).
        """
        reference = self._live("unpin")
        if reference.pin_path is None:
            raise BpfError(errno.EINVAL, self._doing("unpin"), hint="it is not pinned")
        reference.unpin(self._doing("unpin", f" from {reference.pin_path}"))

    def update(
        self, program: LoadedProgramHandle, *, old: LoadedProgramHandle | None = None
    ) -> None:
        """Replace the link's program by another one, without a moment in between (5.7).

        With `old`, only if `old` is the present program (compare-exchange, `BPF_F_REPLACE`). Raises
        `BpfError`: EINVAL for another program type and for a link type that can't be updated,
        EPERM when `old` is not the present program, ENOLINK when the target is gone.
        """
        reference = self._live("update")
        for given in (program, *([] if old is None else [old])):
            require_program(given, self._doing("update"))
        if old is None:
            _ = program.fd  # its error names a program that is not loaded; libbpf's is EBADF
            reference.update(program, self._doing("update", f" to {program.name}"))
            return
        doing = self._doing("update", f" from {old.name} to {program.name}")
        options = LinkUpdateOptions(flags=AttachFlags.REPLACE, old_prog_fd=old.fd)
        libbpf.call("bpf_link_update", reference.fd, program.fd, ctypes.byref(options), doing=doing)

    def update_map(self, new: MapHandle) -> None:
        """Replace the link's struct_ops map by another one (6.4, libbpf 1.2).

        Raises `BpfError` with EINVAL for a link of another type, `NotSupported` on an older libbpf.
        """
        require_map(new, self._doing("update"))
        self._live("update").update_map(new, self._doing("update", f" to map {new.name}"))

    def detach(self) -> None:
        """Take the program off the hook now, whoever else holds the link (5.9).

        The link stays, without a target: `info` still works, an update gives ENOLINK, a second
        detach does nothing. Raises `BpfError` with EOPNOTSUPP for a link type that can't be
        detached.
        """
        self._live("detach").detach(self._doing("detach"))

    def disconnect(self) -> None:
        """Make `destroy()` leave the descriptor open, so that the program stays attached.

        `close()` closes the descriptor; without it the garbage collector gives a ResourceWarning.
        """
        self._live("disconnect").disconnect()
        self._disconnected = True

    def destroy(self) -> None:
        """Release this reference; idempotent. A pin, or another descriptor, keeps the link."""
        if self._reference is None:
            return
        reference, self._reference = self._reference, None
        for program in self._programs.values():
            program.release()
        if self._disconnected:
            self._left_open = reference.fd
        reference.destroy(self._doing("destroy"))

    def close(self) -> None:
        """Destroy the reference, and close the descriptor that stayed open after `disconnect()`."""
        self.destroy()
        if self._left_open is not None:
            fd, self._left_open = self._left_open, None
            # A test may have closed the number already, and another file may have it now.
            with contextlib.suppress(OSError):
                if kind_of_descriptor(fd) == "link" and read_link_info(fd).id == self.id:
                    os.close(fd)

    def remove_pins(self) -> None:
        """Remove every pin that this handle made, unless its path now has something else."""
        for path in self.pins:
            remove_pin(path, self.id)

    def read(self) -> str:
        """Run the program of an iterator over everything once, and return the text that it wrote.

        Raises as `open_iterator()`, and `BpfError` with the errno of an iteration that fails.
        """
        return self.read_bytes().decode()

    def read_bytes(self) -> bytes:
        """Return the bytes that an iterator writes, as `read()` does the text."""
        with self.open_iterator() as file:
            try:
                return file.read()
            except OSError as error:
                raise BpfError(error.errno or 0, self._doing("read")) from error

    def open_iterator(self) -> BinaryIO:
        """Open an iterator (5.8): the program runs as the file is read; the caller closes it.

        The file holds the program, even after the link is gone. Raises `BpfError` with EINVAL for a
        link of another type.
        """
        doing = self._doing("iterate over")
        try:
            fd = libbpf.call("bpf_iter_create", self.fd, doing=doing)
        except BpfError as error:
            if error.errno == errno.EINVAL:
                error.hint = 'only the link of a program in SEC("iter/...") is read'
            raise
        return open(fd, "rb")

    def holders(self) -> tuple[Holder, ...]:
        """Return the holders of the link: descriptors and pins, as far as this process may see.

        Pins in other mount namespaces are found through a process there: their paths begin with
        `/proc/PID/root`. Each pin is opened for a moment to see what is pinned, except pins in the
        private mounts of other sessions, which are not looked at.
        """
        from pytest_bpflink.introspection.holders import holders

        return holders("link", self.id)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.destroy()

    def __del__(self) -> None:
        held = getattr(self, "_reference", None) is not None
        if held or getattr(self, "_left_open", None) is not None:
            name = repr(self)
            self.close()  # first: where warnings are errors the next line raises
            warnings.warn(f"{name} was never destroyed", ResourceWarning, stacklevel=1, source=self)

    def __repr__(self) -> str:
        state = "" if self._reference else " destroyed"
        return f"<Link {getattr(self, 'id', '?')}, {self._name}{state}>"

    def _live(self, verb: str) -> _Reference:
        if self._reference is None:
            raise BpfError(errno.EBADF, self._doing(verb), hint="it was destroyed")
        return self._reference

    def _doing(self, verb: str, rest: str = "") -> str:
        return f"{verb} link {self.id} ({self._name}){rest}"


def links() -> Iterator[Link]:
    """Iterate over all links on the system (5.8; needs CAP_SYS_ADMIN).

    Each `Link` holds its link for one step of the loop, and is destroyed before the next;
    `Link.by_id(link.id)` makes one that stays. Links that end meanwhile, and links that are just
    being made, are left out.
    """
    for link_id in link_ids():
        try:
            link = Link.by_id(link_id)
        except BpfError as error:
            if error.errno in {errno.ENOENT, errno.EAGAIN}:
                continue
            raise
        with link:
            yield link


def link_ids(after: int = 0) -> Iterator[int]:
    """Yield the ids of all links above `after`, in ascending order (5.8; CAP_SYS_ADMIN)."""
    return ids.alive("link", after)


def remove_pin(path: Path, link_id: int) -> None:
    """Remove a pin of this link; anything else at the path is left alone."""
    with contextlib.suppress(BpfError), Link.open(path) as link:
        if link.id == link_id:
            path.unlink()


class _Reference(Protocol):
    """A reference to a link: libbpf's, or a bare descriptor."""

    @property
    def fd(self) -> int: ...
    @property
    def pin_path(self) -> Path | None: ...
    def pin(self, path: Path, doing: str) -> None: ...
    def unpin(self, doing: str) -> None: ...
    def update(self, program: LoadedProgramHandle, doing: str) -> None: ...
    def update_map(self, new: MapHandle, doing: str) -> None: ...
    def detach(self, doing: str) -> None: ...
    def disconnect(self) -> None: ...
    def destroy(self, doing: str) -> None: ...


class _LibbpfLink:
    """A reference by libbpf's `struct bpf_link *`."""

    def __init__(self, pointer: int) -> None:
        self._pointer = pointer

    @property
    def fd(self) -> int:
        return libbpf.call("bpf_link__fd", self._pointer, doing="ask for a link's descriptor")

    @property
    def pin_path(self) -> Path | None:
        path = libbpf.text("bpf_link__pin_path", self._pointer)
        return None if path is None else Path(path)

    def pin(self, path: Path, doing: str) -> None:
        libbpf.call("bpf_link__pin", self._pointer, os.fsencode(path), doing=doing)

    def unpin(self, doing: str) -> None:
        libbpf.call("bpf_link__unpin", self._pointer, doing=doing)

    def update(self, program: LoadedProgramHandle, doing: str) -> None:
        if program.pointer:
            libbpf.call("bpf_link__update_program", self._pointer, program.pointer, doing=doing)
        else:
            libbpf.call("bpf_link_update", self.fd, program.fd, None, doing=doing)

    def update_map(self, new: MapHandle, doing: str) -> None:
        if new.pointer:
            libbpf.call("bpf_link__update_map", self._pointer, new.pointer, doing=doing)
        else:
            libbpf.call("bpf_link_update", self.fd, new.fd, None, doing=doing)

    def detach(self, doing: str) -> None:
        libbpf.call("bpf_link__detach", self._pointer, doing=doing)

    def disconnect(self) -> None:
        libbpf.call("bpf_link__disconnect", self._pointer, doing="disconnect a link")

    def destroy(self, doing: str) -> None:
        libbpf.call("bpf_link__destroy", self._pointer, doing=doing)


class _Descriptor:
    """A reference by a bare descriptor, which behaves as a `struct bpf_link *`."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.pin_path: Path | None = None
        self._connected = True

    def pin(self, path: Path, doing: str) -> None:
        try:
            path.parent.mkdir(mode=0o700)
        except (FileExistsError, FileNotFoundError):
            pass  # FileNotFoundError: pinning reports it
        except OSError as error:
            raise BpfError(error.errno or 0, doing) from error
        libbpf.call("bpf_obj_pin", self.fd, os.fsencode(path), doing=doing)
        self.pin_path = path

    def unpin(self, doing: str) -> None:
        try:
            os.unlink(self.pin_path or "")
        except OSError as error:
            raise BpfError(error.errno or 0, doing) from error
        self.pin_path = None

    def update(self, program: LoadedProgramHandle, doing: str) -> None:
        libbpf.call("bpf_link_update", self.fd, program.fd, None, doing=doing)

    def update_map(self, new: MapHandle, doing: str) -> None:
        libbpf.call("bpf_link_update", self.fd, new.fd, None, doing=doing)

    def detach(self, doing: str) -> None:
        libbpf.call("bpf_link_detach", self.fd, doing=doing)

    def disconnect(self) -> None:
        self._connected = False

    def destroy(self, doing: str) -> None:
        if self._connected:
            try:
                os.close(self.fd)
            except OSError as error:
                raise BpfError(error.errno or 0, doing) from error


def attached(pointer: int, name: str) -> Link:
    """Make the `Link` of a `struct bpf_link *` that attaching by libbpf returned."""
    reference = _LibbpfLink(pointer)
    try:
        require_kind(reference.fd, "link", f"attach {name}")
    except BpfError:
        reference.destroy(f"attach {name}")
        raise
    return _made(Link(reference, name))


def created(fd: int, name: str) -> Link:
    """Make the `Link` that owns a descriptor, which `BPF_LINK_CREATE` returned."""
    return _made(Link(_Descriptor(fd), name))


def _made(link: Link) -> Link:
    ids.note_made("link", link.id)
    return link
