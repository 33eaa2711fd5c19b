"""A host that is no Debian: apt reads archives of Ubuntu, here on the disk."""

from __future__ import annotations

import platform
import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest

from pytest_bpflink.vm.kernels import KernelFetchError, Store, apt, find
from tests.support.debian_archive import kernel_deb, make_archive, needs_apt
from tests.support.kernel_trees import write

if TYPE_CHECKING:
    from pathlib import Path


@needs_apt
def test_error_has_a_deb_line_with_the_own_archive(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_archive(tmp_path / "ubuntu", [kernel_deb("linux-image-6.8.0-31-generic", "6.8.0-31.31")])
    noble = tmp_path / "ubuntu/dists/noble"
    noble.with_name("bookworm").rename(noble)
    text = (noble / "Release").read_text().replace("Debian", "Ubuntu").replace("bookworm", "noble")
    write(noble / "Release", text)
    shutil.copytree(tmp_path / "ubuntu", tmp_path / "other")
    write(tmp_path / "other/dists/noble/Release", text.replace("Ubuntu", "Other"))
    for name in ("other", "ubuntu"):
        line = f"deb [trusted=yes] file:{tmp_path / name} noble main"
        write(tmp_path / f"sources/{name}.list", line)
    keyring = write(tmp_path / "keys/ubuntu-archive-keyring.gpg", "")
    monkeypatch.setattr(apt, "_KEYRINGS", keyring.parent)
    for directory in ("state/lists/partial", "cache/archives/partial"):
        (tmp_path / directory).mkdir(parents=True)
    settings = [
        'Dir::Etc::sourcelist "/dev/null";',
        f'Dir::Etc::sourceparts "{tmp_path}/sources";',
        f'Dir::State "{tmp_path}/state";',
        f'Dir::Cache "{tmp_path}/cache";',
        'APT::Sandbox::User "root";',
    ]
    monkeypatch.setenv("APT_CONFIG", str(write(tmp_path / "apt.conf", "\n".join(settings))))
    monkeypatch.setattr(platform, "freedesktop_os_release", lambda: {"ID": "ubuntu"})
    subprocess.run(["apt-get", "update"], check=True)

    with pytest.raises(KernelFetchError) as refused:
        find("6.8", store=Store(tmp_path / "kernels"))

    assert str(refused.value).endswith(
        "this host's apt knows no Debian mirror to fetch kernels from: give the path of a kernel"
        " (an image, an unpacked package, or a build tree), or name this host's own archive in"
        f" bpflink_kernel_sources: deb [signed-by={keyring}] file:{tmp_path}/ubuntu/ noble main"
    )
