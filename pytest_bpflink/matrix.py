"""Kernels as a parameter: which kernels a run has, and which items run on each.

Knows pytest's collection, in the process that collects: an xdist worker, or pytest itself when no
guest is asked for. Guests and their workers are `controller`'s, dealing out items is
`scheduling`'s, what came of them is `report`'s.
"""

from __future__ import annotations

import io
import os
import re
import sys
import threading
import traceback
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple

import pytest
from _pytest.assertion import rewrite

from pytest_bpflink import kernel_specs, libbpf_axis
from pytest_bpflink.fresh_items import FreshItem
from pytest_bpflink.only_item import OnlyItem, fresh_item, known_bug
from pytest_bpflink.taint import TaintWatch

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Sequence

    from execnet import Channel

Where = Literal["native", "kvm", "tcg"]

NATIVE: Final = "native"
PARAMETER = "_bpflink_kernel"

#: Named to guests where the tests' own __pycache__ must not be written.
PYCACHE_VARIABLE: Final = "BPFLINK_PYCACHE"

# File and directory names that say what a file is, not which kernel it is.
_NAMELESS = frozenset({"Image", "arch", "arm64", "boot", "bzImage", "compressed", "lib", "modules"})
_NAMELESS |= {"Image.gz", "usr", "vmlinux", "vmlinuz", "x86", "x86_64"}


@dataclass(frozen=True)
class MatrixKernel:
    """One kernel of a run, as controller, workers and reports know it.

    `id` is what test ids end with. `release` (as uname says it) and `where` are None until the
    kernel was found, as with `--collect-only`. `reason` says how it runs, and why so. Where there
    are several libbpfs, `libbpf_spec` says which one is meant, and `libbpf` where it is; `id` has
    it, too.
    """

    spec: str
    id: str
    release: str | None = None
    version: str | None = None
    where: Where | None = None
    reason: str = ""
    libbpf_spec: str | None = None
    libbpf: str | None = None
    libbpf_release: str | None = None

    @property
    def is_native(self) -> bool:
        """Whether this is the running kernel, with no VM around it."""
        return self.spec == NATIVE

    def __str__(self) -> str:
        if self.release is None:
            return f"{self.id}: {self.reason}"
        known_as = f" ({self.version})" if self.version not in {None, self.release} else ""
        libbpf = f"libbpf {self.libbpf_release} ({self.libbpf}), " if self.libbpf else ""
        return f"{self.id}: Linux {self.release}{known_as}, {libbpf}{self.reason}"

    @property
    def mark(self) -> pytest.MarkDecorator:
        """What `-m 'on_kernel(spec="6.1")'` selects by."""
        libbpf = {"libbpf": self.libbpf_spec} if self.libbpf_spec else {}
        return pytest.mark.on_kernel(spec=self.spec, release=self.release, **libbpf)

    @property
    def properties(self) -> list[tuple[str, object]]:
        """What the reports of its items carry into JUnit's file, and whatever else reads them."""
        facts = {
            "id": self.id,
            "spec": self.spec,
            "release": self.release,
            "version": self.version,
            "where": self.where,
            "libbpf": self.libbpf_release,
        }
        return [(f"kernel_{name}", fact) for name, fact in facts.items() if fact is not None]


def running_kernel(config: pytest.Config) -> MatrixKernel:
    """Return the kernel that the tests of this process run on, with or without `--kernel`."""
    described: dict[str, Any] | None = getattr(config, "workerinput", {}).get("bpflink_kernel")
    return MatrixKernel(**described) if described else native()


def native() -> MatrixKernel:
    """Return the kernel of this process."""
    release = os.uname().release
    return MatrixKernel(NATIVE, NATIVE, release, release, NATIVE, "the running kernel")


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
        kernels = [MatrixKernel(**described) for described in received["bpflink_kernels"]]
        _register(config, KernelItems(kernels, here=running_kernel(config)))
        _register(config, MatrixWorker(config))
        return
    specs, _ = libbpf_axis.asked_for(config)
    kernels = libbpf_axis.pairs(requested(kernel_specs.asked_for(config)) or [native()], specs)
    if _runs_no_test(config):
        _register(config, KernelItems(kernels, here=None))
    elif len(kernels) == 1 and kernels[0].is_native:
        _register(config, KernelItems(kernels, here=kernels[0]))
    elif not config.pluginmanager.hasplugin("xdist"):
        raise pytest.UsageError(
            f"{'--kernel: other kernels than native' if len(specs) == 1 else 'several libbpfs'}"
            " need pytest-xdist and virtme-ng:"
            " pip install 'pytest-bpflink[vm]' (and no -p no:xdist)"
        )
    else:
        # With xdist and vm, which a run on this kernel alone does without.
        from pytest_bpflink import controller

        controller.configure(config, kernels)


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


def _register(config: pytest.Config, plugin: object) -> None:
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


