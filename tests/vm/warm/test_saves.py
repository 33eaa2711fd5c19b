"""Saves on disk: which are found, and that interrupted runs leave none. No guest runs."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import threading
from typing import TYPE_CHECKING

import pytest

from pytest_bpflink.vm import cache
from pytest_bpflink.vm.identity import identity
from pytest_bpflink.vm.warm.saves import Save, SaveError, Saves
from tests.support.damage import DAMAGES, damaged
from tests.support.nobody import NOBODY

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

KEY = "0123abcd"
MIB = 1 << 20


@pytest.fixture
def saves(tmp_path: Path) -> Saves:
    """Make an empty directory for saves."""
    return Saves(tmp_path / "guests")


def save(saves: Saves, key: str = KEY) -> Save:
    """Save a guest of 4 MiB, with one page that is not zero."""
    with saves.lock(key), saves.making(key, room=4 * MIB) as made:
        with (made / "memory").open("r+b") as memory:
            os.pwrite(memory.fileno(), bytes(MIB) + b"x" * 4096 + bytes(MIB), MIB)
        (made / "state").write_bytes(b"devices")
        return saves.keep(key, made, mapped=True)


def test_what_was_saved_is_found(saves: Saves) -> None:
    assert saves.find(KEY) is None
    made = save(saves)
    assert saves.find(KEY) == made
    assert made.memory.stat().st_size == 4 * MIB
    assert made.state.read_bytes() == b"devices"


def test_save_is_for_its_owner_alone(saves: Saves) -> None:
    made = save(saves)
    modes = [stat.S_IMODE(path.stat().st_mode) for path in (made.directory, made.memory)]
    assert modes == [0o700, 0o600]


def test_directory_that_others_could_enter_is_closed(saves: Saves) -> None:
    saves.root.mkdir(mode=0o755)
    assert stat.S_IMODE(Saves(saves.root).root.stat().st_mode) == 0o700


def test_zero_pages_take_no_room(saves: Saves) -> None:
    if shutil.which("fallocate") is None:
        pytest.skip("there is no fallocate")
    assert save(saves).memory.stat().st_blocks * 512 < MIB


def truncate(made: Save) -> None:
    os.truncate(made.memory, 3 * MIB)


def flip_a_byte(made: Save) -> None:
    """Write to the file, and set its time of modification back."""
    before = made.memory.stat()
    with made.memory.open("r+b") as file:
        file.seek(2 * MIB)
        file.write(b"y")
    os.utime(made.memory, ns=(before.st_atime_ns, before.st_mtime_ns))


def change_the_state(made: Save) -> None:
    made.state.write_bytes(b"DEVICES")


def lose_the_state(made: Save) -> None:
    made.state.unlink()


def cut_the_description_off(made: Save) -> None:
    description = made.directory / "save.json"
    description.write_text(description.read_text()[:-20])


def test_damage_that_leaves_no_trace_is_found_by_reading_all(saves: Saves) -> None:
    """As of a disk that returns other bytes than were written."""
    made = save(saves)
    assert saves.is_whole(KEY)
    flip_a_byte(made)
    description = made.directory / "save.json"
    unchanged = {"unchanged": identity(made.memory)}
    description.write_text(json.dumps(json.loads(description.read_text()) | unchanged))
    assert saves.find(KEY) == made
    assert not saves.is_whole(KEY)


def test_no_save_is_not_whole(saves: Saves) -> None:
    assert not saves.is_whole(KEY)


@pytest.mark.parametrize("damage", ["cut", *DAMAGES])
@pytest.mark.parametrize("name", ["memory", "state", "save.json"])
def test_save_with_a_damaged_file_is_not_used_and_made_again(
    saves: Saves, name: str, damage: str
) -> None:
    file = save(saves).directory / name
    file.write_bytes(damaged(file)[damage])
    assert saves.find(KEY) is None
    again = save(saves)
    assert saves.find(KEY) == again


@pytest.mark.parametrize("field", ["mapped", "state", "memory", "unchanged"])
@pytest.mark.parametrize("value", [None, 1, [], {}, [[]]])
def test_description_with_a_value_of_another_type_is_of_no_save(
    saves: Saves, field: str, value: object
) -> None:
    made = save(saves)
    description = made.directory / "save.json"
    described = {**json.loads(description.read_text()), field: value, "unchanged": value}
    description.write_text(json.dumps(described))
    found = saves.find(KEY)
    # If the memory's identity is another, its digest counts.
    assert found == (made if field == "unchanged" else None)


@pytest.mark.skipif(os.geteuid() != 0, reason="giving files to others needs root")
@pytest.mark.parametrize("name", ["", "memory", "state", "save.json"])
def test_save_that_another_user_may_have_written_is_not_used_and_made_again(
    saves: Saves, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache, "_refused", {})
    planted = save(saves).directory / name
    os.chown(planted, NOBODY, -1)
    assert saves.find(KEY) is None
    (refusal,) = cache.refusals()
    assert f"{saves.root / KEY} in the cache is not used, since {planted} belongs" in refusal
    again = save(saves)
    assert saves.find(KEY) == again


def test_save_names_no_command(saves: Saves) -> None:
    described = json.loads((save(saves).directory / "save.json").read_text())
    assert set(described) == {"mapped", "state", "memory", "unchanged"}


@pytest.mark.parametrize(
    "damage",
    [truncate, flip_a_byte, change_the_state, lose_the_state, cut_the_description_off],
)
def test_damaged_save_is_not_used_and_made_again(
    saves: Saves, damage: Callable[[Save], None]
) -> None:
    damage(save(saves))
    assert saves.find(KEY) is None
    again = save(saves)
    assert saves.find(KEY) == again


def test_copied_save_is_used(saves: Saves, tmp_path: Path) -> None:
    """As CI copies caches: with other times and the same content."""
    save(saves)
    copies = Saves(tmp_path / "copies")
    subprocess.run(["cp", "-r", saves.root, copies.root], check=True)
    assert copies.find(KEY) is not None
    (copies.root / KEY / "memory").write_bytes(bytes(4 * MIB))
    assert copies.find(KEY) is None


@pytest.fixture
def archived(saves: Saves, tmp_path: Path) -> Saves:
    """Save a guest, and copy it as CI copies caches: tar writes zeros in place of holes."""
    save(saves)
    copies = Saves(tmp_path / "copies")
    copies.root.mkdir()
    with subprocess.Popen(["tar", "-cC", saves.root, KEY], stdout=subprocess.PIPE) as packing:
        subprocess.run(["tar", "-xC", copies.root], stdin=packing.stdout, check=True)
    return copies


def test_save_that_came_in_an_archive_is_used_and_has_its_holes_again(archived: Saves) -> None:
    if shutil.which("fallocate") is None:
        pytest.skip("there is no fallocate")
    memory = archived.root / KEY / "memory"
    assert memory.stat().st_blocks * 512 == 4 * MIB
    found = archived.find(KEY)
    assert found
    assert stat.S_IMODE(memory.stat().st_mode) == 0o600
    assert memory.stat().st_blocks * 512 < MIB
    # The second time, `find` does not write the description.
    before = (found.directory / "save.json").read_text()
    assert archived.find(KEY) == found
    assert (found.directory / "save.json").read_text() == before


def test_save_that_came_in_an_archive_is_used_where_no_holes_can_be_dug(
    archived: Saves, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pytest_bpflink.vm.warm.saves._dig_holes", lambda _: None)
    assert archived.find(KEY) is not None


def test_interrupted_save_leaves_nothing(saves: Saves) -> None:
    def interrupted() -> None:
        with saves.making(KEY, room=MIB) as made:
            (made / "memory").touch()
            raise KeyboardInterrupt

    with saves.lock(KEY), pytest.raises(KeyboardInterrupt):
        interrupted()
    assert saves.find(KEY) is None
    assert list(saves.root.glob("*saving*")) == []


def test_lock_that_one_thread_took_can_be_released_by_another(saves: Saves) -> None:
    """As after a boot: the main thread begins it, and another one waits for its end."""
    lock = saves.lock(KEY)
    lock.acquire()
    thread = threading.Thread(target=lock.release)
    thread.start()
    thread.join()
    with saves.lock(KEY).acquire(blocking=False):
        pass


def test_what_a_killed_run_left_is_removed(saves: Saves) -> None:
    with saves.lock(KEY):
        abandoned = saves.root / f".saving-{KEY}-dead"
        abandoned.mkdir()
        (abandoned / "memory").touch()
    save(saves)
    assert not abandoned.exists()


def test_save_that_has_no_room(saves: Saves) -> None:
    with (
        saves.lock(KEY),
        pytest.raises(SaveError, match=r"\d+ MiB are needed .* \d+ MiB are free"),
        saves.making(KEY, room=1 << 60),
    ):
        pass


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")
def test_room_is_reserved_while_a_guest_is_saved(tmp_path: Path) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=100m", "none", tmp_path], check=True)
    try:
        saves = Saves(tmp_path / "guests")
        with saves.lock("1"), saves.making("1", room=50 * MIB):
            refused = r"^66 MiB are needed to save a guest in .*, [45]. MiB are free$"
            with (
                saves.lock("2"),
                pytest.raises(SaveError, match=refused),
                saves.making("2", room=50 * MIB),
            ):
                pass
        save(saves)
        assert shutil.disk_usage(tmp_path).used < MIB
    finally:
        subprocess.run(["umount", tmp_path], check=True)


def test_remains_of_a_killed_run_are_pruned(saves: Saves) -> None:
    dead, living = (saves.root / f".saving-{key}-1" for key in ("dead", "living"))
    for directory in (dead, living):
        directory.mkdir(parents=True)
        (directory / "memory").write_bytes(bytes(8192))
    with saves.lock("living"):
        assert saves.remains() == {dead: 8192}
        assert saves.prune() == []
    assert (dead.exists(), living.exists()) == (False, True)


def test_save_is_replaced_while_a_guest_runs_on_it(saves: Saves) -> None:
    with save(saves).memory.open("rb") as mapped:
        save(saves)
        assert len(mapped.read()) == 4 * MIB


def test_unused_saves_are_pruned(saves: Saves) -> None:
    old, new = save(saves, "01d"), save(saves, "4e3")
    os.utime(old.directory / "save.json", (0, 0))
    assert saves.prune(days=1) == ["01d"]
    assert saves.find("01d") is None
    assert saves.find("4e3") == new


def test_saves_that_take_too_much_are_pruned_oldest_first(saves: Saves) -> None:
    for key, used in (("1", 1_000), ("2", 3_000), ("3", 2_000)):
        os.utime(save(saves, key).directory / "save.json", (used, used))
    taken = sum(path.stat().st_blocks * 512 for path in (saves.root / "2").iterdir())
    assert saves.prune(days=1e6, size=2 * taken) == ["1"]


def test_lock_that_one_thread_took_is_released_by_another(tmp_path: Path) -> None:
    lock = Saves(tmp_path).lock("key")
    lock.acquire(blocking=False)

    thread = threading.Thread(target=lock.release)
    thread.start()
    thread.join()

    with Saves(tmp_path).lock("key").acquire(blocking=False):
        pass
