"""What tests require of their kernel, and whether a test is skipped or fails without it.

Knows the marks `bpf_requires`, `kernel`, `guest_only`, `fresh_kernel` and `kernel_bug`. `features`
probes whether a feature is there.
"""

from __future__ import annotations

import operator
import re
from typing import TYPE_CHECKING, Any

import pytest

from pytest_bpflink.errors import NotSupported, UnknownFeature
from pytest_bpflink.features import probing
from pytest_bpflink.features.kernel_info import KernelInfo
from pytest_bpflink.features.options import options_of
from pytest_bpflink.features.privileges import missing_privileges
from pytest_bpflink.session.guest import is_in_guest
from pytest_bpflink.session.kernel import running_kernel
from pytest_bpflink.vm.host_files import in_guest

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pytest_bpflink.errors import BpfError

_NATIVE = "run it in a guest (--kernel 6.12), or here with --bpf-native-all"

_COMPARISONS: dict[str, Callable[[Any, Any], bool]] = {
    ">=": operator.ge,
    "<=": operator.le,
    "==": operator.eq,
    "!=": operator.ne,
    ">": operator.gt,
    "<": operator.lt,
}


def check(item: pytest.Item) -> None:
    """Skip or fail a test that can't or mustn't run on this kernel."""
    config = item.config
    _keep_from_native(item)
    kernel = kernel_of(config)
    for mark in item.iter_markers("kernel"):
        for wanted in mark.args:
            if not matches(kernel.version, wanted):
                pytest.skip(f"for Linux {wanted}, this is {kernel.release}")
    for mark in item.iter_markers("bpf_requires"):
        _require(config, kernel, mark)


def is_skipped(item: pytest.Item) -> bool:
    """Whether `check` skips a test. Its failures are left to the process that runs the test."""
    try:
        check(item)
    except pytest.skip.Exception:
        return True
    except (Exception, pytest.fail.Exception):  # noqa: BLE001
        return False
    return False


def kernel_of(config: pytest.Config) -> KernelInfo:
    """Return the kernel that this process tests."""
    kernel = running_kernel(config)
    where = kernel.where or "native"
    return KernelInfo(where=where, spec=kernel.spec, config_file=kernel.config_file)


def absent(
    config: pytest.Config,
    feature: str,
    error: BpfError,
    *,
    since: str = "",
    options: Sequence[str] = (),
) -> None:
    """Skip the test if something explains why the feature is absent, else fail it.

    With `--bpf-strict` it fails in any case.
    """
    options = (*options, *options_of(feature))
    excuse = probing.excuse(error, kernel_of(config), since=since, config=options)
    if not excuse:
        pytest.fail(f"{feature} is absent, and nothing explains it: {error}", pytrace=False)
    if config.option.bpf_strict:
        pytest.fail(f"{feature} is absent (--bpf-strict): {excuse}", pytrace=False)
    pytest.skip(f"{feature}: {excuse}")


def matches(version: tuple[int, ...], wanted: str) -> bool:
    """Whether a release fits `>=6.6`, or `>=6.1,<6.12`; `==6.1` fits 6.1.176 too.

    Raises UsageError if `wanted` can't be parsed.
    """
    return all(_compare(version, each.strip()) for each in wanted.split(","))


def _compare(version: tuple[int, ...], wanted: str) -> bool:
    found = re.fullmatch(r"(>=|<=|==|!=|>|<)\s*(\d+(?:\.\d+)*)", wanted)
    if not found:
        raise pytest.UsageError(f'kernel({wanted!r}): write it as kernel(">=6.6")')
    bound = probing.version_tuple(found[2])
    return _COMPARISONS[found[1]](version[: len(bound)], bound)


def _keep_from_native(item: pytest.Item) -> None:
    if is_in_guest(item.config) or item.config.option.bpf_native_all:
        return
    # With --kernel, most of these tests have no native item: see matrix.items.KernelItems.
    bug = item.get_closest_marker("kernel_bug")
    if bug:
        pytest.skip(f"known to crash kernels ({bug.args[0]}): {_NATIVE}")
    if item.get_closest_marker("fresh_kernel"):
        pytest.skip(f"needs a kernel on which nothing ran before: {_NATIVE}")
    if item.get_closest_marker("guest_only") and not in_guest():
        pytest.skip(f"can crash or change the whole machine: {_NATIVE}")


def _require(config: pytest.Config, kernel: KernelInfo, mark: pytest.Mark) -> None:
    options = mark.kwargs.get("config", ())
    options = (options,) if isinstance(options, str) else tuple(options)
    if kernel.where == "native" and (reason := missing_privileges()):
        pytest.skip(reason)
    for feature in mark.args:
        try:
            if mark.kwargs.get("libbpf"):
                probing.require_libbpf(mark.kwargs["libbpf"], what=feature)
            error = probing.absence(feature)
        except NotSupported as unsupported:
            error = unsupported
        except UnknownFeature as unknown:
            pytest.fail(f"bpf_requires: {unknown}", pytrace=False)
        if error:
            absent(config, feature, error, since=mark.kwargs.get("since", ""), options=options)
