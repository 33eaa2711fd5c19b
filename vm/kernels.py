"""A SPEC to a kernel on disk, or to several.

Knows what users write after `--kernel`. Layouts are in `image`, kept kernels in `store`, packages
in `debian`, which release a SPEC means in `releases`.

Runs by itself: `python -m pytest_bpflink.vm.kernels list`, `fetch SPEC`, `remove SPEC`, `prune`.
"""

from __future__ import annotations

import argparse
import glob
import os
import re
import shutil
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from pytest_bpflink.vm import image, releases
from pytest_bpflink.vm.image import (
    Kernel,
    KernelError,
    KernelFetchError,
    KernelNotFound,
    KernelUnusable,
)
from pytest_bpflink.vm.store import Store

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pytest_bpflink.vm.stored import Stored

__all__ = [
    "Kernel",
    "KernelError",
    "KernelFetchError",
    "KernelNotFound",
    "KernelUnusable",
    "Store",
    "expand",
    "find",
]

_RELEASE = re.compile(r"\d+\.\d+(\.\d+)*([-+~][\w.+~-]+)?")

_SPECS = "a release (6.1, 6.1.176), lts, newest, oldest, a pattern (6.1*), host, or a path"


def find(
    spec: str,
    *,
    store: Store | None = None,
    progress: Callable[[str], None] | None = None,
) -> Kernel:
    """Return the kernel that a SPEC names, fetching it if need be.

    A SPEC is a release (`6.1` is its newest patch release, of those in the store if there is one,
    else of those in the distribution's packages), `lts`, `newest` or `oldest` (of all of them, and
    without network of those in the store), `host` (the running kernel's image), or the path of an
    image, of an unpacked package, or of a build tree. `progress` is told what takes time.

    A kernel of the store is not removed from it as long as it is referred to. Raises KernelError:
    KernelNotFound, KernelUnusable, or KernelFetchError.
    """
    if spec == "host":
        return _checked(_running_kernel())
    if spec in releases.WORDS or _RELEASE.fullmatch(spec):
        return _checked((store or Store()).get(spec, progress or _silent))
    path = Path(spec).expanduser()
    if _is_pattern(spec):
        raise KernelNotFound(f"{spec!r} is a pattern, which may name several kernels")
    if "/" not in spec and not path.exists():
        raise KernelNotFound(f"{spec!r} names no kernel: write {_SPECS}")
    return replace(_checked(image.read(path)), spec=spec)


def expand(
    spec: str,
    *,
    store: Store | None = None,
    progress: Callable[[str], None] | None = None,
) -> list[str]:
    """Return the SPECs that a pattern names, the oldest kernel first; any other SPEC is its own.

    A pattern means each series that it matches (`6.1*` is 6.1, 6.12, 6.18...), else each version
    (`6.1.*`) or release, in the store and in the distribution's packages, and without network in
    the store; with a slash in it, each path. Nothing is fetched. Raises KernelNotFound if nothing
    matches, and KernelFetchError.
    """
    if not _is_pattern(spec):
        return [spec]
    if "/" in spec:
        found = sorted(glob.glob(os.path.expanduser(spec)))
        if not found:
            raise KernelNotFound(f"no path matches {spec}")
        return found
    store = store or Store()
    known = store.known(spec, progress or _silent)
    found = releases.expand(spec, known)
    if not found:
        raise KernelNotFound(releases.sentence(spec, known, store.kernels()))
    return found


def _is_pattern(spec: str) -> bool:
    return releases.is_glob(spec) and not Path(spec).expanduser().exists()


def _checked(kernel: Kernel) -> Kernel:
    image.check(kernel)
    return kernel


def _running_kernel() -> Kernel:
    release = os.uname().release
    for path in (
        Path(f"/boot/vmlinuz-{release}"),
        Path(f"/usr/lib/modules/{release}/vmlinuz"),
        Path(f"/lib/modules/{release}/vmlinuz"),
    ):
        if path.exists():
            return image.read(path, spec="host")
    raise KernelNotFound(
        f"the image of the running kernel {release} is not on this machine (containers and cloud"
        " guests often lack it): name a release or a path instead"
    )


