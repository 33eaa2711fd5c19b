"""A kernel on disk: its image, release, modules and config, and whether it can run as a guest.

Knows the layouts of package trees, build trees and installed systems. `store` and `debian` fetch
kernels; `specs` knows what a SPEC means.
"""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from pytest_bpflink.vm import architectures
from pytest_bpflink.vm.kernels import ikconfig
from pytest_bpflink.vm.kernels.config import parse_config

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


class KernelError(Exception):
    """There is no usable kernel for a SPEC; the message says why and what to do next."""


class KernelNotFound(KernelError):  # noqa: N818 (reads as what happened)
    """Nothing matches the SPEC; the message says what there is."""


class KernelUnusable(KernelError):  # noqa: N818 (reads as what happened)
    """The kernel is there, but can't run as a guest; the message names the missing piece."""


class KernelFetchError(KernelError):
    """A kernel could not be downloaded or unpacked: no apt, no network, no room on the disk."""


class Unreachable(KernelFetchError):  # noqa: N818 (reads as what happened)
    """Packages can't be listed or downloaded: no apt, no mirror, or no network."""


class Gone(Unreachable):
    """The mirror lists a package that it has not: its lists and packages are of different days."""


@dataclass(frozen=True)
class Kernel:
    """A kernel on disk, ready to be booted.

    `id` is short and made for test ids: the SPEC itself for a release, a name made of the path
    otherwise. `release` is the kernel's `uname -r`, `version` the upstream version if it is known
    to differ (Debian's 6.1.0-50-amd64 is 6.1.176), else the same. `modules` is the directory above
    `lib/modules`; `find` returns kernels whose modules have an index there. `config` maps
    `CONFIG_*` to their values, strings without their quotes; it is empty if no config lies beside
    the image, with the modules, or in the image. `config_file` is where it was read. `arch` is
    Debian's name of its architecture. The store keeps a kernel as long as its `lease` exists.
    """

    spec: str
    id: str
    release: str
    image: Path
    modules: Path | None
    config: Mapping[str, str] = field(repr=False, compare=False)
    version: str = ""
    config_file: Path | None = field(default=None, repr=False, compare=False)
    arch: str = field(default_factory=architectures.own)
    lease: object = field(default=None, repr=False, compare=False)

    @property
    def is_foreign(self) -> bool:
        """Whether it is of another architecture than this machine."""
        return self.arch != architectures.own()

    @property
    def module_directory(self) -> Path | None:
        """The directory of its modules and of their index; None if it has no modules."""
        return self.modules / "lib/modules" / self.release if self.modules else None

    @property
    def without_modules(self) -> str:
        """Where modules were looked for; empty if they were found."""
        if self.modules is not None:
            return ""
        return (
            f"its modules are missing: there is no lib/modules/{self.release} in any directory"
            f" above {self.image}"
        )


# Without these no guest starts: it talks through virtio ports, and has an overlay on its root. The
# driver of the bus that the ports are on depends on the architecture.
_NEEDED = (
    "BLK_DEV_INITRD",
    "TMPFS",
    "DEVTMPFS",
    "VIRTIO_CONSOLE",
    "OVERLAY_FS",
)

# Without these a guest starts, but many tests of BPF are skipped.
_WANTED = ("CGROUPS", "BPF_SYSCALL", "CGROUP_BPF", "DEBUG_INFO_BTF")

# The uncompressed vmlinux last, for it may have its debug information.
_IMAGE_NAMES = ("vmlinuz", "bzImage", "Image", "vmlinux")


def read_kernel(path: Path, *, spec: str | None = None, arch: str = "") -> Kernel:
    """Return the kernel at PATH: an image, a package tree, or a build tree.

    It is taken to be of the architecture ARCH, by default this machine's.

    Raises KernelNotFound if there is none, or more than one; KernelUnusable if it is damaged.
    """
    kernel = _read(path, spec)
    return replace(kernel, arch=arch) if arch else kernel


def check_kernel(kernel: Kernel) -> list[str]:
    """Return the options that tests will miss; raise KernelUnusable if no guest can start.

    A kernel with an unknown config passes; if it does not boot, its console says why.
    """
    if not kernel.config:
        return []
    known = architectures.ALL.get(kernel.arch)
    needed = (known.driver, *_NEEDED) if known else _NEEDED
    missing = [name for name in needed if f"CONFIG_{name}" not in kernel.config]
    if missing:
        names = ", ".join(f"CONFIG_{name}" for name in missing)
        raise KernelUnusable(
            f"kernel {kernel.release} can't run as a guest: it is built without {names}"
            "; take a general-purpose kernel, or add them and rebuild"
        )
    modular = [name for name in needed if kernel.config[f"CONFIG_{name}"] == "m"]
    if modular and kernel.without_modules:
        names = ", ".join(f"CONFIG_{name}" for name in modular)
        raise KernelUnusable(
            f"kernel {kernel.release} has {names} as modules, and {kernel.without_modules}"
        )
    return [f"CONFIG_{name}" for name in _WANTED if f"CONFIG_{name}" not in kernel.config]


