"""Small archives of our own, Debian's and Ubuntu's, and stores that a real apt feeds from them."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from typing import TYPE_CHECKING, NamedTuple

import pytest

from pytest_bpflink.vm.kernels import Store, apt, debian
from tests.support.kernel_trees import CONFIG, module_files, write

if TYPE_CHECKING:
    from pathlib import Path

needs_apt = pytest.mark.skipif(not shutil.which("apt-get"), reason="apt-get is not on this host")


class Deb(NamedTuple):
    """A package to build: its files by path, as in the tree it unpacks to."""

    name: str
    version: str
    files: dict[str, str]
    depends: str = ""
    unreadable: tuple[str, ...] = ()
    arch: str = ""

    def build(self, pool: Path) -> str:
        """Build it into POOL, and return its paragraph in the list of packages."""
        root = pool / f"{self.name}_{self.version}"
        control = (
            f"Package: {self.name}\nVersion: {self.version}\n"
            f"Architecture: {self.arch or debian.architecture()}\nInstalled-Size: 20\n"
            "Maintainer: nobody <nobody@localhost>\nDescription: Linux\n"
        ) + (f"Depends: {self.depends}\n" if self.depends else "")
        write(root / "DEBIAN/control", control)
        for path, text in self.files.items():
            write(root / path, text)
        for path in self.unreadable:
            (root / path).chmod(0o600)
        package = root.with_suffix(root.suffix + ".deb")
        subprocess.run(
            ["dpkg-deb", "-Zgzip", "-z1", "--root-owner-group", "--build", root, package],
            check=True,
            capture_output=True,
        )
        data = package.read_bytes()
        return (
            f"{control}Filename: pool/{package.name}\nSize: {len(data)}\n"
            f"SHA256: {hashlib.sha256(data).hexdigest()}\n\n"
        )


def kernel_deb(
    name: str, version: str, *, config: str = CONFIG, image: str = "kernel", depends: str = ""
) -> Deb:
    """Return a package as Debian builds it up to Linux 6.18; DEPENDS has the same version."""
    release = name.removeprefix("linux-image-")
    files = {
        f"boot/vmlinuz-{release}": image,
        f"boot/config-{release}": config,
        **module_files(f"lib/modules/{release}"),
    }
    return Deb(name, version, files, f"{depends} (= {version})" if depends else "")


def split_debs(release: str, version: str) -> list[Deb]:
    """Return Debian's packages from Linux 6.19 on: one without files, base, image, modules."""
    directory = f"usr/lib/modules/{release}"
    image = {f"{directory}/vmlinuz": "kernel", f"{directory}/config": CONFIG}
    base, binary, modules = (f"linux-{part}-{release}" for part in ("base", "binary", "modules"))
    depends = ", ".join(f"{name} (= {version})" for name in (base, binary, modules))
    return [
        Deb(f"linux-image-{release}", version, {}, f"initramfs-tools (>= 0.1) | dracut, {depends}"),
        Deb(base, version, {}),
        Deb(binary, version, image, f"{base} (= {version})"),
        Deb(modules, version, module_files(directory), f"kmod, {base} (= {version})"),
    ]


def ubuntu_debs(release: str, version: str) -> list[Deb]:
    """Return Ubuntu's packages of a kernel: signed and unsigned image, modules, further modules."""
    modules, image = f"linux-modules-{release}", f"linux-image-{release}"
    boot = {f"boot/vmlinuz-{release}": "kernel"}
    depends = f"kmod, linux-base (>= 4.5ubuntu1~16.04.1), {modules}"
    directory = f"lib/modules/{release}"
    return [
        Deb(image, version, boot, depends, (*boot,)),
        Deb(f"linux-image-unsigned-{release}", version, boot, depends, (*boot,)),
        Deb(modules, version, {f"boot/config-{release}": CONFIG, **module_files(directory)}),
        Deb(
            f"linux-modules-extra-{release}",
            version,
            {f"{directory}/kernel/README": "more of them"},
            f"libc6, {image} | linux-image-unsigned-{release}, wireless-regdb",
        ),
    ]


