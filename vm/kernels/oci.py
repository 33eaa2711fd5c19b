"""Kernels in OCI images: found in a registry, or in a layout on the disk, and read by skopeo.

skopeo checks the digests of all that it reads, except of the manifests of a layout, which are
checked here. Only directories and regular files are unpacked, and only those that a kernel
consists of.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import shutil
import tarfile
import tempfile
from pathlib import Path, PurePosixPath
from typing import IO

from pytest_bpflink.vm import programs
from pytest_bpflink.vm.kernels.kernel import (
    Kernel,
    KernelFetchError,
    KernelNotFound,
    KernelUnusable,
    read_kernel,
)
from pytest_bpflink.vm.kernels.spelling import OCI, Spelled

# Where kernels are: in boot/vmlinuz in the images of cilium/ci-kernels, in
# data/kernels/NAME/{boot,lib} in those of cilium/little-vm-helper-images, and in images of whole
# systems in one of the other places.
_WANTED = ("boot", "lib/modules", "usr/lib/modules", "data/kernels")

# "Whiteouts": entries of a layer that remove what lower layers have there (OCI Image Format
# Specification, "Image Layer Filesystem Changeset").
_WHITEOUT, _OPAQUE = ".wh.", ".wh..wh..opq"

_FORM = "oci:REF, such as oci:registry.example/name:tag, or oci:DIRECTORY"


def key(spelled: Spelled, arch: str) -> str:
    """Return what differs for another image; for a name in a registry it is always the same.

    An image may exist for several architectures; ARCH is the name of one, which is Go's and
    Debian's. Raises KernelNotFound if there is no such layout.
    """
    named = f"{spelled.suffix} {arch}"
    if spelled.path is None:
        if not spelled.suffix:
            raise KernelNotFound(f"'{OCI}' names no image: write {_FORM}")
        content = b""
    else:
        content = _index(spelled)
    return f"oci-{hashlib.sha256(named.encode() + content).hexdigest()}"


def unpack(spelled: Spelled, arch: str, tree: Path) -> None:
    """Unpack the kernel of an image for ARCH into TREE.

    Raises KernelFetchError without skopeo or if a registry gives no image, KernelNotFound,
    KernelUnusable for a damaged image, and OSError.
    """
    with tempfile.TemporaryDirectory(prefix=".unfinished-", dir=tree.parent) as temporary:
        directory = Path(temporary)
        source = f"docker://{spelled.suffix}"
        if spelled.path is not None:
            _check_manifests(spelled)
            # skopeo would end a path at its first colon.
            (directory / "layout").symlink_to(spelled.path.resolve())
            source = f"oci:layout{spelled.suffix}"
        _copy(spelled, source, arch, directory)
        manifest = json.loads((directory / "image/manifest.json").read_bytes())
        for layer in manifest.get("layers", ()):
            name = layer["digest"].partition(":")[2]
            try:
                _apply(directory / "image" / name, tree)
            except (tarfile.TarError, KeyError, _Escape) as error:
                raise KernelUnusable(f"{spelled} is no image that can be used: {error}") from None


def read(spelled: Spelled, tree: Path) -> Kernel:
    """Return the kernel that was unpacked into TREE. Raises KernelError."""
    images = [
        image
        for root in (tree, *sorted(tree.glob("data/kernels/*")))
        for name in ("usr/lib/modules/*/vmlinuz", "boot/vmlinu[xz]-*", "boot/vmlinuz")
        for image in sorted(root.glob(name))
        if image.is_file()
    ]
    # Some systems have each twice.
    found = {kernel.release: kernel for kernel in map(read_kernel, images)}
    if not found:
        raise KernelNotFound(
            f"{spelled} holds no kernel: expected boot/vmlinuz, boot/vmlinuz-RELEASE,"
            " usr/lib/modules/RELEASE/vmlinuz or data/kernels/NAME/boot in it"
        )
    if len(found) > 1:
        raise KernelNotFound(
            f"{spelled} holds {len(found)} kernels, {', '.join(sorted(found))}: an image with one"
            " is needed"
        )
    return next(iter(found.values()))


def _index(spelled: Spelled) -> bytes:
    assert spelled.path is not None
    index = spelled.path / "index.json"
    try:
        return index.read_bytes()
    except OSError as error:
        raise KernelNotFound(
            f"{spelled} is no image: {index} can't be read ({error.strerror}); write {_FORM}"
        ) from None


def _check_manifests(spelled: Spelled) -> None:
    """Raise KernelUnusable unless each manifest of a layout has its digest."""
    assert spelled.path is not None
    left = [_index(spelled)]
    while left:
        try:
            digests = [each["digest"] for each in json.loads(left.pop()).get("manifests", ())]
            files = [spelled.path / "blobs" / digest.replace(":", "/", 1) for digest in digests]
        except (ValueError, LookupError, AttributeError, TypeError):
            raise KernelUnusable(f"{spelled} is damaged: one of its indexes is no index") from None
        for digest, file in zip(digests, files, strict=True):
            # A layout may lack the images of other architectures. skopeo misses its own.
            if not file.is_file():
                continue
            content = file.read_bytes()
            if digest != f"sha256:{hashlib.sha256(content).hexdigest()}":
                raise KernelUnusable(f"{spelled} is damaged: {file} has another digest")
            left.append(content)


def _copy(spelled: Spelled, source: str, arch: str, directory: Path) -> None:
    architecture = ("--override-os", "linux", "--override-arch", arch)
    command = ["skopeo", "--tmpdir", str(directory), *architecture, "copy", "--dest-decompress"]
    try:
        done = programs.run([*command, source, "dir:image"], cwd=directory)
    except FileNotFoundError:
        raise KernelFetchError(f"{spelled} is read by skopeo: apt-get install skopeo") from None
    if done.returncode:
        said = re.findall(r'level=fatal msg="((?:[^"\\]|\\.)*)"', done.stderr)
        why = said[-1].replace('\\"', '"') if said else done.stderr.strip()
        if "no space left on device" in why:
            raise KernelFetchError(
                f"{spelled} takes more room than {directory.parent.parent} has; BPFLINK_CACHE names"
                " another directory"
            )
        raise KernelFetchError(f"skopeo could not read {spelled}: {why}")


class _Escape(Exception):  # noqa: N818 (reads as what happened)
    pass


def _apply(layer: Path, tree: Path) -> None:
    """Unpack a layer onto the lower ones."""
    with tarfile.open(layer) as archive:
        members = [(_inside(member.name), member) for member in archive]
        for path, _ in members:
            if path.name == _OPAQUE:
                _remove(tree / path.parent)
            elif path.name.startswith(_WHITEOUT):
                _remove(tree / path.parent / _inside(path.name.removeprefix(_WHITEOUT)))
        for path, member in members:
            is_wanted = any(path.is_relative_to(wanted) for wanted in _WANTED)
            if not is_wanted or path.name.startswith(_WHITEOUT):
                continue
            if member.isdir():
                _make_directory(tree, path)
            # The content of a hard link is that of another entry of the same layer.
            elif member.isfile() or member.islnk():
                _make_directory(tree, path.parent)
                _write(archive.extractfile(member), tree / path)


def _inside(name: str) -> PurePosixPath:
    """Return the path of an entry in a tree. Raises _Escape if it leads elsewhere."""
    path = PurePosixPath(name.lstrip("/"))
    if ".." in path.parts:
        raise _Escape(f"its entry {name!r} leads out of it")
    return path


def _write(content: IO[bytes] | None, file: Path) -> None:
    _remove(file)
    with content or io.BytesIO() as old, file.open("xb") as new:
        shutil.copyfileobj(old, new, 1 << 20)


def _make_directory(tree: Path, path: PurePosixPath) -> None:
    # TREE has no symbolic links, since none are unpacked.
    for parent in reversed([path, *path.parents]):
        if (tree / parent).is_file():
            (tree / parent).unlink()
        (tree / parent).mkdir(mode=0o755, exist_ok=True)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
