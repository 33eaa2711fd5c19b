"""Kernels as a parameter: which items run on which kernel.

Knows pytest's collection, in the process that collects: an xdist worker, or pytest itself when no
guest is asked for. What else a worker does is `matrix_worker`'s, guests and their workers are
`controller`'s, dealing out items is `scheduling`'s, what came of them is `report`'s.
"""

from __future__ import annotations

import re
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_bpflink import kernel_specs, libbpf_axis
from pytest_bpflink.kernel import NATIVE, MatrixKernel, native, running_kernel

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Sequence


PARAMETER = "_bpflink_kernel"

# File and directory names that say what a file is, not which kernel it is.
_NAMELESS = frozenset({"Image", "arch", "arm64", "boot", "bzImage", "compressed", "lib", "modules"})
_NAMELESS |= {"Image.gz", "usr", "vmlinux", "vmlinuz", "x86", "x86_64"}


def requested(values: Iterable[str]) -> list[MatrixKernel]:
    """Return the kernels that the values of `--kernel` ask for, in their order.

    Raises UsageError for an empty or a repeated SPEC.
    """
    kernels: list[MatrixKernel] = []
    seen: set[str] = set()
    for spec in (part.strip() for value in values for part in value.split(",")):
        if not spec:
            raise pytest.UsageError("--kernel: a SPEC is empty; write --kernel native,6.1")
        same = str(_real(spec)) if is_path(spec) else spec
        if same in seen:
            raise pytest.UsageError(f"--kernel: {spec} is given twice")
        seen.add(same)
        if spec == NATIVE:
            kernels.append(native())
        else:
            kernels.append(MatrixKernel(spec, _free_id(spec, {kernel.id for kernel in kernels})))
    return kernels


def is_path(spec: str) -> bool:
    """Whether a SPEC is a path rather than a word or a release; as `vm.kernels.find` sees it."""
    return "/" in spec or (not re.match(r"\d+\.\d", spec) and Path(spec).expanduser().exists())


def _real(path: str) -> Path:
    return Path(path).expanduser().resolve()


def _free_id(spec: str, taken: set[str]) -> str:
    """Return a short id for test ids: a release as it is, the telling part of a path."""
    name = _path_name(_real(spec)) if is_path(spec) else spec
    # xdist takes the id into "popen//id=...", pytest between "[" and "]".
    name = re.sub(r"[^\w.+-]+", "_", name)
    candidates = (name if number == 1 else f"{name}-{number}" for number in count(1))
    return next(candidate for candidate in candidates if candidate not in taken | {NATIVE})


def _path_name(path: Path) -> str:
    for part in (path.name, *(parent.name for parent in path.parents)):
        if part and part not in _NAMELESS:
            return part.removeprefix("vmlinuz-").removeprefix("bzImage-")
    return "kernel"


def configure(config: pytest.Config) -> None:
    """Register the half of the matrix that this process needs.

    Called from `pytest_configure`: after the cache plugin's, which is tryfirst, since `KernelItems`
    must be registered later than `--lf`; before xdist's, which is trylast and looks at `--tx`.
    """
    received: dict[str, Any] = getattr(config, "workerinput", {})
    if "bpflink_kernels" in received:
        # The controller needs none of this, nor do runs on this kernel alone.
        from pytest_bpflink.matrix_worker import MatrixWorker

        kernels = [MatrixKernel(**described) for described in received["bpflink_kernels"]]
        register(config, KernelItems(kernels, here=running_kernel(config)))
        register(config, MatrixWorker(config))
        return
    specs, _ = libbpf_axis.asked_for(config)
    kernels = libbpf_axis.pairs(requested(kernel_specs.asked_for(config)) or [native()], specs)
    if _runs_no_test(config):
        register(config, KernelItems(kernels, here=None))
    elif len(kernels) == 1 and kernels[0].is_native:
        register(config, KernelItems(kernels, here=kernels[0]))
    elif not config.pluginmanager.hasplugin("xdist"):
        raise pytest.UsageError(
            f"{'--kernel: other kernels than native' if len(specs) == 1 else 'several libbpfs'}"
            " need pytest-xdist and virtme-ng:"
            " pip install 'pytest-bpflink[vm]' (and no -p no:xdist)"
        )
    else:
        # With xdist and vm, which a run on this kernel alone does without.
        from pytest_bpflink import workers

        workers.configure(config, kernels)


