"""Kernels as a parameter: an item of each test for each kernel.

Knows pytest's collection, in an xdist worker, or in pytest itself when no guest is asked for.
`worker` does a worker's other work, `controller` boots guests and deals items to their workers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pytest_bpflink.session import pytest_internals

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

    from pytest_bpflink.session.kernel import MatrixKernel


# The parameter's name, which reports such as Allure's show; and its name if the test may ask for a
# fixture or parameter of its own that is called so.
_PARAMETER, _OTHER_PARAMETER = "kernel", "_bpflink_kernel"


def register(config: pytest.Config, plugin: object) -> None:
    """Register a part of the matrix as a plugin of this session."""
    config.pluginmanager.register(plugin, f"bpflink-{type(plugin).__name__}")


class KernelItems:
    """Makes one item of each test for each kernel, and keeps the items of the kernel `here`.

    To save time, a worker makes no items of other kernels. With `--lf` and `--ff` it does, since
    these options run everything if no earlier failure was collected. `here` None keeps all items.
    """

    def __init__(self, kernels: Sequence[MatrixKernel], *, here: MatrixKernel | None) -> None:
        self._kernels = kernels
        self._here = here

    # trylast, so that ids end with the kernel. Function scope, since with a wider scope pytest
    # would reorder tests by kernel.
    @pytest.hookimpl(trylast=True)
    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """Make an item per kernel."""
        kernels = self._kernels
        if _is_for_guests(metafunc.definition):
            # Only guests run such a test; if there are none, `requirements` skips it.
            kernels = [each for each in kernels if not each.is_native] or kernels
        if self._here is not None and not _looks_back(metafunc.config):
            # A test that this kernel must not run still gets one item here;
            # pytest_collection_modifyitems drops it.
            kernels = [each for each in kernels if each.id == self._here.id] or kernels[:1]
        taken = pytest_internals.has_fixture(metafunc.definition, _PARAMETER)
        taken |= _PARAMETER in metafunc.fixturenames
        parameter = _OTHER_PARAMETER if taken else _PARAMETER
        metafunc.fixturenames.append(parameter)
        metafunc.parametrize(
            parameter,
            [pytest.param(kernel.id, id=kernel.id, marks=kernel.mark) for kernel in kernels],
            scope="function",
        )

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_collection_modifyitems(
        self, items: list[pytest.Item]
    ) -> Generator[None, None, None]:
        """Keep this kernel's items, after every other plugin has seen all items."""
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
    """Return the id of the kernel that an item was made for, by the item's callspec."""
    callspec = getattr(item, "callspec", None)
    parameters = callspec.params if callspec else {}
    return parameters.get(_OTHER_PARAMETER, parameters.get(_PARAMETER))


def is_parametrized(item: pytest.Item) -> bool:
    """Whether a test has an item per kernel; items of unittest, doctest and plugins run once."""
    return kernel_parameter(item) is not None


def without_kernel(item: pytest.Item) -> str:
    """Return the node id without the kernel, which is the same for a test on every kernel."""
    kernel = kernel_parameter(item)
    if kernel is None:
        return item.nodeid
    without = item.nodeid.removesuffix(f"[{kernel}]")
    return without if without != item.nodeid else item.nodeid.removesuffix(f"-{kernel}]") + "]"
