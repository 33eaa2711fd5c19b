"""BPF FS: the file system that links, programs and maps are pinned in."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path
from typing import TYPE_CHECKING, Self

from pytest_bpflink.errors import BpfError
from pytest_bpflink.introspection.pins import pins_below
from pytest_bpflink.system.libc import libc

if TYPE_CHECKING:
    from collections.abc import Iterator

_MNT_DETACH = 2


class BpfFs(os.PathLike[str]):
    """The mount of a separate BPF FS, path-like: `bpffs / "link"` is a path to pin a link at.

    Mounted until `unmount()` or the end of a `with` block. Then its pins go, and with them every
    link that nothing else holds; the kernel may end the links up to about 30 ms later (5.10).
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        """The directory on which the BPF FS is mounted."""
        self._mounted = True

    @classmethod
    def mount(cls, directory: str | os.PathLike[str], **options: str | int) -> Self:
        """Mount a fresh BPF FS on an existing directory.

        `options` are mount options: `mode=0o700`; since 6.9 `delegate_cmds="any"`, `delegate_maps`,
        `delegate_progs`, `delegate_attachs`. The kernel ignores names that it does not know. Raises
        `BpfError`: EPERM without CAP_SYS_ADMIN, EINVAL for a value that the kernel refuses.
        """
        path = Path(directory)
        text = ",".join(f"{name}={_option(name, value)}" for name, value in options.items())
        if libc().mount(b"bpf", os.fsencode(path), b"bpf", 0, text.encode() or None):
            hint = f"the options were {text}" if text else "needs CAP_SYS_ADMIN"
            raise BpfError(ctypes.get_errno(), f"mount a BPF FS on {path}", hint=hint)
        return cls(path)

    def unmount(self) -> None:
        """Unmount the BPF FS; idempotent. Objects still open live on, without their pins."""
        if not self._mounted:
            return
        self._mounted = False
        unmount(self.path)

    def pins(self) -> Iterator[Path]:
        """Yield the path of every pin, except the two iterators that the kernel pins itself."""
        return pins_below(self.path)

    def __fspath__(self) -> str:
        return str(self.path)

    def __truediv__(self, name: str | os.PathLike[str]) -> Path:
        return self.path / name

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.unmount()

    def __repr__(self) -> str:
        return f"<BpfFs {self.path}{'' if self._mounted else ' unmounted'}>"


def unmount(path: Path) -> None:
    """Unmount the file system on a path, even while it is in use (MNT_DETACH)."""
    if libc().umount2(os.fsencode(path), _MNT_DETACH):
        raise BpfError(ctypes.get_errno(), f"unmount {path}")


def _option(name: str, value: str | int) -> str:
    return f"{value:o}" if name == "mode" and isinstance(value, int) else str(value)
