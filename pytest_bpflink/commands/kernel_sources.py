"""`bpflink kernels sources`: the archives that users add, and the kernels in each."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pytest_bpflink.commands.output import FAILED, print_json, progress, write

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from pytest_bpflink.vm.kernels.debian import Package
    from pytest_bpflink.vm.kernels.sources import Source
    from pytest_bpflink.vm.kernels.stored import Stored


def show(arguments: argparse.Namespace) -> int:
    """Show the sources; return 1 if the lists of one could not be read. Raises KernelError."""
    from pytest_bpflink.vm.kernels import Store
    from pytest_bpflink.vm.kernels.sources import VARIABLE

    store = Store()
    with progress() as say:
        found = store.of_sources(say)
    if arguments.json:
        print_json([_described(*each) for each in found])
    elif not found:
        write(f"there are none: {VARIABLE} names no file with a deb line for each")
    else:
        write("\n".join(line for each in found for line in _lines(*each, store.kernels())))
    return FAILED if any(outdated for *_, outdated in found) else 0


def _lines(
    source: Source, kernels: Sequence[Package], outdated: str, stored: Sequence[Stored]
) -> list[str]:
    from pytest_bpflink.vm.kernels import releases

    offered = releases.offer(kernels, stored) or ["  no kernels"]
    if not outdated:
        return [source.name, *offered]
    return [outdated, *(["  the lists that were read earlier have", *offered] if kernels else [])]


def _described(source: Source, kernels: Sequence[Package], outdated: str) -> dict[str, Any]:
    names = ("release", "version", "upstream")
    return {
        "name": source.name,
        "line": source.whole_line,
        "keyring": str(source.keyring),
        "kernels": [{name: getattr(kernel, name) for name in names} for kernel in kernels],
        "error": outdated,
    }
