"""Which paths another user may have written, and that nothing of them is used."""

from __future__ import annotations

import json
import os
import stat
import struct
import sys
import zipfile
from dataclasses import replace
from hashlib import sha256
from typing import TYPE_CHECKING

import pytest

from pytest_bpflink.vm import cache
from pytest_bpflink.vm.cache import cache_part, is_trusted, refusals
from pytest_bpflink.vm.identity import identity
from pytest_bpflink.vm.image import digests, inventory
from pytest_bpflink.vm.image.digests import Contents
from pytest_bpflink.vm.trust import OWNER, distrust, distrust_tree, withdraw
from pytest_bpflink.vm.whole_file import make_directory, write_whole
from tests.support.nobody import NOBODY

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="giving files to others needs root")


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make a file in a directory, both trusted."""
    monkeypatch.delenv(OWNER, raising=False)
    file = tmp_path / "directory/file"
    write_whole(file, b"")
    assert distrust(file) == ""
    return file


def give_the_file_away(file: Path) -> str:
    os.chown(file, NOBODY, -1)
    return f"{file} belongs to nobody"


def give_a_parent_away(file: Path) -> str:
    os.chown(file.parent, NOBODY, -1)
    return f"{file.parent} belongs to nobody"


def give_to_a_user_without_name(file: Path) -> str:
    os.chown(file, 54321, -1)
    return f"{file} belongs to user 54321"


def let_all_write(file: Path) -> str:
    file.chmod(0o666)
    return f"other users may write to {file}"


def let_all_write_beside(file: Path) -> str:
    file.parent.chmod(0o777)
    return f"other users may write to {file.parent}"


def let_a_group_write(file: Path) -> str:
    os.chown(file, -1, NOBODY)
    file.chmod(0o664)
    return f"other users may write to {file}"


def lead_there_by_another_s_link(file: Path) -> str:
    target = file.rename(file.with_name("target"))
    file.symlink_to(target)
    os.chown(file, NOBODY, -1, follow_symlinks=False)
    return f"{file} belongs to nobody"


def lead_to_another_s_file(file: Path) -> str:
    target = file.rename(file.with_name("target"))
    file.symlink_to("../directory/target")
    os.chown(target, NOBODY, -1)
    return f"{target} belongs to nobody"


def lead_in_a_circle(file: Path) -> str:
    file.unlink()
    file.symlink_to(file)
    return f"{file} is one of too many symbolic links"


@pytest.mark.parametrize(
    "open_up",
    [
        give_the_file_away,
        give_a_parent_away,
        give_to_a_user_without_name,
        let_all_write,
        let_all_write_beside,
        let_a_group_write,
        lead_there_by_another_s_link,
        lead_to_another_s_file,
        lead_in_a_circle,
    ],
)
def test_path_that_another_user_may_have_written(
    file: Path, open_up: Callable[[Path], str]
) -> None:
    reason = open_up(file)
    assert distrust(file) == reason


def test_parent_with_the_sticky_bit_is_as_good_as_tmp(file: Path) -> None:
    file.parent.chmod(0o1777)
    assert distrust(file) == ""
    assert distrust(file.parent) == f"other users may write to {file.parent}"


def test_link_and_missing_file_of_this_user(file: Path) -> None:
    file.with_name("link").symlink_to(file.parent)
    assert distrust(file.parent / "link/file") == ""
    assert distrust(file.parent / "missing/file") == ""
    assert distrust(file / "below") == ""


def test_group_of_the_user_alone_may_write(file: Path) -> None:
    os.chown(file, 0, 0)
    file.chmod(0o664)
    assert distrust(file) == ""
    # An access control list (linux/posix_acl_xattr.h) by which nobody may write, too.
    entries = [(1, 6, -1), (2, 6, NOBODY), (4, 4, -1), (16, 6, -1), (32, 4, -1)]
    acl = b"".join(struct.pack("<HHi", *entry) for entry in entries)
    os.setxattr(file, "system.posix_acl_access", struct.pack("<I", 2) + acl)
    assert distrust(file) == f"other users may write to {file}"


def test_user_whom_the_host_names_in_a_guest(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.chown(file, NOBODY, -1)
    monkeypatch.setenv(OWNER, str(NOBODY))
    assert distrust(file) == ""


def test_tree(file: Path) -> None:
    top = file.parents[1]
    assert distrust_tree(top) == ""
    file.chmod(0o666)
    assert distrust_tree(top) == f"other users may write to {file}"
    withdraw(top)
    assert distrust_tree(top) == ""


def test_files_and_directories_are_closed_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        make_directory(tmp_path / "one/two")
        write_whole(tmp_path / "three/file", b"")
    finally:
        os.umask(before)
    modes = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("one", "one/two", "three")]
    assert modes == [0o755] * 3
    assert stat.S_IMODE((tmp_path / "three/file").stat().st_mode) == 0o644


# What is done without it.


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give a cache that has nothing in it yet, and nothing in its place."""
    monkeypatch.setenv("BPFLINK_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv(cache._INSTEAD, raising=False)
    cache._instead.cache_clear()
    monkeypatch.setattr(cache, "_refused", {})
    return tmp_path / "cache"


@pytest.mark.parametrize("part", ["guests", "objects", "pycache", "libbpf", "kernels"])
def test_part_that_others_may_write_is_replaced_for_this_run(kept: Path, part: str) -> None:
    make_directory(kept / part)
    assert cache_part(part) == kept / part
    (kept / part).chmod(0o777)

    instead = cache_part(part)

    assert not instead.is_relative_to(kept)
    assert distrust(instead) == ""
    assert stat.S_IMODE(instead.parent.stat().st_mode) == 0o700
    reason = f"other users may write to {kept / part}"
    way_out = "remove it, or have it owned by you and written by nobody else"
    assert refusals() == [f"{kept / part} in the cache is not used, since {reason}: {way_out}"]
    # As workers do, which have this run's environment.
    cache._instead.cache_clear()
    assert cache_part(part) == instead


def test_whole_cache_that_another_user_owns_is_replaced(kept: Path) -> None:
    make_directory(kept)
    os.chown(kept, NOBODY, -1)
    assert not cache_part("guests").is_relative_to(kept)
    assert cache_part("guests").parent == cache_part("kernels").parent


def test_digests_that_another_user_wrote_are_made_anew(
    kept: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(digests, "_SETTLED_NS", -1)
    record, image = kept / "contents.json", tmp_path / "image"
    image.write_text("a kernel")
    write_whole(record, json.dumps({str(image): [identity(image), "planted"]}).encode())
    assert Contents(record).digest(image) == "planted"
    os.chown(record, NOBODY, -1)

    known = Contents(record)
    right = known.digest(image)
    known.keep()

    assert right != "planted"
    assert Contents(record).digest(image) == right
    assert is_trusted(record)


def contents(file: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(file) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


@pytest.mark.parametrize("ending", ["json", "zip"])
def test_inventory_that_another_user_wrote_is_made_anew(kept: Path, ending: str) -> None:
    guests = kept / "guests"
    taken = inventory.take(sys.executable, os.environ, cache=guests)
    right = contents(taken.code)
    assert stat.S_IMODE(guests.stat().st_mode) == 0o700
    (planted,) = guests.glob(f"python-*.{ending}")
    known = json.loads(next(guests.glob("python-*.json")).read_text())
    planted.write_bytes(
        json.dumps(known | {"path": ["/planted"]}).encode() if ending == "json" else b"planted"
    )
    os.chown(planted, NOBODY, -1)

    again = inventory.take(sys.executable, os.environ, cache=guests)

    assert replace(again, code_digest=taken.code_digest) == taken
    assert again.code_digest == sha256(again.code.read_bytes()).hexdigest()
    assert contents(again.code) == right
    assert is_trusted(planted)
