"""What compiling keeps is removed once it was not used for long, and no sooner."""

from __future__ import annotations

import os
import shutil
import time
from typing import TYPE_CHECKING

import pytest

from pytest_bpflink import Object
from pytest_bpflink.building import answering, asking, compilation, inline_sources, unused
from pytest_bpflink.building.compilation import made, object_of
from pytest_bpflink.building.recipe import Recipe
from tests.support.kernel_trees import write

if TYPE_CHECKING:
    from pathlib import Path

DAY = 24 * 3600


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("BPFLINK_CACHE", str(tmp_path / "cache"))
    unused.prune_once.cache_clear()
    return tmp_path / "cache"


def age(entry: Path, days: float) -> None:
    then = time.time() - days * DAY
    os.utime(entry, (then, then))


def entries(cache: Path) -> list[Path]:
    return [*cache.glob("objects/*"), *cache.glob("sources/*"), *cache.glob("sent/*")]


def send(source: Path) -> None:
    """Answer to a guest that has other content in a file of this name."""
    request = asking.request_for(Recipe((source,)))
    theirs = {name: content + b"\n" for name, content in request.files.items()}
    answer = answering.answer(request._replace(files=theirs), made)
    assert answer
    assert answer.image


def test_use_keeps_an_entry(cache: Path, tmp_path: Path) -> None:
    def use() -> None:
        source = inline_sources.written("int value = 5;")
        with Object.open(source) as opened:
            assert opened.data["value"] == 5
        send(write(tmp_path / "theirs.bpf.c", "int value = 6;"))

    use()
    assert len(entries(cache)) == 4  # the objects of both sources
    for entry in entries(cache):
        age(entry, days=29)
    compilation._compiled.clear()  # another process looks for the object in the cache
    use()
    unused.prune(days=28)
    assert len(entries(cache)) == 4


def test_entry_that_is_not_used_goes_when_another_is_made(cache: Path, tmp_path: Path) -> None:
    old = object_of(write(tmp_path / "old.bpf.c", "int value = 1;"))
    inline_sources.written("int old;")
    for entry in entries(cache):
        age(entry, days=31)
    unused.prune_once.cache_clear()
    new = object_of(write(tmp_path / "new.bpf.c", "int value = 2;"))
    assert not old.exists()
    assert entries(cache) == [new.parent.parent]
    compilation._compiled.clear()
    assert object_of(tmp_path / "old.bpf.c") == old
    assert old.exists()


def test_entry_of_a_read_only_cache_is_used_all_the_same(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    built = object_of(write(tmp_path / "x.bpf.c", "int value = 1;"))
    age(built.parent.parent, days=31)

    def refuse(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "utime", refuse)
    monkeypatch.setattr(shutil, "rmtree", refuse)
    unused.note_use(built.parent.parent)
    unused.prune()
    assert cache.exists()