def _silent(_text: str) -> None:
    pass


def _say(text: str, *, stream: TextIO | None = None) -> None:
    print(text, file=stream or sys.stdout, flush=True)


def _progress(text: str) -> None:
    _say(text, stream=sys.stderr)


def _list(arguments: argparse.Namespace) -> None:
    store = Store()
    stored = store.kernels()
    if arguments.offered:
        _say("\n".join(releases.offer(store.known("*", _progress), stored)))
        return
    _say(f"kernels in {store.root}:")
    width = max((len(kernel.release) for kernel in stored), default=0)
    for kernel in stored:
        used = time.strftime("%Y-%m-%d", time.localtime(kernel.used))
        size = f"{kernel.size >> 20:>5} MiB"
        _say(f"  {kernel.upstream:<12}{kernel.release:<{width}}{size}  used {used}")
    _say(f"{_total(stored)}, {shutil.disk_usage(_existing(store.root)).free >> 30} GiB are free")


def _fetch(arguments: argparse.Namespace) -> None:
    for pattern in arguments.spec:
        for spec in expand(pattern, progress=_progress):
            kernel = find(spec, progress=_progress)
            _say(f"{kernel.spec}: Linux {kernel.version} ({kernel.release}) at {kernel.image}")


def _remove(arguments: argparse.Namespace) -> None:
    store = Store()
    for spec in arguments.spec:
        kernels = releases.meant(spec, store.kernels())
        if not kernels:
            raise KernelNotFound(f"no kernel {spec} is in {store.root}")
        for kernel in kernels:
            size = kernel.size
            if not store.remove(kernel):
                raise KernelError(f"Linux {kernel.upstream} is in use, and stays")
            _say(f"removed Linux {kernel.upstream} ({kernel.release}), {size >> 20} MiB")


def _prune(arguments: argparse.Namespace) -> None:
    store = Store()
    removed = store.prune(unused_days=arguments.unused_days, keep=arguments.keep)
    for kernel in removed:
        _say(f"removed Linux {kernel.upstream} ({kernel.release})")
    _say(f"{_total(store.kernels())} left")


def _total(kernels: Sequence[Stored]) -> str:
    number = f"{len(kernels)} kernel{'' if len(kernels) == 1 else 's'}"
    return f"{number}, {sum(kernel.size for kernel in kernels) >> 20} MiB"


def _existing(path: Path) -> Path:
    return path if path.exists() else _existing(path.parent)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m pytest_bpflink.vm.kernels", description="The kernels kept for guests."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    command = commands.add_parser("list", help="Show what is in the store")
    command.add_argument("--offered", action="store_true", help="Show what can be had, by series")
    command.set_defaults(run=_list)
    command = commands.add_parser("fetch", help="Fetch kernels that are not there yet")
    command.add_argument("spec", nargs="+", metavar="SPEC", help=f"Which: {_SPECS}")
    command.set_defaults(run=_fetch)
    command = commands.add_parser("remove", help="Remove each kernel that a SPEC matches")
    command.add_argument("spec", nargs="+", metavar="SPEC", help="Which: as for fetch, no paths")
    command.set_defaults(run=_remove)
    command = commands.add_parser(
        "prune", help="Remove what was not used for long, and downloads that were cut off"
    )
    command.add_argument(
        "--unused-days", type=float, default=30, metavar="N", help="For how long (default: 30)"
    )
    command.add_argument(
        "--keep", action="append", default=[], metavar="SPEC", help="What stays (repeatable)"
    )
    command.set_defaults(run=_prune)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command, and return the exit status."""
    parsed = _parser().parse_args(arguments)
    try:
        parsed.run(parsed)
    except KernelError as error:
        _say(str(error), stream=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
