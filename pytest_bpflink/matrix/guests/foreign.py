"""What guests of another architecture than this machine's need before they start.

They need a root with a Python, and BPF programs, for they have no clang. Knows what of a kernel
decides how programs are compiled: byte order, headers, and BTF.
"""

from __future__ import annotations

import hashlib
import os
import sys
from functools import cache, partial
from typing import TYPE_CHECKING

from pytest_bpflink.building import compilation, handed_over, kernel_types
from pytest_bpflink.building.clang import Target
from pytest_bpflink.vm.architectures import ALL
from pytest_bpflink.vm.cache import cache_part, usable, writable
from pytest_bpflink.vm.identity import identity
from pytest_bpflink.vm.image import debian_root, image_btf, inventory
from pytest_bpflink.vm.image.inventory import ImageError
from pytest_bpflink.vm.kernels import KernelFetchError
from pytest_bpflink.vm.whole_file import write_whole

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from pytest_bpflink.building.recipe import Made, Recipe
    from pytest_bpflink.vm.image.debian_root import Root
    from pytest_bpflink.vm.kernels import Kernel


def root_for(kernel: Kernel, *, cwd: Path, progress: Callable[[str], None]) -> Root:
    """Return the root of a kernel's guests, fetched if need be. Raises KernelFetchError."""
    try:
        known = inventory.take(sys.executable, os.environ, cache=cache_part("guests"), cwd=cwd)
        return debian_root.find(ALL[kernel.arch], known, progress)
    except ImageError as error:
        raise KernelFetchError(str(error)) from None


def compile_for(
    kernel: Kernel, root: Root, sources: Sequence[Path], say: Callable[[str], None]
) -> dict[str, str]:
    """Compile SOURCES for a kernel; return the variables that lead its guests to the objects."""
    made = compilation.made_for_each(
        sources,
        _target(kernel, root),
        header=_header(kernel),
        before_each=lambda source: say(f"compiling {source.name} for {kernel.arch}"),
    )
    return {handed_over.VARIABLE: str(_written(handed_over.describe(made)))}


def made_for(kernel: Kernel, root: Root, recipe: Recipe) -> Made:
    """Return what becomes of a recipe for a kernel's guests."""
    target, header = _target(kernel, root), _header(kernel)
    return compilation.made_for(recipe, target, header=header, before_each=lambda _: None)


def _target(kernel: Kernel, root: Root) -> Target:
    architecture = ALL[kernel.arch]
    return Target(
        machine=architecture.machine,
        byte_order=architecture.byte_order,
        headers=root.path / "usr/include" / architecture.triplet,
    )


def _header(kernel: Kernel) -> Callable[[], Path]:
    name = f"{kernel.image} {identity(kernel.image)}"
    return cache(partial(kernel_types.of_kernel, name, partial(image_btf.find, kernel)))


def _written(text: bytes) -> Path:
    """Write a file into the cache, which guests see, and return its path."""
    name = f"handed-{hashlib.sha256(text).hexdigest()[:16]}.json"
    file = writable(usable(cache_part("objects") / name), unless=os.path.exists)
    if not os.path.exists(file):
        write_whole(file, text)
    return file
