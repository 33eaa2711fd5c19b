"""Every fixture of the plugin, and nothing else."""

from __future__ import annotations

import contextlib
from itertools import count
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from pytest_bpflink.bpf.attaching.cgroup import Cgroup
    from pytest_bpflink.bpf.attaching.netns import NetNs
    from pytest_bpflink.bpf.bpffs import BpfFs
    from pytest_bpflink.bpf.events.trace import BpfTrace
    from pytest_bpflink.bpf.link import Link
    from pytest_bpflink.bpf.objects import Object
    from pytest_bpflink.features.kernel_info import KernelInfo
    from pytest_bpflink.ledger.bpf_ledger import BpfLedger
    from pytest_bpflink.ledger.estate import Estate
    from pytest_bpflink.session.loading import Opener


@pytest.fixture(scope="session")
def _bpf_privileges() -> None:
    """Skip where this process can't use BPF natively, and name the way out."""
    from pytest_bpflink.features.privileges import missing_privileges

    reason = missing_privileges()
    if reason:
        pytest.skip(reason)


@pytest.fixture(scope="session")
def _bpf_estate(_bpf_privileges: None) -> Iterator[Estate]:
    """The record of what this process makes on the system; a later session removes what is left."""
    from pytest_bpflink.ledger.estate import Estate

    estate = Estate.found()
    yield estate
    estate.close()


@pytest.fixture(scope="session")
def bpf_kernel(request: pytest.FixtureRequest) -> KernelInfo:
    """The kernel that the tests run on: release, version, config, BTF, and where it runs."""
    from pytest_bpflink.features.kernel_info import KernelInfo
    from pytest_bpflink.session.kernel import running_kernel

    kernel = running_kernel(request.config)
    where = kernel.where or "native"
    return KernelInfo(where=where, spec=kernel.spec, config_file=kernel.config_file)


@pytest.fixture(scope="session")
def cgroup_factory(_bpf_estate: Estate) -> Iterator[Callable[[], Cgroup]]:
    """Make cgroups: each call gives a fresh one, removed with all below it at the session's end."""
    from pytest_bpflink.bpf.attaching.cgroup import Cgroup

    parent = Cgroup(_bpf_estate.make_cgroup())
    numbers = count(1)
    yield lambda: parent.create(str(next(numbers)))
    if _bpf_estate.is_ours:  # a forked child that calls sys.exit runs this, too
        parent.remove()


@pytest.fixture
def cgroup(_bpf_estate: Estate, cgroup_factory: Callable[[], Cgroup]) -> Iterator[Cgroup]:
    """A fresh cgroup v2, wherever cgroup2 is mounted; removed with all below it after the test."""
    cgroup = cgroup_factory()
    yield cgroup
    if _bpf_estate.is_ours:
        cgroup.remove()


@pytest.fixture(scope="session")
def bpffs_factory(_bpf_estate: Estate) -> Callable[..., BpfFs]:
    """Mount BPF file systems: each call gives a fresh one, unmounted at the session's end.

    Keyword arguments are mount options: `bpffs_factory(mode=0o700)`.
    """
    from pytest_bpflink.bpf.bpffs import BpfFs

    numbers = count(1)

    def mount(**options: str | int) -> BpfFs:
        directory = _bpf_estate.directory / f"bpffs{next(numbers)}"
        directory.mkdir()
        return BpfFs.mount(directory, **options)

    return mount


@pytest.fixture
def bpffs(_bpf_estate: Estate, bpffs_factory: Callable[..., BpfFs]) -> Iterator[BpfFs]:
    """A BPF FS mount of the test's own, path-like: `link.pin(bpffs / "name")`; unmounted after."""
    bpffs = bpffs_factory()
    yield bpffs
    if _bpf_estate.is_ours:
        bpffs.unmount()
        bpffs.path.rmdir()


