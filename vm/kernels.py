"""A SPEC to a kernel on disk.

Knows what users write after `--kernel`. Layouts are in `image`, kept kernels in `store`, packages
in `debian`. Runs by itself: `python -m pytest_bpflink.vm.kernels 6.1`.
"""

from __future__ import annotations

import os
import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from pytest_bpflink.vm import image
from pytest_bpflink.vm.image import (
    Kernel,
    KernelError,
    KernelFetchError,
    KernelNotFound,
    KernelUnusable,
)
from pytest_bpflink.vm.store import Store

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = [
    "Kernel",
    "KernelError",
    "KernelFetchError",
    "KernelNotFound",
    "KernelUnusable",
    "Store",
    "find",
]

_RELEASE = re.compile(r"\d+\.\d+(\.\d+)*([-+~][\w.+~-]+)?")


def find(
    spec: str,
    *,
    store: Store | None = None,
    progress: Callable[[str], None] | None = None,
) -> Kernel:
    """Return the kernel that a SPEC names, fetching it if need be.

    A SPEC is a release (`6.1` is its newest patch release, of those in the store if there is one,
    else of those in the distribution's packages), `host` (the running kernel's image), or the path
    of an image, of an unpacked package, or of a build tree. `progress` is told what takes time.

    Raises KernelError: KernelNotFound, KernelUnusable, or KernelFetchError.
    """
    if spec == "host":
        return _checked(_running_kernel())
    if _RELEASE.fullmatch(spec):
        return _checked((store or Store()).get(spec, progress or _silent))
    path = Path(spec).expanduser()
    if "/" not in spec and not path.exists():
        raise KernelNotFound(
            f"{spec!r} names no kernel: write a release (6.1, 6.1.176), host, or a path"
        )
    return replace(_checked(image.read(path)), spec=spec)


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


def _say(stream: TextIO, text: str) -> None:
    stream.write(f"{text}\n")
    stream.flush()


def _main() -> int:
    if len(sys.argv) < 2:
        _say(sys.stderr, "usage: python -m pytest_bpflink.vm.kernels SPEC...")
        return 2
    for spec in sys.argv[1:]:
        try:
            kernel = find(spec, progress=lambda text: _say(sys.stderr, text))
        except KernelError as error:
            _say(sys.stderr, str(error))
            return 1
        found = f"Linux {kernel.version} ({kernel.release}) at {kernel.image}"
        _say(sys.stdout, f"{kernel.spec}: {found}")
    return 0


if __name__ == "__main__":
    sys.exit(_main())
