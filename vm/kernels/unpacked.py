"""Kernels that were unpacked from files and images that users named, kept by what is in them.

They are no part of the store: `--kernel 6.1` never means one of them. `packages` and `oci` unpack.
"""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_bpflink.vm.cache import (
    cache_root,
    is_texts,
    is_trusted_tree,
    locked,
    recall,
    refuse,
    usable,
    writable,
)
from pytest_bpflink.vm.kernels import packages
from pytest_bpflink.vm.kernels.kernel import Kernel, KernelError, KernelFetchError, check_kernel
from pytest_bpflink.vm.kernels.stored import Kept
from pytest_bpflink.vm.trust import withdraw

if TYPE_CHECKING:
    from collections.abc import Callable

# Begins the names of directories that are being unpacked or removed.
_UNFINISHED = ".unfinished-"

# The file in each directory that says what was unpacked.
_ABOUT = "unpacked.json"


@dataclass(frozen=True)
class UnpackedKernel(Kept):
    """A kernel that is kept: the SPEC that it was unpacked for, and its `uname -r`."""

    spec: str
    release: str


class Unpacked:
    """Unpacked kernels by a key, which differs if what they are made of does.

    May be shared by runs in parallel, and read by users who can't write to it: these unpack other
    kernels to a temporary directory.
    """

    def __init__(self, root: Path | None = None) -> None:
        self.root = usable(root or cache_root() / "unpacked")

    def kernels(self) -> list[UnpackedKernel]:
        """Return what is kept, by SPEC."""
        found = []
        for path in self.root.glob("[!.]*"):
            about = recall(path / _ABOUT)
            names = [about.get("spec"), about.get("release")]
            found += [UnpackedKernel(path, *names)] if is_texts(names) else []
        return sorted(found, key=lambda kernel: kernel.spec)

    def get(
        self,
        key: str,
        spec: str,
        unpack: Callable[[Path], object],
        read: Callable[[Path], Kernel],
        progress: Callable[[str], None],
    ) -> Kernel:
        """Return the kernel that is kept as KEY; the first time, UNPACK it to an empty directory.

        READ returns the kernel in a directory. It is kept as long as the returned object exists.
        SPEC is for people. Raises KernelError: of UNPACK, of READ, of `check_kernel`, and if the
        kernel can't be written to the disk.
        """
        root = writable(self.root, unless=lambda root: (root / key).is_dir())
        found = _read(Kept(root / key), read)
        if found:
            return found
        waiting = f"{spec}: waiting for another run that is unpacking a kernel"
        try:
            with locked(root, unfinished=_UNFINISHED, waits=lambda: progress(waiting)):
                found = _read(Kept(root / key), read)
                if not found:
                    progress(f"{spec}: unpacking")
                    _add(root / key, spec, unpack, read)
                    found = _read(Kept(root / key), read)
        except OSError as error:
            raise KernelFetchError(
                f"{spec} can't be unpacked to {root} ({error.strerror}); BPFLINK_CACHE names"
                " another directory"
            ) from error
        assert found, "it was unpacked, and is not removed without the lock"
        return found

    def remove(self, kernel: UnpackedKernel) -> bool:
        """Remove a kernel unless a process uses it; return whether it was removed.

        Raises KernelError if it can't be removed.
        """
        try:
            with (
                locked(self.root, unfinished=_UNFINISHED, waits=lambda: None),
                kernel.unused() as unused,
            ):
                if unused:
                    doomed = kernel.path.rename(self.root / f"{_UNFINISHED}{kernel.path.name}")
                    shutil.rmtree(doomed)
                return unused
        except OSError as error:
            raise KernelError(f"{kernel.path} can't be removed: {error.strerror}") from error

    def prune(self, *, unused_days: float) -> list[UnpackedKernel]:
        """Remove and return the kernels that nobody used for UNUSED_DAYS. Raises KernelError."""
        limit = time.time() - unused_days * 24 * 3600
        old = [kernel for kernel in self.kernels() if kernel.used <= limit]
        return [kernel for kernel in old if self.remove(kernel)]


def _add(
    path: Path, spec: str, unpack: Callable[[Path], object], read: Callable[[Path], Kernel]
) -> None:
    with tempfile.TemporaryDirectory(prefix=_UNFINISHED, dir=path.parent) as temporary:
        tree = Path(temporary) / "tree"
        tree.mkdir()
        unpack(tree)
        kernel = read(tree)
        if kernel.modules:
            packages.index(kernel)
        check_kernel(kernel)
        about = {"spec": spec, "release": kernel.release}
        (tree / _ABOUT).write_text(json.dumps(about))
        withdraw(tree)
        # A kernel with this key that is damaged or not trusted.
        with suppress(FileNotFoundError):
            path.rename(Path(temporary) / "replaced")
        tree.rename(path)


def _read(kept: Kept, read: Callable[[Path], Kernel]) -> Kernel | None:
    """Return a kernel with its lease; None if there is none, or it is not usable."""
    lease = kept.lease()
    if lease is None or not is_trusted_tree(kept.path):
        return None
    try:
        kernel = read(kept.path)
        check_kernel(kernel)
    except KernelError as error:
        refuse(kept.path, str(error))
        return None
    return replace(kernel, lease=lease)
