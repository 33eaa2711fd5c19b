"""Programs on USDT probes, by links of the kernel where it has them."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_bpflink import (
    BpfError,
    KernelInfo,
    Link,
    LinkType,
    NotSupported,
    eventually,
    link_ids,
)
from pytest_bpflink.binding import libbpf

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_bpflink import BpfFs, Object

_SOURCE = Path(__file__).parent / "progs/shop.c"

# libbpf 1.7 writes where arguments are in another layout, which its own <bpf/usdt.bpf.h> has.
_SPEC_SIZE = 304 if libbpf.version() >= "1.7" else 208

HAS_LINKS = KernelInfo().version >= (5, 15)
IS_MULTI = KernelInfo().version >= (6, 6) and libbpf.has("bpf_program__attach_uprobe_multi")

needs_links = pytest.mark.bpf_requires("link:perf_event", since="5.15")


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not shutil.which("gcc"):
        pytest.skip("gcc is not installed")
    made = tmp_path_factory.mktemp("usdt") / "libshop.so"
    subprocess.run(["gcc", "-O2", "-shared", "-fPIC", "-o", made, _SOURCE], check=True)
    return made


@pytest.fixture
def shop(library: Path) -> ctypes.CDLL:
    return ctypes.CDLL(str(library))


@pytest.fixture
def loaded(bpf_object: Callable[..., Object]) -> Object:
    return bpf_object("progs/usdt.bpf.c", rodata={"pid": os.getpid()})


def arguments(loaded: Object, expected: int) -> bool:
    """Whether the sum of the arguments is as expected, if header and library agree about them."""
    agree = loaded.map("__bpf_usdt_specs").value_size == _SPEC_SIZE
    return not agree or loaded.bss["sum"] == expected


@needs_links
def test_probe_in_one_place(
    loaded: Object, bpf_link: Callable[..., Link], library: Path, shop: ctypes.CDLL
) -> None:
    link = bpf_link(loaded.program("by_hand"), library, probe="shop:sold")
    assert link.info.type is (LinkType.UPROBE_MULTI if IS_MULTI else LinkType.PERF_EVENT)
    assert link.info.prog_id == loaded.program("by_hand").id
    shop.sell(42)
    shop.sell(-2)
    assert loaded.bss["hits"] == 2
    assert arguments(loaded, 40)
    link.destroy()
    assert link.id not in link_ids()
    shop.sell(1)
    assert loaded.bss["hits"] == 2


@needs_links
def test_probe_that_the_section_names(
    loaded: Object,
    bpf_link: Callable[..., Link],
    library: Path,
    shop: ctypes.CDLL,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("LD_LIBRARY_PATH", str(library.parent))
    link = bpf_link(loaded.program("on_sold"))
    shop.sell(42)
    assert loaded.bss["hits"] == 1
    link.destroy()
    shop.sell(42)
    assert loaded.bss["hits"] == 1


@needs_links
def test_pin_alone_keeps_it_attached(
    loaded: Object, bpf_link: Callable[..., Link], bpffs: BpfFs, library: Path, shop: ctypes.CDLL
) -> None:
    """It does so when other probes of the object are attached, and when the object is closed."""
    bss = os.dup(next(each.fd for each in loaded.maps.values() if each.name.endswith(".bss")))
    link = bpf_link(loaded.program("by_hand"), library, probe="shop:sold", cookie=7)
    link.pin(bpffs / "sold")
    link.destroy()
    with loaded.program("other").attach(library, probe="shop:watched", cookie=8):
        shop.sell(5)
        if loaded.map("__bpf_usdt_specs").value_size == _SPEC_SIZE:
            assert (loaded.bss["sum"], loaded.bss["cookie"]) == (5, 7)
    loaded.close()
    shop.sell(5)
    values = (ctypes.c_uint64 * 3)()  # hits, sum and cookie
    key = ctypes.byref(ctypes.c_uint32(0))
    libbpf.call("bpf_map_lookup_elem", bss, key, ctypes.byref(values), doing="read .bss")
    os.close(bss)
    assert 2 in values
    (bpffs / "sold").unlink()
    eventually(lambda: link.id not in link_ids())


@needs_links
def test_link_outlives_its_object(loaded: Object, library: Path) -> None:
    with loaded.program("by_hand").attach(library, probe="shop:sold") as link:
        loaded.close()
        assert link.id in link_ids()
    assert link.id not in link_ids()


def test_probe_in_several_places(loaded: Object, library: Path, shop: ctypes.CDLL) -> None:
    program = loaded.program("by_hand")
    with program.attach_usdt(library, probe="shop:counted", pid=0) as usdt:
        assert len(usdt.links) == (1 if IS_MULTI else 3 if HAS_LINKS else 0)
        assert {link.info.prog_id for link in usdt.links} <= {program.id}
        shop.count(1)
        assert loaded.bss["hits"] == 3
        assert arguments(loaded, 6)
    shop.count(1)
    assert loaded.bss["hits"] == 3
    usdt.destroy()


def test_object_ends_its_attachments(loaded: Object, library: Path, shop: ctypes.CDLL) -> None:
    """What has no link of its own can't outlive the object, whose map has the arguments."""
    usdt = loaded.program("by_hand").attach_usdt(library, probe="shop:counted", pid=0)
    with loaded.program("other").counting() as runs:
        again = loaded.program("other").attach_usdt(library, probe="shop:sold", pid=0)
        shop.sell(1)
        assert runs.count == 1
    assert descriptors()
    loaded.close()
    assert not descriptors()
    for each in (usdt, again):
        each.destroy()