@pytest.fixture
def netns(_bpf_privileges: None) -> Iterator[NetNs]:
    """A fresh network namespace with `lo` up; makes veth, dummy and netkit devices; closed after.

    It has no name, so the kernel ends it with this process at the latest. Devices need pyroute2.
    `a, b = netns.veth(addresses=True)` are two ends that can talk; `a.capture()` gives packets.
    """
    from pytest_bpflink.bpf.attaching.netns import NetNs

    with NetNs.create() as netns:
        yield netns


@pytest.fixture
def _bpf_opener(request: pytest.FixtureRequest, _bpf_privileges: None) -> Iterator[Opener]:
    """The objects that a test opens, which are closed after it."""
    from pytest_bpflink.session.loading import Opener

    with Opener(request) as opener:
        yield opener


@pytest.fixture
def bpf_object(_bpf_opener: Opener) -> Callable[..., Object]:
    """Load BPF objects: `bpf_object("x.bpf.c")`, a path relative to the test's file, closed after.

    A `.bpf.c` is compiled with clang first, with macros `defines={"NAME": value}` and headers from
    directories `include=[...]`; a list of sources is linked. What is chosen before loading:
    `rodata`, `data`, `bss`, `max_entries`, `skip`, `only`, `types`, `attach_to` and `log_level` as
    in `Object.configure()`; `kconfig`, `pin_root` and `btf` as in `Object.open()`. Maps that are
    pinned by name are pinned in the test's own `bpffs`. `load=False` only opens the object.
    """
    return _bpf_opener.load


@pytest.fixture
def bpf_open(_bpf_opener: Opener) -> Callable[..., Object]:
    """Open BPF objects as `bpf_object` does, without loading them: `bpf_open("x.bpf.c").load()`."""
    return _bpf_opener.open


@pytest.fixture
def bpf_source() -> Callable[..., Path]:
    """Write a BPF program in the test: `bpf_object(bpf_source("..."))`; gives the path of a file.

    It includes headers from beside the test, too. `name="x"` calls the file `x.bpf.c`, after which
    libbpf names the maps of global variables.
    """
    from pytest_bpflink.building import inline_sources

    return inline_sources.written


@pytest.fixture
def bpf_link(_bpf_estate: Estate) -> Iterator[Callable[..., Link]]:
    """Attach programs: `bpf_link(program, target=None, **options)` gives a `Link`.

    A struct_ops map is attached as a program is: `bpf_link(map)`.

    After the test each link is destroyed and its pins are removed, the last one first.
    """
    from pytest_bpflink.bpf.maps.map import Map
    from pytest_bpflink.bpf.program import Program

    with contextlib.ExitStack() as undo:

        def attach(program: Program | Map, target: object | None = None, **options: Any) -> Link:
            __tracebackhide__ = True
            if not isinstance(program, Program | Map):
                raise TypeError(
                    f"bpf_link() attaches a Program, or a Map of struct_ops, and {program!r} is"
                    ' neither: write bpf_link(object.program("NAME"))'
                )
            if target is not None:
                options["target"] = target
            link = program.attach(**options)
            link.before_pinning = lambda path: _bpf_estate.record_pin(path, link.id)
            undo.callback(link.close)
            undo.callback(lambda: link.remove_pins() if _bpf_estate.is_ours else None)
            return link

        yield attach


@pytest.fixture
def bpf_ledger(request: pytest.FixtureRequest, _bpf_privileges: None) -> BpfLedger:
    """What programs under test leave, and who holds it: `with bpf_ledger.watch() as watch`."""
    from pytest_bpflink.ledger.bpf_ledger import BpfLedger
    from pytest_bpflink.session.guest import is_in_guest

    return BpfLedger(alone=is_in_guest(request.config))


@pytest.fixture
def bpf_trace(request: pytest.FixtureRequest, _bpf_privileges: None) -> BpfTrace:
    """What programs print by `bpf_printk` while the test runs: `assert "hello" in bpf_trace.lines`.

    Failed tests that load programs with `bpf_printk` show it without this fixture. Raises
    `BpfError` where the kernel lacks tracefs or BPF events.
    """
    from pytest_bpflink.session import bpf_trace

    return bpf_trace.of(request.config).trace()
