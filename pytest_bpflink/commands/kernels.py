"""See, fetch and remove kernels for guests.

    bpflink kernels                    list the kernels in the store
    bpflink kernels list --offered     list the kernels that can be fetched, too
    bpflink kernels fetch 6.1 lts '6.1*'
    bpflink kernels remove 6.16
    bpflink kernels prune --unused-days 10 --keep lts
    bpflink kernels sources            list further archives, and the kernels in each
    bpflink kernels check ~/linux      which options of its configuration are missing
    bpflink kernels config > fragment  what to merge into a configuration

Runs of tests fetch the kernels that they need by themselves. The store is in
~/.cache/pytest-bpflink, or in the directory that BPFLINK_CACHE names. A kernel in use is never
removed.

The variable BPFLINK_KERNEL_SOURCES names a file of further archives that kernels are fetched from,
with a line for each: deb [signed-by=KEYRING] URI SUITE COMPONENT...
"""

from __future__ import annotations

import argparse
import re
import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_bpflink.commands import kernel_options, kernel_sources
from pytest_bpflink.commands.output import (
    CommandError,
    print_json,
    progress,
    size,
    table,
    write,
)
from pytest_bpflink.commands.specs import SPECS, stored_specs, stores

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from pytest_bpflink.vm.kernels.releases import Known
    from pytest_bpflink.vm.kernels.stored import Stored
    from pytest_bpflink.vm.kernels.unpacked import UnpackedKernel


def add(parser: argparse.ArgumentParser) -> None:
    """Add the arguments; without any the command lists kernels."""
    parser.set_defaults(do=_list, offered=False, json=False)
    actions = parser.add_subparsers(metavar="ACTION")
    action = actions.add_parser("list", help="List the kernels in the store")
    action.add_argument(
        "--offered", action="store_true", help="List the kernels that can be fetched, too"
    )
    _finish(action, _list)
    action = actions.add_parser("fetch", help="Fetch kernels that are not in the store yet")
    action.add_argument("spec", nargs="+", metavar="SPEC", help=f"Which: {SPECS}")
    _finish(action, _fetch)
    action = actions.add_parser("remove", help="Remove each kernel that a SPEC matches")
    named = action.add_argument(
        "spec", nargs="+", metavar="SPEC", help="Which: as for fetch, no paths"
    )
    named.completer = stored_specs  # type: ignore[attr-defined]
    _finish(action, _remove)
    action = actions.add_parser(
        "prune", help="Remove kernels that nobody used for long, and incomplete downloads"
    )
    action.add_argument(
        "--unused-days",
        type=float,
        default=30,
        metavar="N",
        help="Days after which an unused kernel is removed (default: 30)",
    )
    kept = action.add_argument(
        "--keep",
        action="append",
        type=_spec_to_keep,
        default=[],
        metavar="SPEC",
        help="A kernel that stays (repeatable)",
    )
    kept.completer = stored_specs  # type: ignore[attr-defined]
    _finish(action, _prune)
    action = actions.add_parser(
        "sources", help="List the archives of BPFLINK_KERNEL_SOURCES, and the kernels in each"
    )
    _finish(action, kernel_sources.show)
    action = actions.add_parser(
        "check",
        help="Say which options a kernel lacks",
        description="Say which options a kernel lacks, for guests and for the project's selftests."
        " The exit status is 1 if guests can't run on it, or if its configuration is not known.",
    )
    named = action.add_argument("spec", metavar="SPEC", help=f"Which: {SPECS}")
    named.completer = stored_specs  # type: ignore[attr-defined]
    _finish(action, kernel_options.check)
    action = actions.add_parser(
        "config",
        help="Print the options that kernels for guests need",
        description="Print the options that a kernel for guests needs, each with its reason, as a"
        " fragment to merge into a configuration: in the kernel's tree, 'make defconfig', then"
        " 'scripts/kconfig/merge_config.sh .config FRAGMENT'.",
    )
    action.add_argument(
        "--full", action="store_true", help="Print what the project's selftests need, too"
    )
    _finish(action, kernel_options.config)


def run(arguments: argparse.Namespace) -> int:
    """Run the action; raises `CommandError`."""
    from pytest_bpflink.vm.kernels import KernelError

    try:
        status: int | None = arguments.do(arguments)
    except KernelError as error:
        raise CommandError(str(error)) from None
    return status or 0


def _finish(action: argparse.ArgumentParser, do: Any) -> None:
    action.add_argument("--json", action="store_true", help="Write JSON")
    action.set_defaults(do=do)


def _list(arguments: argparse.Namespace) -> None:
    from pytest_bpflink.vm.kernels.unpacked import Unpacked

    kept = stores()
    store, *others = kept.values()
    stored = store.kernels()
    known: Sequence[Known] = stored
    if arguments.offered:
        with progress() as say:
            known = store.known("*", say)
    rows = [*_described(known, stored), *map(_unpacked_row, Unpacked().kernels())]
    for begins, other in list(kept.items())[1:]:
        rows += _described(other.kernels(), other.kernels(), begins=begins)
    if arguments.json:
        print_json(rows)
        return
    if rows:
        columns = ("SPEC", "version", "release", "size", "used", "support")
        write(table(columns, [_cells(row) for row in rows], right="size"))
    for other in others:
        write(f"{_total(other.kernels())} in {other.root}")
    free = shutil.disk_usage(_existing(store.root)).free
    write(f"{_total(stored)} in {store.root}, {size(free)} are free")
    if not rows:
        write("'bpflink kernels list --offered' shows the kernels that can be fetched")


