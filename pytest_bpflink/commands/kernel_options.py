"""`bpflink kernels config` and `check`: the options that kernels need, and those that one lacks."""

from __future__ import annotations

import os
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_bpflink.commands.output import CommandError, print_json, progress, table, write

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

    from pytest_bpflink.vm.kernels import Kernel


@dataclass(frozen=True)
class _Lack:
    """An option that a kernel lacks, who needs it, and what for."""

    option: str
    needed_by: str
    what_for: str


def config(arguments: argparse.Namespace) -> None:
    """Print the fragment to merge into a configuration."""
    from pytest_bpflink.vm.kernels import fragment

    groups = fragment.GUESTS | (fragment.SELFTESTS if arguments.full else {})
    if arguments.json:
        listed = fragment.options(groups)
        print_json({f"CONFIG_{each.name}": each.value.strip('"') for each in listed})
        return
    write(fragment.text(groups).rstrip())


def check(arguments: argparse.Namespace) -> None:
    """Show which options a kernel lacks. Raises `CommandError` if guests can't run on it."""
    from pytest_bpflink.vm.kernels import drivers

    kernel = _kernel(arguments.spec)
    if not kernel.config:
        raise CommandError(
            f"the configuration of Linux {kernel.release} is not known, so nothing was checked:"
            f" put it beside the image, as {kernel.image.with_name('config')}"
        )
    lacks = list(_lacks(kernel))
    by_guests = {each.option for each in lacks if each.needed_by == "guests"}
    for_guests = [each.option for each in lacks if each.option in by_guests - drivers.OF_9P]
    for_selftests = [each.option for each in lacks if each.needed_by == "selftests"]
    if arguments.json:
        found = {"release": kernel.release, "config": str(kernel.config_file)}
        missing = [asdict(each) for each in lacks]
        print_json(found | {"guests": not for_guests, "missing": missing})
    else:
        rows = [(each.option, each.needed_by, each.what_for) for each in lacks]
        if rows:
            write(table(("missing", "needed by", "what for"), rows, whole="missing"))
        write(f"Linux {kernel.release}, configured by {kernel.config_file}")
        write(f"selftests: {_summary(len(for_selftests))}")
        if not for_guests:
            packed = "packed, without the host's files (no 9p)"
            write(f"guests: {packed if by_guests else 'yes'}")
    if for_guests:
        raise CommandError(
            f"guests can't run on it, for want of {', '.join(for_guests)}: add what"
            " 'bpflink kernels config' prints, and rebuild"
        )


def _summary(number: int) -> str:
    if not number:
        return "nothing is missing"
    options = "an option is" if number == 1 else f"{number} options are"
    return f"{options} missing: what needs {'it' if number == 1 else 'them'} is skipped"


def _kernel(spec: str) -> Kernel:
    """Return a kernel, also one that can't run as a guest."""
    from pytest_bpflink.vm.kernels import KernelUnusable, find
    from pytest_bpflink.vm.kernels.kernel import read_kernel

    try:
        with progress() as say:
            return find(spec, progress=say)
    except KernelUnusable:
        path = Path(os.path.expanduser(spec))
        if not path.exists():
            raise
        return read_kernel(path)


def _lacks(kernel: Kernel) -> Iterator[_Lack]:
    from pytest_bpflink.vm.kernels import fragment

    found = re.match(r"(\d+)\.(\d+)", kernel.version or kernel.release)
    version = tuple(map(int, found.groups())) if found else ()
    for needed_by, groups in (("guests", fragment.GUESTS), ("selftests", fragment.SELFTESTS)):
        for option in fragment.missing(groups, kernel.config, version=version):
            yield _Lack(f"CONFIG_{option.name}", needed_by, option.why)
    if kernel.without_modules:
        for option in fragment.options(fragment.GUESTS):
            if option.checked and kernel.config.get(f"CONFIG_{option.name}") == "m":
                what = f"{option.why}; it is a module, and {kernel.without_modules}"
                yield _Lack(f"CONFIG_{option.name}", "guests", what)