def configure_report(config: pytest.Config) -> None:
    """Register what writes `--kernel-report`, where there is no `controller` that has done so."""
    if _runs_no_test(config) or config.pluginmanager.hasplugin("bpflink-report"):
        return
    from pytest_bpflink import report

    config.pluginmanager.register(report.NativeReport(config, native()), "bpflink-report")


def _runs_no_test(config: pytest.Config) -> bool:
    """Whether pytest only shows something; it starts a session even so (pytest 9.2)."""
    options = ("collectonly", "showfixtures", "show_fixtures_per_test", "cacheshow")
    return any(getattr(config.option, option, None) for option in options)


def register(config: pytest.Config, plugin: object) -> None:
    """Register a part of the matrix as a plugin of this session."""
    config.pluginmanager.register(plugin, f"bpflink-{type(plugin).__name__}")


class KernelItems:
    """Makes one item of each test for each kernel, and keeps those of the kernel `here`.

    A worker makes no other kernel's items, which would cost as much as its own: but for `--lf` and
    `--ff`, which run everything where they know none of the failures. `here` None keeps all.
    """

    def __init__(self, kernels: Sequence[MatrixKernel], *, here: MatrixKernel | None) -> None:
        self._kernels = kernels
        self._here = here

    # trylast, so that ids end with the kernel. Function scope: a wider one makes pytest reorder
    # tests by parameter.
    @pytest.hookimpl(trylast=True)
    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """Make an item per kernel."""
        kernels = self._kernels
        if _is_for_guests(metafunc.definition):
            # Where there are guests it is theirs; where not, it is skipped with a reason.
            kernels = [each for each in kernels if not each.is_native] or kernels
        if self._here is not None and not _looks_back(metafunc.config):
            # Of none of its own, an item is made all the same, and dropped with others' below.
            kernels = [each for each in kernels if each.id == self._here.id] or kernels[:1]
        metafunc.fixturenames.append(PARAMETER)
        metafunc.parametrize(
            PARAMETER,
            [pytest.param(kernel.id, id=kernel.id, marks=kernel.mark) for kernel in kernels],
            scope="function",
        )

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_collection_modifyitems(
        self, items: list[pytest.Item]
    ) -> Generator[None, None, None]:
        """Keep this kernel's items, after every other plugin had its say on all of them."""
        for item in items:
            if not is_parametrized(item):
                item.add_marker(self._kernels[0].mark)
        yield
        if self._here is not None:
            items[:] = [item for item in items if self._kernel_id(item) == self._here.id]
            for item in items:
                item.user_properties += self._here.properties

    def _kernel_id(self, item: pytest.Item) -> str:
        return kernel_parameter(item) or self._kernels[0].id


def _looks_back(config: pytest.Config) -> bool:
    return any(getattr(config.option, option, False) for option in ("lf", "failedfirst"))


def _is_for_guests(item: pytest.Item) -> bool:
    marked = any(
        item.get_closest_marker(name) for name in ("guest_only", "fresh_kernel", "kernel_bug")
    )
    return marked and not item.config.option.bpf_native_all


def kernel_parameter(item: pytest.Item) -> str | None:
    """Return the id of the kernel that an item was made for: by its callspec, never by its name."""
    callspec = getattr(item, "callspec", None)
    return callspec.params.get(PARAMETER) if callspec else None


def is_parametrized(item: pytest.Item) -> bool:
    """Whether there is an item per kernel; unittest's, doctest's and custom items run once."""
    return kernel_parameter(item) is not None


def without_kernel(item: pytest.Item) -> str:
    """Return the node id without the kernel: what the same test has on every kernel."""
    kernel = kernel_parameter(item)
    if kernel is None:
        return item.nodeid
    without = item.nodeid.removesuffix(f"[{kernel}]")
    return without if without != item.nodeid else item.nodeid.removesuffix(f"-{kernel}]") + "]"