def _fetch(arguments: argparse.Namespace) -> None:
    from pytest_bpflink.vm import kernels

    found = []
    with progress() as say:
        for pattern in arguments.spec:
            specs = kernels.expand(pattern, progress=say)
            found += [kernels.find(spec, progress=say) for spec in specs]
    if arguments.json:
        names = ("spec", "version", "release", "image")
        print_json([{name: getattr(kernel, name) for name in names} for kernel in found])
        return
    for kernel in found:
        version = kernel.version or kernel.release
        write(f"{kernel.spec}: Linux {version} ({kernel.release}) at {kernel.image}")


def _remove(arguments: argparse.Namespace) -> None:
    from pytest_bpflink.vm import architectures
    from pytest_bpflink.vm.kernels import KernelError, KernelNotFound, Store, releases
    from pytest_bpflink.vm.kernels.spelling import spelled
    from pytest_bpflink.vm.kernels.unpacked import Unpacked

    removed = []
    unpacked = Unpacked()
    for spec in arguments.spec:
        names = {spec, str(spelled(spec, Path.cwd()))}
        named = [kernel for kernel in unpacked.kernels() if kernel.spec in names]
        for one in named:
            removed.append(_unpacked_row(one))
            if not unpacked.remove(one):
                raise KernelError(f"{one.spec} is in use, and stays")
        if named:
            continue
        arch, name = architectures.split(spec)
        store = Store(arch=arch)
        meant = releases.meant(name, store.kernels())
        if not meant:
            raise KernelNotFound(f"no kernel {spec} is in {store.root}: see 'bpflink kernels list'")
        for kernel in meant:
            (row,) = _described([kernel], [kernel])
            if not store.remove(kernel):
                raise KernelError(f"Linux {kernel.upstream} is in use, and stays")
            removed.append(row)
    _tell_removed(arguments, removed, _left())


def _prune(arguments: argparse.Namespace) -> None:
    from pytest_bpflink.vm.kernels.unpacked import Unpacked

    rows: list[dict[str, Any]] = []
    for begins, store in stores().items():
        sizes = {kernel.path: kernel.size for kernel in store.kernels()}
        keep = [spec.removeprefix(begins) for spec in arguments.keep if spec.startswith(begins)]
        pruned = store.prune(unused_days=arguments.unused_days, keep=keep)
        rows += [
            {"version": kernel.upstream, "release": kernel.release, "size": sizes[kernel.path]}
            for kernel in pruned
        ]
    unpacked = Unpacked()
    described = {kernel: _unpacked_row(kernel) for kernel in unpacked.kernels()}
    rows += [described[kernel] for kernel in unpacked.prune(unused_days=arguments.unused_days)]
    _tell_removed(arguments, rows, _left())


def _left() -> list[Stored]:
    return [kernel for store in stores().values() for kernel in store.kernels()]


def _tell_removed(
    arguments: argparse.Namespace, removed: Sequence[dict[str, Any]], left: Sequence[Stored]
) -> None:
    if arguments.json:
        print_json(removed)
        return
    for row in removed:
        write(f"removed Linux {row['version']} ({row['release']}), {size(row['size'])}")
    write(f"{_total(left)} left")


def _described(
    known: Iterable[Known], stored: Sequence[Stored], *, begins: str = ""
) -> Iterable[dict[str, Any]]:
    """Describe each kernel, the oldest first; of those not stored only the newest of a series.

    BEGINS is what begins a SPEC of such a kernel: its architecture, if it is not this machine's.
    """
    from pytest_bpflink.vm.kernels import releases
    from pytest_bpflink.vm.kernels.releases import version_key

    here = {(kernel.release, kernel.version): kernel for kernel in stored}
    newest = {
        releases.series(kernel): kernel
        for kernel in sorted(known, key=lambda kernel: version_key(kernel.version))
    }
    chosen = {(kernel.release, kernel.version): kernel for kernel in newest.values()} | here
    for key, kernel in sorted(chosen.items(), key=lambda item: version_key(item[1].version)):
        series = releases.series(kernel)
        kept = here.get(key)
        yield {
            "spec": f"{begins}{series}",
            "version": kernel.upstream,
            "release": kernel.release,
            "stored": kept is not None,
            "longterm": series in releases.LONGTERM,
            "size": kept.size if kept else None,
            "used": kept and time.strftime("%Y-%m-%d", time.localtime(kept.used)),
            "path": kept and str(kept.path),
        }


def _unpacked_row(kernel: UnpackedKernel) -> dict[str, Any]:
    return {
        "spec": kernel.spec,
        "version": kernel.release,
        "release": kernel.release,
        "stored": True,
        "longterm": False,
        "size": kernel.size,
        "used": time.strftime("%Y-%m-%d", time.localtime(kernel.used)),
        "path": str(kernel.path),
    }


def _cells(row: dict[str, Any]) -> Sequence[str]:
    return (
        row["spec"],
        row["version"],
        row["release"],
        size(row["size"]) if row["stored"] else "",
        row["used"] or "not here",
        "longterm" if row["longterm"] else "",
    )


def _total(kernels: Sequence[Stored]) -> str:
    number = f"{len(kernels)} kernel{'' if len(kernels) == 1 else 's'}"
    return f"{number}, {size(sum(kernel.size for kernel in kernels))}"


def _spec_to_keep(text: str) -> str:
    """Refuse a word that can name no kernel: a typo must not remove kernels that should stay."""
    from pytest_bpflink.vm import architectures
    from pytest_bpflink.vm.kernels import releases

    _, name = architectures.split(text)
    if name in releases.WORDS or re.match(r"[\d*?[]", name):
        return text
    raise argparse.ArgumentTypeError(f"{text!r} is no release (6.1), pattern (6.1*) or word (lts)")


def _existing(path: Path) -> Path:
    return path if path.exists() else _existing(path.parent)
