"""A kernel from an archive, from .deb files and from an OCI image, all on this disk.

Packs a kernel of Debian's anew, in Ubuntu's layout and under the number of another series, and
signs the archive with a key of its own. No path of this session is without a space and a comma.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import tarfile
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_bpflink.vm.kernels import find

from .stage import SELFTESTS, SessionError, Stage

if TYPE_CHECKING:
    from pytest_bpflink.vm.kernels import Kernel

# The series of the kernel that is packed, and the version that its packages get.
_SPEC, _SERIES, _VERSION = "6.12", "6.6", "6.6.99-1"

# What a guest and the tests need of a kernel's modules; all of them would take minutes to pack.
_MODULES = ("fs", "net", "lib", "crypto", "drivers/virtio", "drivers/char", "drivers/block")
_EXTRA = ("drivers/net/dummy.ko*", "drivers/net/veth.ko*")


def run(stage: Stage) -> str:
    """Run link_pinning on the kernel from each source, and return what passed."""
    stage.packages("gnupg", "skopeo", "dpkg-dev")
    kernel = find(_SPEC, progress=print)
    place = stage.directory / "other sources, on disk"
    for name in ("image", "modules", "extra"):
        (place / "trees" / name).mkdir(parents=True)
    _lay_out(kernel, place / "trees")
    debs = _debs(stage, kernel, place)
    keyring = _archive(stage, debs, place / "archive")
    image = _image(place)
    shutil.rmtree(place / "trees")

    uri = f"file:{place / 'archive'}".replace(" ", "%20")
    sources = place / "kernel sources"
    sources.write_text(f"deb [signed-by={keyring.name}] {uri} ./\n")
    variables = {
        "BPFLINK_CACHE": str(place / "cache"),
        "BPFLINK_KERNEL_SOURCES": str(sources),
    }
    bpflink = ("tools/python", "-m", "pytest_bpflink.cli", "kernels")
    listed = stage.run(*bpflink, "sources", seconds=120, variables=variables)
    if f"  {_SERIES}   {_VERSION.partition('-')[0]}" not in listed:
        raise SessionError(f"the archive has no kernel {_SERIES}:\n{listed}")
    passed = stage.pytest(
        SELFTESTS / "test_link_pinning.py",
        *("--kernel", _SERIES, "--kernel", debs, "--kernel", f"oci:{image}"),
        "--kernel-guest=cold",
        variables=variables,
    )
    if (place / "run").exists():
        raise SessionError("a program of a package was run")
    shutil.rmtree(place)
    return f"link_pinning on an archive's kernel, .deb files and an OCI image: {passed}"


def _lay_out(kernel: Kernel, trees: Path) -> None:
    """Copy a kernel to the trees of Ubuntu's packages, without the indexes of its modules."""
    assert kernel.modules
    assert kernel.config_file
    for name, file in (("image", kernel.image), ("modules", kernel.config_file)):
        (trees / name / "boot").mkdir()
        kind = "vmlinuz" if name == "image" else "config"
        shutil.copy(file, trees / name / f"boot/{kind}-{kernel.release}")
    # Only root can read Ubuntu's images.
    (trees / "image/boot" / f"vmlinuz-{kernel.release}").chmod(0o600)
    directory = Path("lib/modules") / kernel.release
    source = kernel.modules / directory
    for name in _MODULES:
        shutil.copytree(source / "kernel" / name, trees / "modules" / directory / "kernel" / name)
    for index in ("modules.order", "modules.builtin", "modules.builtin.modinfo"):
        shutil.copy(source / index, trees / "modules" / directory)
    for pattern in _EXTRA:
        for file in (source / "kernel").glob(pattern):
            target = trees / "extra" / directory / file.relative_to(source)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, target)


