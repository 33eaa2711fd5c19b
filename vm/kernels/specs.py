"""Turns a SPEC, which users write after `--kernel`, into a kernel on disk, or a pattern into SPECs.

`releases` chooses a release, `store` fetches and keeps kernels, `kernel` reads them from a path.
"""

from __future__ import annotations

import glob
import os
import re
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_bpflink.vm.kernels import oci, packages, releases
from pytest_bpflink.vm.kernels.drivers import check_drivers
from pytest_bpflink.vm.kernels.kernel import (
    Kernel,
    KernelNotFound,
    check_kernel,
    read_kernel,
    short_id,
)
from pytest_bpflink.vm.kernels.module_index import indexed
from pytest_bpflink.vm.kernels.spelling import OCI, spelled
from pytest_bpflink.vm.kernels.store import Store
from pytest_bpflink.vm.kernels.unpacked import Unpacked

if TYPE_CHECKING:
    from collections.abc import Callable

_RELEASE = re.compile(r"\d+\.\d+(\.\d+)*([-+~][\w.+~-]+)?")

_SPECS = (
    "a release (6.1, 6.1.176), lts, newest, oldest, a pattern (6.1*), host, a path, or oci:IMAGE"
)


def find(
    spec: str,
    *,
    store: Store | None = None,
    progress: Callable[[str], None] | None = None,
) -> Kernel:
    """Return the kernel that a SPEC names; fetch it if it is missing.

    A SPEC is a release (`6.1` is the newest patch release in the store or, if the store has none,
    in the distribution's packages or, if these have none, in those of the user's sources), `lts`,
    `newest` or `oldest` (of the store and the packages, or without a network of the store), `host`
    (the running kernel's image), the path of an image, of a package or a directory of packages, of
    an unpacked package, or of a build tree, or an image with a kernel: `oci:REF` in a registry,
    `oci:DIRECTORY` on the disk. `progress` is called with a sentence for each slow step.

    The store keeps a kernel as long as the returned object exists. Raises KernelError:
    KernelNotFound, KernelUnusable, or KernelFetchError.
    """
    progress = progress or _silent
    if spec == "host":
        return _ready(_running_kernel(), progress)
    if spec in releases.WORDS or _RELEASE.fullmatch(spec):
        return _checked((store or Store()).get(spec, progress))
    if spec.startswith(OCI):
        return _in_image(spec, progress)
    path = Path(os.path.expanduser(spec))
    if _is_pattern(spec):
        raise KernelNotFound(f"{spec!r} is a pattern, which may name several kernels")
    if "/" not in spec and not os.path.exists(path):
        raise KernelNotFound(f"{spec!r} names no kernel: write {_SPECS}")
    return replace(_at(path, progress), spec=spec)


def expand(
    spec: str,
    *,
    store: Store | None = None,
    progress: Callable[[str], None] | None = None,
) -> list[str]:
    """Return the SPECs that a pattern names, the oldest kernel first; any other SPEC is its own.

    A pattern means each series that it matches (`6.1*` is 6.1, 6.12, 6.18...), else each version
    (`6.1.*`) or release, in the store and in the distribution's packages, or without a network in
    the store; a pattern with a slash means each path. Nothing is fetched. Raises KernelNotFound if
    nothing matches, and KernelFetchError.
    """
    if spec.startswith(OCI) or not _is_pattern(spec):
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


def _at(path: Path, progress: Callable[[str], None]) -> Kernel:
    """Return the kernel at a path: as it is, or unpacked from its packages."""
    files = packages.given(path) if os.path.isfile(path) else []
    if not files:
        try:
            return _ready(read_kernel(path), progress)
        except KernelNotFound:
            files = packages.given(path) if os.path.isdir(path) else []
            if not files:
                raise
    try:
        key = f"deb-{packages.digest(files)}"
    except OSError as error:
        raise KernelNotFound(f"{error.filename} can't be read: {error.strerror}") from None
    named = path.absolute()
    kernel = Unpacked().get(
        key,
        str(named),
        lambda tree: packages.extract(files, tree),
        lambda tree: packages.read(path, tree),
        progress,
    )
    return replace(kernel, id=short_id(named.name.removesuffix(".deb"), named))


def _in_image(spec: str, progress: Callable[[str], None]) -> Kernel:
    image = spelled(spec, Path.cwd())
    kernel = Unpacked().get(
        oci.key(image),
        str(image),
        lambda tree: oci.unpack(image, tree),
        lambda tree: oci.read(image, tree),
        progress,
    )
    name = str(image.path.name if image.path else "") + image.suffix
    return replace(kernel, spec=spec, id=short_id(name.rpartition("/")[2], Path(str(image))))


def _is_pattern(spec: str) -> bool:
    return releases.is_glob(spec) and not os.path.exists(os.path.expanduser(spec))


def _checked(kernel: Kernel) -> Kernel:
    check_kernel(kernel)
    return kernel


def _ready(kernel: Kernel, progress: Callable[[str], None]) -> Kernel:
    """Return a kernel whose modules have an index, and which can run as a guest."""
    kernel = indexed(_checked(kernel), progress)
    check_drivers(kernel)
    return kernel


def _running_kernel() -> Kernel:
    release = os.uname().release
    for path in (
        Path(f"/boot/vmlinuz-{release}"),
        Path(f"/usr/lib/modules/{release}/vmlinuz"),
        Path(f"/lib/modules/{release}/vmlinuz"),
    ):
        if path.exists():
            return read_kernel(path, spec="host")
    raise KernelNotFound(
        f"the image of the running kernel {release} is not on this machine (containers and cloud"
        " guests often lack it): name a release or a path instead"
    )


def _silent(_text: str) -> None:
    pass