def _read(path: Path, spec: str | None) -> Kernel:
    found = path.resolve()
    if not os.path.exists(found):
        raise KernelNotFound(f"{path} does not exist")
    if found.is_file():
        build = _build_tree_of(found)
        return _in_build_tree(build, spec) if build else _image(found, spec)
    if not os.access(found, os.R_OK | os.X_OK):
        raise KernelUnusable(f"{path} can't be read: give this user the right to, or copy it")
    if (found / "include/config/kernel.release").exists():
        return _in_build_tree(found, spec)
    images = _images_in(found)
    if not images and (found / ".config").exists():
        raise KernelNotFound(f"{path} is a kernel source tree that was not built: run make there")
    if not images:
        raise KernelNotFound(
            f"{path} holds no kernel: expected vmlinuz or vmlinuz-RELEASE in it or in boot/,"
            " usr/lib/modules/RELEASE/vmlinuz, or a kernel build tree"
        )
    if len(images) > 1:
        names = ", ".join(str(image) for image in images)
        raise KernelNotFound(f"{path} holds {len(images)} kernels, name one of them: {names}")
    return _image(images[0], spec, owner=found)


def _image(image: Path, spec: str | None, *, owner: Path | None = None) -> Kernel:
    release = _release_of(image)
    modules = _modules_above(image, release)
    config_file = _config_near(image, modules, release) or ikconfig.extract(image)
    return Kernel(
        spec=spec or str(owner or image),
        id=spec or short_id(owner.name if owner else release, owner or image),
        release=release,
        image=image,
        modules=modules,
        config=_read_config(config_file) if config_file else {},
        version=release,
        config_file=config_file,
    )


def _in_build_tree(tree: Path, spec: str | None) -> Kernel:
    release = (tree / "include/config/kernel.release").read_text().strip()
    built = [
        image
        for name in ("bzImage", "Image", "Image.gz", "zImage")
        for image in sorted(tree.glob(f"arch/*/boot/{name}"))
    ]
    if not built:
        raise KernelNotFound(f"{tree} has no kernel image under arch/*/boot: run make there")
    return Kernel(
        spec=spec or str(tree),
        id=spec or short_id(tree.name, tree),
        release=release,
        image=built[0],
        # `module_index` links its modules.
        modules=tree if (tree / "modules.order").exists() else None,
        config=_read_config(tree / ".config"),
        version=release,
        config_file=tree / ".config",
    )


def _build_tree_of(image: Path) -> Path | None:
    for tree in image.parents:
        if (tree / "include/config/kernel.release").exists():
            return tree
    return None


def _images_in(tree: Path) -> list[Path]:
    """Return one image for each release in a tree: some systems have each twice."""
    patterns = [f"{name}{suffix}" for name in _IMAGE_NAMES for suffix in ("", "-[0-9]*")]
    patterns += [f"boot/{name}{suffix}" for name in _IMAGE_NAMES for suffix in ("", "-*")]
    patterns += ["usr/lib/modules/*/vmlinuz", "lib/modules/*/vmlinuz"]
    globbed = (image for pattern in patterns for image in sorted(tree.glob(pattern)))
    found = [image for image in globbed if image.is_file()]
    return list({_release_of(image): image for image in reversed(found)}.values())


def _release_of(image: Path) -> str:
    if not os.access(image, os.R_OK):
        raise KernelUnusable(f"{image} can't be read: give this user the right to, or copy it")
    named = re.fullmatch(rf"(?:{'|'.join(_IMAGE_NAMES)})-(\d.*)", image.name)
    if named:
        return named[1]
    if image.parent.parent.name == "modules":
        return image.parent.name
    # As virtme-ng does: file(1) reads x86 images; an uncompressed image contains the banner.
    described = subprocess.run(["file", "-bL", image], capture_output=True, text=True, check=False)
    banner = re.search(r"[vV]ersion (\d\S+)", described.stdout)
    if banner:
        return banner[1]
    raw = re.search(rb"Linux version (\d\S+) ", image.read_bytes())
    if raw:
        return raw[1].decode()
    raise KernelNotFound(
        f"{image} is no kernel image: it carries no release (file: {described.stdout.strip()})"
    )


def _modules_above(image: Path, release: str) -> Path | None:
    for root in image.parents:
        for candidate in (root, root / "usr"):
            if (candidate / "lib/modules" / release).is_dir():
                return candidate
    return None


def _config_near(image: Path, modules: Path | None, release: str) -> Path | None:
    places = [image.with_name(name) for name in (f"config-{release}", "config", ".config")]
    if modules:
        places.append(modules / "lib/modules" / release / "config")
    return next((place for place in places if place.is_file()), None)


def _read_config(config: Path) -> dict[str, str]:
    try:
        return parse_config(config.read_text(encoding="utf-8"))
    except UnicodeDecodeError:
        raise KernelUnusable(f"{config} is damaged: a kernel's configuration is text") from None


def short_id(name: str, path: Path) -> str:
    """Return a name for test ids that no other path has."""
    plain = re.sub(r"[^\w.+]+", "-", name).strip("-") or "root"
    return f"{plain}-{hashlib.sha256(bytes(path)).hexdigest()[:4]}"