def test_attached_anew_more_often_than_there_is_room(
    loaded: Object, library: Path, shop: ctypes.CDLL
) -> None:
    """What libbpf accounts for in the object, 4 elements, is released with the attachment."""
    for number in range(6):
        with loaded.program("by_hand").attach_usdt(library, probe="shop:sold", pid=0):
            if number == 5:
                shop.sell(3)
    assert loaded.bss["hits"] == 1
    assert arguments(loaded, 3)


@needs_links
def test_links_attached_anew_more_often_than_there_is_room(loaded: Object, library: Path) -> None:
    for _ in range(6):
        loaded.program("by_hand").attach(library, probe="shop:sold").destroy()


def test_link_for_several_places(loaded: Object, library: Path, shop: ctypes.CDLL) -> None:
    program = loaded.program("by_hand")
    if IS_MULTI:
        with program.attach(library, probe="shop:counted", pid=0):
            shop.count(1)
            assert loaded.bss["hits"] == 3
        return
    with pytest.raises(NotSupported) as raised:
        program.attach(library, probe="shop:counted", pid=0)
    since = "Linux 6.6 and libbpf 1.3" if HAS_LINKS else "Linux 5.15"
    assert raised.value.since == since
    assert "Program.attach_usdt() attaches it, too" in str(raised.value)
    shop.count(1)
    assert loaded.bss["hits"] == 0
    assert descriptors() == []


def test_semaphore_and_cookie(loaded: Object, library: Path, shop: ctypes.CDLL) -> None:
    """The program under test asks its semaphore whether somebody watches."""
    assert shop.watch(7) == 0
    with loaded.program("other").attach_usdt(library, probe="shop:watched", pid=0, cookie=99):
        assert shop.watch(7) == 1
        assert loaded.bss["hits"] == 1
        if loaded.map("__bpf_usdt_specs").value_size == _SPEC_SIZE:
            assert (loaded.bss["sum"], loaded.bss["cookie"]) == (7, 99)
    assert shop.watch(7) == 0


@pytest.mark.parametrize(
    ("probe", "number", "said"),
    [
        ("shop:nothing", errno.ENOENT, "on {library}:shop:nothing: ENOENT"),
        ("sold", errno.EINVAL, "is named with its provider"),
        ("", errno.EINVAL, "is named with its provider"),
    ],
)
def test_probe_that_there_is_not(
    loaded: Object, library: Path, probe: str, number: int, said: str
) -> None:
    with pytest.raises(BpfError) as raised:
        loaded.program("by_hand").attach_usdt(library, probe=probe, pid=0)
    assert raised.value.errno == number
    assert said.format(library=library) in str(raised.value)


def test_library_is_no_path(loaded: Object) -> None:
    given: Any = "libshop.so"
    for attach in (loaded.program("by_hand").attach, loaded.program("by_hand").attach_usdt):
        with pytest.raises(TypeError, match="a Path"):
            attach(given, probe="shop:sold")


def test_section_without_a_probe(loaded: Object) -> None:
    for attach in (loaded.program("by_hand").attach, loaded.program("by_hand").attach_usdt):
        with pytest.raises(BpfError, match="names no target") as raised:
            attach()
        assert raised.value.errno == errno.EOPNOTSUPP


def descriptors() -> list[str]:
    """Return the links and perf events that this process has open."""
    found = []
    for fd in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            found.append(os.readlink(fd).removeprefix("anon_inode:").strip("[]").replace("-", "_"))
    return [each for each in found if each in {"bpf_link", "perf_event"}]
