"""The index of a kernel's modules (modules.dep and others), by which modprobe and guests find them.

Unpacked packages and build trees have none. They get one in the cache, beside links to the modules:
nothing is written to the trees themselves, which may be read-only.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_bpflink.vm import programs
from pytest_bpflink.vm.cache import cache_part, is_trusted_tree, locked, writable
from pytest_bpflink.vm.identity import identity
from pytest_bpflink.vm.kernels.kernel import KernelFetchError, KernelUnusable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from pytest_bpflink.vm.kernels.kernel import Kernel

# The lists that a kernel's build makes; depmod makes all others from them and from the modules.
_LISTS = ("modules.builtin", "modules.builtin.modinfo", "modules.order")

_UNFINISHED = ".unfinished-"
_UNUSED_SECONDS = 30 * 86400.0


def indexed(kernel: Kernel, progress: Callable[[str], None]) -> Kernel:
    """Return KERNEL with an index of its modules; they are links if their own tree has no index.

    PROGRESS is called before depmod runs, which takes up to 40 s. Raises KernelError.
    """
    directory = kernel.module_directory
    if directory is None or (directory / "modules.dep").exists():
        return kernel
    try:
        links = dict(_links(kernel, directory))
        about = [kernel.release, *([name, str(to)] for name, to in links.items())]
        key = _digest([*about, *map(identity, _files(directory, links))])
        tree = _tree(kernel, links, key, progress)
    except OSError as error:
        raise KernelFetchError(
            f"the modules of Linux {kernel.release} can't be indexed: {error}"
        ) from error
    with suppress(OSError):  # of a cache that this user can only read
        os.utime(tree)
    return replace(kernel, modules=tree)


def _tree(
    kernel: Kernel, links: dict[str, Path], key: str, progress: Callable[[str], None]
) -> Path:
    def is_whole(root: Path) -> bool:
        return (root / key).is_dir() and is_trusted_tree(root / key)

    root = writable(cache_part("modules"), unless=is_whole)
    if not is_whole(root):
        what = f"{kernel.spec}: indexing its modules"
        with locked(root, unfinished=_UNFINISHED, waits=lambda: progress(what)):
            _forget_unused(root)
            if not is_whole(root):
                progress(what)
                _make(kernel, links, root / key)
    return root / key


def _make(kernel: Kernel, links: dict[str, Path], tree: Path) -> None:
    with tempfile.TemporaryDirectory(prefix=_UNFINISHED, dir=tree.parent) as temporary:
        new = Path(temporary) / "tree"
        make_tree(new, kernel.release, links)
        with suppress(FileNotFoundError):  # of this name, and not trusted
            tree.rename(Path(temporary) / "replaced")
        new.rename(tree)


def make_tree(tree: Path, release: str, links: Mapping[str, Path]) -> None:
    """Make a tree of links to modules, by their names in lib/modules/RELEASE, and their index.

    Raises KernelError and OSError.
    """
    # depmod works on /lib/modules or, as distributions build it since kmod 33, on /usr/lib/modules.
    directory = tree / "usr/lib/modules" / release
    directory.mkdir(parents=True)
    (tree / "lib").symlink_to("usr/lib")
    for name, target in links.items():
        place = directory / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.symlink_to(target)
    try:
        done = programs.run(["depmod", "-b", str(tree), release])
    except FileNotFoundError as error:
        raise KernelFetchError(
            f"{error.filename} is needed to index the modules of Linux {release}:"
            " apt-get install kmod util-linux"
        ) from None
    if done.returncode or not (directory / "modules.dep").exists():
        raise KernelUnusable(
            f"depmod can't index the modules of Linux {release}: {done.stderr.strip()}"
        )


def _links(kernel: Kernel, installed: Path) -> Iterator[tuple[str, Path]]:
    """Yield the links of a tree: where each is in its directory of modules, and its target."""
    if installed.is_dir():
        for entry in sorted(installed.iterdir()):
            # Indexes that are not whole are left out.
            if entry.name in _LISTS or not entry.name.startswith("modules."):
                yield entry.name, entry
        return
    # A build tree: its modules lie among the sources.
    assert kernel.modules
    yield "build", kernel.modules
    for name in _LISTS:
        if (kernel.modules / name).exists():
            yield name, kernel.modules / name
    for line in (kernel.modules / "modules.order").read_text().splitlines():
        # Up to 6.1 kernel/fs/9p/9p.ko, then fs/9p/9p.o.
        module = Path(line.removeprefix("kernel/")).with_suffix(".ko")
        if (kernel.modules / module).exists():
            yield f"kernel/{module}", kernel.modules / module


def _files(installed: Path, links: dict[str, Path]) -> Iterator[str | Path]:
    """Yield the files that an index depends on."""
    if not installed.is_dir():
        yield from (target for name, target in links.items() if name != "build")
        return
    for directory, below, names in os.walk(installed):
        below.sort()
        for name in sorted(names):
            if ".ko" in name or name in _LISTS:
                yield os.path.join(directory, name)


def _digest(about: object) -> str:
    text = json.dumps(about).encode(errors="surrogateescape")
    return hashlib.sha256(text).hexdigest()[:32]


def _forget_unused(root: Path) -> None:
    for tree in root.iterdir():
        if tree.is_dir() and time.time() - tree.stat().st_mtime > _UNUSED_SECONDS:
            shutil.rmtree(tree, ignore_errors=True)