@pytest.fixture(scope="session")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a Debian archive with kernels of all flavours."""
    root = tmp_path_factory.mktemp("archive")
    arch = debian.architecture()
    without_9p = CONFIG.replace("CONFIG_9P_FS=m\n", "")
    without_overlays = CONFIG.replace("CONFIG_OVERLAY_FS=m\n", "")
    debs = [
        kernel_deb(f"linux-image-6.1.0-9-{arch}", "6.1.99-1"),
        kernel_deb(f"linux-image-6.1.0-10-{arch}", "6.1.100-1"),
        kernel_deb(f"linux-image-6.1.0-10-{arch}-unsigned", "6.1.100-1"),
        kernel_deb(f"linux-image-6.1.0-11-cloud-{arch}", "6.1.101-1", config=without_9p),
        kernel_deb(f"linux-image-6.1.0-11-rt-{arch}", "6.1.101-1"),
        Deb(
            f"linux-image-6.1-{arch}",
            "6.1.102-1",
            {},
            f"linux-image-6.1.0-12-{arch} (= 6.1.102-1)",
        ),
        kernel_deb(f"linux-image-6.12.5+deb13-{arch}", "6.12.5-1"),
        kernel_deb(f"linux-image-6.8.1-{arch}", "6.8.1-1", config=without_overlays),
        # The archive lacks its linux-base, as trixie-backports once did.
        kernel_deb(f"linux-image-6.16.3+deb13-{arch}", "6.16.3-1", depends="linux-base-6.16.3"),
        # The archive lacks its modules.
        *split_debs(f"7.1.3+deb13-{arch}", "7.1.3-1")[:-1],
        *split_debs(f"7.2.9+deb14-{arch}", "7.2.9-1"),
        *split_debs(f"7.3-{arch}", "7.3~rc7-1~exp1"),
    ]
    make_archive(root, debs)
    return root


def make_archive(root: Path, debs: list[Deb], *, suite: str = "bookworm", more: str = "") -> None:
    """Build packages of one architecture, and apt's lists; MORE are fields of the Release file."""
    arch = debs[0].arch or debian.architecture()
    (root / "pool").mkdir(parents=True)
    packages = "".join(deb.build(root / "pool") for deb in debs)
    write(root / f"dists/{suite}/main/binary-{arch}/Packages", packages)
    digest = hashlib.sha256(packages.encode()).hexdigest()
    write(
        root / f"dists/{suite}/Release",
        f"Origin: Debian\nCodename: {suite}\nComponents: main\nArchitectures: {arch}\n{more}"
        f"SHA256:\n {digest} {len(packages)} main/binary-{arch}/Packages\n",
    )


@pytest.fixture
def store(archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """Make an empty store, fed from the archive."""
    options = ("Acquire::AllowInsecureRepositories", "APT::Get::AllowUnauthenticated")
    lines = [f'{name} "true";' for name in options]
    lines += ['Acquire::http::Proxy::127.0.0.1 "DIRECT";', 'Acquire::Retries "0";']
    monkeypatch.setenv("APT_CONFIG", str(write(tmp_path / "apt.conf", "\n".join(lines))))
    feed(monkeypatch, f"file:{archive}")
    return Store(tmp_path / "cache" / "kernels")


class Signer:
    """A key of an archive, with the keyring to verify it; gpg keeps the key in DIRECTORY."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(mode=0o700)
        self._directory = directory
        self._gpg("--quick-generate-key", f"{directory.name}@localhost", "ed25519", "sign", "never")
        self.keyring = directory / "keyring.gpg"
        """The file for apt's `signed-by`."""
        self._gpg("--export", "--output", self.keyring)

    def sign(self, archive: Path) -> None:
        """Sign the lists of an archive, in place of another key's signature."""
        (release,) = archive.glob("dists/*/Release")
        signed = release.with_name("InRelease")
        # apt reads the file again only if its time, in seconds, is later.
        time = (signed if signed.exists() else release).stat().st_mtime + 60
        self._gpg("--clearsign", "--output", signed, release)
        os.utime(signed, (time, time))

    def _gpg(self, *arguments: str | Path) -> None:
        options = ("--batch", "--yes", "--pinentry-mode", "loopback", "--passphrase", "")
        home = ("--homedir", self._directory)
        subprocess.run(["gpg", *home, *options, *arguments], check=True, capture_output=True)
        # gpg starts it, and it would stay.
        subprocess.run(["gpgconf", *home, "--kill", "gpg-agent"], check=True)


def feed(monkeypatch: pytest.MonkeyPatch, uri: str, *, keyring: Path | None = None) -> None:
    """Let stores fetch from this archive from now on."""
    source = {"Component": "main", "Release": "bookworm", "Repo-URI": uri}
    if keyring:
        source["Signed-By"] = str(keyring)
    monkeypatch.setattr(apt, "host_sources", lambda: [source])


#: A program that fetches kernels; its arguments are the archive's URI, the store, and SPECs.
FETCH = """
import sys
from pathlib import Path
from pytest_bpflink.vm.kernels import apt
from pytest_bpflink.vm.kernels import KernelError, Store, find
source = {"Component": "main", "Release": "bookworm", "Repo-URI": sys.argv[1]}
apt.host_sources = lambda: [source]
for spec in sys.argv[3:]:
    try:
        kernel = find(spec, store=Store(Path(sys.argv[2])), progress=print)
        print(f"{spec} is {kernel.version}", flush=True)
    except KernelError as error:
        print(f"{spec}: {error}", flush=True)
"""


def contents(store: Store) -> list[str]:
    """Return the names in a store's directory, except its lock."""
    return sorted(path.name for path in store.root.iterdir() if path.name != ".lock")
