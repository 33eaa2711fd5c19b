"""Every fixture of the plugin, and nothing else."""

from __future__ import annotations

import contextlib
from itertools import count
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterator

    from pytest_bpflink.bpf.bpffs import BpfFs
    from pytest_bpflink.bpf.cgroup import Cgroup
    from pytest_bpflink.bpf.events.trace import BpfTrace
    from pytest_bpflink.bpf.link import Link
    from pytest_bpflink.bpf.netns import NetNs
    from pytest_bpflink.bpf.objects import Object
    from pytest_bpflink.features.kernel_info import KernelInfo
    from pytest_bpflink.ledger.bpf_ledger import BpfLedger
    from pytest_bpflink.ledger.estate import Estate


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
    from pytest_bpflink.bpf.cgroup import Cgroup

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
    """
    from pytest_bpflink.bpf.netns import NetNs

    with NetNs.create() as netns:
        yield netns


@pytest.fixture
def bpf_object(
    request: pytest.FixtureRequest, _bpf_privileges: None
) -> Iterator[Callable[..., Object]]:
    """Load BPF objects: `bpf_object("x.bpf.c")`, a path relative to the test's file, closed after.

    A `.bpf.c` is compiled with clang first. `rodata={"name": value}` sets constants before loading.
    """
    from pytest_bpflink.bpf.objects import Object
    from pytest_bpflink.errors import is_bpf_error

    with contextlib.ExitStack() as undo:

        def load(path: str | os.PathLike[str], *, rodata: dict[str, Any] | None = None) -> Object:
            __tracebackhide__ = is_bpf_error
            loaded = undo.enter_context(Object.open(request.path.parent / path))
            if rodata:
                loaded.rodata.update(rodata)
            return loaded.load()

        yield load


@pytest.fixture
def bpf_link(_bpf_estate: Estate) -> Iterator[Callable[..., Link]]:
    """Attach programs: `bpf_link(program, target=None, **options)` gives a `Link`.

    A struct_ops map is attached as a program is: `bpf_link(map)`.

    After the test each link is destroyed and its pins are removed, the last one first.
    """
    from pytest_bpflink.bpf.map import Map
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