class MatrixWorker:
    """Tells the controller about the items of this worker, and runs none that it must not run."""

    def __init__(self, config: pytest.Config) -> None:
        received: dict[str, Any] = config.workerinput  # type: ignore[attr-defined]
        self._config = config
        self._channel = received["bpflink_channel"]
        # It is called in execnet's thread: also while a test hangs, unless it keeps the GIL.
        self._channel.setcallback(lambda _: self._channel.send(("stack", _where_the_test_is())))
        self._kernel = running_kernel(config)
        self._refusal = received["bpflink_stand_in"] or self._wrong_kernel()
        only = received["bpflink_item"]
        if only:
            _register(config, OnlyItem(config, FreshItem(*only)))
        if not self._kernel.is_native and not self._refusal:
            _register(config, TaintWatch(config))
        # The scheduler has groups from marks; xdist appends them to node ids, which --lf then does
        # not find (and with pytest 9.2, whose node ids don't change, xdist 3.8 ignores groups).
        config.option.loadgroup = False
        # Chosen by the controller, built and all.
        config.option.bpf_libbpf = received["bpflink_libbpf"]
        if not self._kernel.is_native:
            # A directory of the host, whose parents a guest need not have.
            config.option.basetemp = None
            use_pycache()

    # Before xdist's, so that the controller knows the groups when it has the collection.
    @pytest.hookimpl(tryfirst=True)
    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Tell the controller what it can't know from node ids."""
        described = {item.nodeid: tuple(self._describe(item)) for item in session.items}
        self._channel.send(("items", described))

    def _describe(self, item: pytest.Item) -> ItemFacts:
        # Natively, and by a stand-in, it is run or refused as any other.
        fresh = None if self._kernel.is_native or self._refusal else fresh_item(item)
        return ItemFacts(
            without_kernel(item),
            _group(item),
            is_parametrized(item),
            fresh and tuple(fresh),
            known_bug(item),
        )

    def pytest_sessionstart(self) -> None:
        """Show what tests print, if that is asked for, but not what this worker's pytest does."""
        if self._config.option.capture == "no":
            # execnet has made /dev/null of what it talks through.
            sys.stdout = sys.stderr = Printing(self._channel)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """Tell on which kernel something can't be collected: xdist shows it once, for all."""
        if report.failed:
            self._channel.send(("uncollected", report.nodeid))

    def pytest_runtest_logfinish(self) -> None:
        """Pass on what a test printed without ending the line."""
        if isinstance(sys.stdout, Printing):
            sys.stdout.finish()

    # The whole protocol, so that no mark (skip, xfail) and no plugin turns the error into less.
    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> bool | None:
        """Report an item that must not run as an error in its set-up."""
        if not self._refusal:
            return None
        item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
        for report in (_report(item, "setup", self._refusal), _report(item, "teardown", None)):
            item.ihook.pytest_runtest_logreport(report=report)
        item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
        return True

    def _wrong_kernel(self) -> str | None:
        running = os.uname().release
        if running == self._kernel.release:
            return None
        return (
            f"{self._kernel.id} is Linux {self._kernel.release}, but this worker runs on"
            f" {running}: not run, since the result would be another kernel's"
        )


class ItemFacts(NamedTuple):
    """What a worker says of an item, as execnet can carry it.

    `test` is the node id without the kernel, `fresh` its FreshItem if it wants a kernel of its own,
    `bug` the source that knows of a crash.
    """

    test: str
    group: str | None
    parametrized: bool
    fresh: tuple[Any, ...] | None
    bug: str | None


def use_pycache() -> None:
    """Have pytest look for rewritten tests where the host put them.

    PYTHONPYCACHEPREFIX would have Python look there for every other module, too.
    """
    named = os.environ.get(PYCACHE_VARIABLE)
    if named:
        rewrite.get_cache_dir = lambda file_path: Path(named, *file_path.parts[1:-1])


class Printing(io.TextIOBase):
    """Where tests print to with -s: what they say is shown by the controller, line by line."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._line = ""

    def writable(self) -> bool:
        """Say that it is."""
        return True

    def write(self, text: str) -> int:
        """Pass on whole lines."""
        *lines, self._line = (self._line + text).split("\n")
        for line in lines:
            self._channel.send(("printed", line))
        return len(text)

    def finish(self) -> None:
        """Pass on what is left; called when a test is through."""
        if self._line:
            self.write("\n")


def _where_the_test_is() -> str:
    """Return the stack of the main thread, less what runs tests."""
    frame = sys._current_frames()[threading.main_thread().ident or 0]  # noqa: SLF001
    stack = traceback.extract_stack(frame)
    runners = re.compile(r"/(_pytest|pluggy|xdist|execnet|pytest_bpflink/matrix\.py)\b|^<")
    tests = [entry for entry in stack if not runners.search(entry.filename)]
    return "".join(traceback.format_list(tests or stack)).rstrip()


def _group(item: pytest.Item) -> str | None:
    names = {
        str(mark.args[0] if mark.args else mark.kwargs.get("name", "default"))
        for mark in item.iter_markers("xdist_group")
    }
    return "_".join(sorted(names)) or None


def _report(
    item: pytest.Item, when: Literal["setup", "teardown"], failure: str | None
) -> pytest.TestReport:
    return pytest.TestReport(
        nodeid=item.nodeid,
        location=item.location,
        keywords=dict.fromkeys(item.keywords, 1),
        outcome="failed" if failure else "passed",
        longrepr=failure,
        when=when,
        user_properties=item.user_properties,
    )
