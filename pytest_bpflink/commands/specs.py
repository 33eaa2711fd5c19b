"""The forms of a SPEC, for help texts, and for shells that complete one."""

from __future__ import annotations

SPECS = (
    "a release (6.1, 6.1.176), lts, newest, oldest, a pattern (6.1*), host, a path, or oci:IMAGE"
)


def stored_specs(**_: object) -> list[str]:
    """Return the SPECs that a shell offers: words, and the kernels in the store."""
    from pytest_bpflink.vm.kernels import Store, releases

    stored = Store().kernels()
    names = [name for kernel in stored for name in (releases.series(kernel), kernel.upstream)]
    return [*releases.WORDS, "host", *dict.fromkeys(names)]