def _debs(stage: Stage, kernel: Kernel, place: Path) -> Path:
    """Build the packages, and return the directory with them."""
    debs = place / "packages"
    debs.mkdir()
    architecture = subprocess.check_output(["dpkg", "--print-architecture"], text=True).strip()
    names = {
        "image": (f"linux-image-unsigned-{kernel.release}", f"linux-modules-{kernel.release}"),
        "modules": (f"linux-modules-{kernel.release}", ""),
        "extra": (
            f"linux-modules-extra-{kernel.release}",
            f"linux-image-{kernel.release} | linux-image-unsigned-{kernel.release}",
        ),
    }
    for tree, (name, depends) in names.items():
        root = place / "trees" / tree
        size = sum(file.stat().st_size for file in root.rglob("*")) >> 10
        (root / "DEBIAN").mkdir()
        (root / "DEBIAN/control").write_text(
            f"Package: {name}\nVersion: {_VERSION}\nArchitecture: {architecture}\n"
            f"Installed-Size: {size}\nMaintainer: nobody <nobody@localhost>\n"
            + (f"Depends: kmod, {depends}\n" if depends else "")
            + "Description: Linux\n"
        )
        # Whatever a package brings to be run must not be run.
        (root / "DEBIAN/postinst").write_text(f"#!/bin/sh\ntouch '{place}/run'\n")
        (root / "DEBIAN/postinst").chmod(0o755)
        # xz would take a minute for what is compressed already.
        build = ("dpkg-deb", "-Zgzip", "-z1", "--root-owner-group", "--build")
        stage.run(*build, root, debs / f"{name}_{_VERSION}_{architecture}.deb", seconds=300)
        shutil.rmtree(root / "DEBIAN")
    return debs


def _archive(stage: Stage, debs: Path, archive: Path) -> Path:
    """Make a signed archive of the packages, and return the keyring that verifies it."""
    archive.mkdir()
    for deb in debs.iterdir():
        os.link(deb, archive / deb.name)
    scan = "dpkg-scanpackages --multiversion . > Packages"
    stage.run("sh", "-c", scan, cwd=archive, seconds=120)
    packages = (archive / "Packages").read_bytes()
    digest = hashlib.sha256(packages).hexdigest()
    (archive / "Release").write_text(
        f"Origin: session\nSuite: session\nSHA256:\n {digest} {len(packages)} Packages\n"
    )
    home, keyring = archive.parent / "gpg", archive.parent / "key, of the archive.gpg"
    home.mkdir(mode=0o700)
    gpg = ("gpg", "--homedir", home, "--batch", "--pinentry-mode", "loopback", "--passphrase", "")
    user = "session@localhost"
    stage.run(*gpg, "--quick-generate-key", user, "ed25519", "sign", "never", seconds=60)
    stage.run(*gpg, "--export", "--output", keyring, seconds=60)
    signed = ("--clearsign", "--output", archive / "InRelease", archive / "Release")
    stage.run(*gpg, *signed, seconds=60)
    stage.run("gpgconf", "--homedir", home, "--kill", "gpg-agent", seconds=60)
    return keyring


def _image(place: Path) -> Path:
    """Make an image as those of little-vm-helper, in a layout, and return the layout."""
    layout, kinds = place / "image", "application/vnd.oci.image"
    blobs = layout / "blobs/sha256"
    blobs.mkdir(parents=True)

    def blob(kind: str, file: Path) -> dict[str, object]:
        with file.open("rb") as content:
            digest = hashlib.file_digest(content, "sha256").hexdigest()
        size = file.stat().st_size
        file.rename(blobs / digest)
        return {"mediaType": f"{kinds}.{kind}", "digest": f"sha256:{digest}", "size": size}

    def written(value: object) -> Path:
        file = place / "blob"
        file.write_text(json.dumps(value))
        return file

    layers = []
    for tree in ("modules", "extra", "image"):
        with tarfile.open(place / "blob", "w") as archive:
            archive.add(place / "trees" / tree, f"data/kernels/{_SPEC}")
        layers.append(blob("layer.v1.tar", place / "blob"))
    architecture = subprocess.check_output(["dpkg", "--print-architecture"], text=True).strip()
    config = {
        "os": "linux",
        "architecture": architecture,
        "config": {},
        "rootfs": {"type": "layers", "diff_ids": [layer["digest"] for layer in layers]},
    }
    manifest = {
        "schemaVersion": 2,
        "mediaType": f"{kinds}.manifest.v1+json",
        "config": blob("config.v1+json", written(config)),
        "layers": layers,
    }
    index = {"schemaVersion": 2, "manifests": [blob("manifest.v1+json", written(manifest))]}
    (layout / "index.json").write_text(json.dumps(index))
    (layout / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    return layout
