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

from pytest_bpflink.vm import architectures
from pytest_bpflink.vm.kernels import oci, packages, releases
from pytest_bpflink.vm.kernels.drivers import check_drivers, has_9p
from pytest_bpflink.vm.kernels.kernel import (
    Kernel,
    KernelNotFound,
    KernelUnusable,
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

    from pytest_bpflink.vm.kernels.spelling import Spelled

_RELEASE = re.compile(r"\d+\.\d+(\.\d+)*([-+~][\w.+~-]+)?")

_SPECS = (
    "a release (6.1, 6.1.176), lts, newest, oldest, a pattern (6.1*), host, a path, or oci:IMAGE;"
    " before it an architecture, as in arm64:6.12"
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
    `oci:DIRECTORY` on the disk. `arm64:6.12` is a kernel of another architecture. `progress` is
    called with a sentence for each slow step.

    The store keeps a kernel as long as the returned object exists. Raises KernelError:
    KernelNotFound, KernelUnusable, or KernelFetchError.
    """
    progress = progress or _silent
    arch, name = architectures.split(spec)
    if name == "host":
        if arch not in {"", architectures.own()}:
            raise KernelNotFound(f"{spec}: the running kernel is an {architectures.own()} kernel")
        return _ready(_running_kernel(), progress)
    if name in releases.WORDS or _RELEASE.fullmatch(name):
        kernel = _store_for(arch, store).get(name, progress)
        return replace(_checked(kernel), spec=spec, id=spec)
    if name.startswith(OCI):
        return replace(_in_image(name, arch, progress), spec=spec)
    path = Path(os.path.expanduser(name))
    if _is_pattern(name):
        raise KernelNotFound(f"{spec!r} is a pattern, which may name several kernels")
    if "/" not in name and not os.path.exists(path):
        raise KernelNotFound(f"{spec!r} names no kernel: write {_SPECS}")
    return replace(_at(path, arch, progress), spec=spec)


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
    arch, pattern = architectures.split(spec)
    if pattern.startswith(OCI) or not _is_pattern(pattern):
        return [spec]
    if "/" in pattern:
        found = sorted(glob.glob(os.path.expanduser(pattern)))
        if not found:
            raise KernelNotFound(f"no path matches {pattern}")
    else:
        store = _store_for(arch, store)
        known = store.known(pattern, progress or _silent)
        found = releases.expand(pattern, known)
        if not found:
            raise KernelNotFound(releases.sentence(pattern, known, store.kernels()))
    return [f"{arch}:{name}" if arch else name for name in found]


def _store_for(arch: str, store: Store | None) -> Store:
    wanted = arch or architectures.own()
    return store if store and store.arch == wanted else Store(arch=arch)


def _of(arch: str, at: Path | Spelled, kernel: Kernel) -> Kernel:
    """Return a kernel that is AT a place, which may not be of another architecture than ARCH.

    Without ARCH that is this machine's. Raises KernelUnusable.
    """
    kernel = replace(kernel, arch=arch or architectures.own())
    of_image = architectures.of_image(kernel.image)
    if of_image not in {"", kernel.arch}:
        raise KernelUnusable(f"{at}: this is an {of_image} kernel; write {of_image}:{at}")
    return kernel


def _at(path: Path, arch: str, progress: Callable[[str], None]) -> Kernel:
    """Return the kernel at a path: as it is, or unpacked from its packages."""
    files = packages.given(path) if os.path.isfile(path) else []
    if not files:
        try:
            return _ready(_of(arch, path, read_kernel(path)), progress)
        except KernelNotFound:
            files = packages.given(path) if os.path.isdir(path) else []
            if not files:
                raise
    try:
        key = "-".join(filter(None, ("deb", arch, packages.digest(files))))
    except OSError as error:
        raise KernelNotFound(f"{error.filename} can't be read: {error.strerror}") from None
    named = path.absolute()
    kernel = Unpacked().get(
        key,
        str(named),
        lambda tree: packages.extract(files, tree),
        lambda tree: _of(arch, path, packages.read(path, tree)),
        progress,
    )
    return replace(_fit(kernel), id=short_id(named.name.removesuffix(".deb"), named))


def _in_image(spec: str, arch: str, progress: Callable[[str], None]) -> Kernel:
    image = spelled(spec, Path.cwd())
    wanted = arch or architectures.own()
    kernel = Unpacked().get(
        oci.key(image, wanted),
        str(image),
        lambda tree: oci.unpack(image, wanted, tree),
        lambda tree: _of(arch, image, oci.read(image, tree)),
        progress,
    )
    name = str(image.path.name if image.path else "") + image.suffix
    id_ = short_id(name.rpartition("/")[2], Path(str(image)))
    return replace(_fit(kernel), spec=spec, id=id_)


def _is_pattern(spec: str) -> bool:
    return releases.is_glob(spec) and not os.path.exists(os.path.expanduser(spec))


def _checked(kernel: Kernel) -> Kernel:
    check_kernel(kernel)
    return kernel


def _ready(kernel: Kernel, progress: Callable[[str], None]) -> Kernel:
    """Return a kernel whose modules have an index, and which can run as a guest."""
    return _fit(indexed(_checked(kernel), progress))


def _fit(kernel: Kernel) -> Kernel:
    """Return a kernel that can run as a guest; its modules have an index. Raises KernelUnusable."""
    check_drivers(kernel)
    if kernel.is_foreign and has_9p(kernel) is False:
        raise KernelUnusable(
            f"kernel {kernel.release} can't run as a guest: it has no 9p, and guests without it are"
            f" {architectures.own()} guests"
        )
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
