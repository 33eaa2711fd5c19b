"""The forms of a SPEC, for help texts, and for shells that complete one."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pytest_bpflink.vm.kernels import Store

SPECS = (
    "a release (6.1, 6.1.176), lts, newest, oldest, a pattern (6.1*), host, a path, or oci:IMAGE;"
    " arm64:6.1 is of another architecture"
)


def stored_specs(**_: object) -> list[str]:
    """Return the SPECs that a shell offers: words, and the kernels in the store."""
    from pytest_bpflink.vm.kernels import releases

    names = [
        f"{prefix}{name}"
        for prefix, store in stores().items()
        for kernel in store.kernels()
        for name in (releases.series(kernel), kernel.upstream)
    ]
    return [*releases.WORDS, "host", *dict.fromkeys(names)]


def stores() -> dict[str, Store]:
    """Return the stores that there are by what begins the SPECs of their kernels.

    The store of this machine's architecture is the first, and always among them.
    """
    from pytest_bpflink.vm import architectures
    from pytest_bpflink.vm.kernels import Store

    own = architectures.own()
    others = {f"{name}:": Store(arch=name) for name in architectures.ALL if name != own}
    return {"": Store()} | {begins: each for begins, each in others.items() if each.root.exists()}
