"""An initramfs: an archive in cpio's "newc" format, with files of the host at the host's paths.

Knows the format (Documentation/driver-api/early-userspace/buffer-format.rst) and symbolic links in
paths. `guest_image` chooses the files.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Self

if TYPE_CHECKING:
    from types import TracebackType

_MAGIC = b"070701"

# As many links in one path as Linux follows (path_resolution(7)).
_ROOT = Path("/")
_MOST_LINKS = 40


class Archive:
    """Writes an initramfs to FILE. Everything in it is root's; each path is written once.

    `add_as_it_is` keeps the owner and the time of a file of the host.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._written: set[str] = set()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error is None:
            self._written.discard("TRAILER!!!")
            self._entry("TRAILER!!!", 0, b"")

    def add_host_file(self, path: Path, *, root: Path = _ROOT) -> None:
        """Add a file of the host, and all directories and links on the way to it.

        Its path starts at ROOT, a directory with a root of its own.
        """
        inside = self._followed(path, root)
        found = root / inside.relative_to("/")
        if found.is_file():
            self.add(inside, found.read_bytes(), mode=found.stat().st_mode)
        else:
            self._directory(inside)

    def add_as_it_is(self, path: Path) -> None:
        """Add a file of the host as `add_host_file` does, but with its owner and its time.

        A link that leads nowhere is added alone.
        """
        if not path.exists():
            self._add_way(path, _ROOT)
            return
        found = self._followed(path, _ROOT)
        status = found.stat()
        if stat.S_ISREG(status.st_mode):
            self._directory(found.parent)
            self._entry(str(found), status.st_mode, found.read_bytes(), status=status)
        elif stat.S_ISDIR(status.st_mode):
            self._directory(found)

    def add(self, path: Path, content: bytes, *, mode: int = 0o644) -> None:
        """Add a file with this content."""
        self._directory(path.parent)
        self._entry(str(path), stat.S_IFREG | stat.S_IMODE(mode), content)

    def add_link(self, path: Path, target: str) -> None:
        """Add a symbolic link."""
        self._directory(path.parent)
        self._entry(str(path), stat.S_IFLNK | 0o777, os.fsencode(target))

    def add_console(self) -> None:
        """Add /dev/console, which the kernel opens for init before there is anything mounted."""
        self._directory(Path("/dev"))
        self._entry("/dev/console", stat.S_IFCHR | 0o600, b"", device=(5, 1))

    def _followed(self, path: Path, root: Path) -> Path:
        """Add the way to PATH, and return the path that all links on it lead to."""
        for _ in range(_MOST_LINKS):
            link = self._add_way(path, root)
            if link is None:
                return path
            path = link
        raise OSError(f"too many symbolic links at {path}")

    def _add_way(self, path: Path, root: Path) -> Path | None:
        """Add the directories of PATH up to the first link; return its target, None for no link."""
        for part in [*reversed(path.parents), path]:
            place = root / part.relative_to("/")
            if place.is_symlink():
                target = os.readlink(place)
                self.add_link(part, target)
                # No directory before this link is a link, so normpath may remove "..".
                return Path(os.path.normpath(part.parent / target / path.relative_to(part)))
        return None

    def _directory(self, path: Path) -> None:
        for part in [*reversed(path.parents), path]:
            if str(part) != "/":
                self._entry(str(part), stat.S_IFDIR | 0o755, b"")

    def _entry(
        self,
        path: str,
        mode: int,
        content: bytes,
        *,
        device: tuple[int, int] = (0, 0),
        status: os.stat_result | None = None,
    ) -> None:
        if path in self._written:
            return
        self._written.add(path)
        name = os.fsencode(path.lstrip("/")) + b"\0"
        numbers = (
            len(self._written),  # inode: without hard links any number will do
            mode,
            status.st_uid if status else 0,
            status.st_gid if status else 0,
            1,  # links
            max(0, int(status.st_mtime)) if status else 0,
            len(content),
            0,
            0,  # device of the archive
            *device,
            len(name),
            0,  # checksum, unused
        )
        header = _MAGIC + b"".join(b"%08X" % number for number in numbers)
        self._padded(header + name)
        self._padded(content)

    def _padded(self, data: bytes) -> None:
        self._file.write(data + bytes(-len(data) % 4))
