"""The kernel that tests run on, as the controller, its workers and the reports know it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Final, Literal

import pytest

Where = Literal["native", "kvm", "tcg"]


NATIVE: Final = "native"


@dataclass(frozen=True)
class MatrixKernel:
    """One kernel of a run, or a pair of kernel and libbpf if the run has several libbpfs.

    Test ids end with `id`, which names the libbpf of a pair, too. `release` (as in uname) and
    `where` are None until the kernel was found, as with `--collect-only`. `reason` says how the
    kernel runs, and why. `libbpf_spec` is the SPEC of a pair's libbpf, `libbpf` its path.
    `config_file` is the path on the host of the kernel's configuration.
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
    config_file: str | None = None

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
        """The mark of this kernel's items, for `-m 'on_kernel(spec="6.1")'`."""
        libbpf = {"libbpf": self.libbpf_spec} if self.libbpf_spec else {}
        return pytest.mark.on_kernel(spec=self.spec, release=self.release, **libbpf)

    @property
    def properties(self) -> list[tuple[str, object]]:
        """The properties that reports of this kernel's items have, for JUnit's file and others."""
        facts = {
            "id": self.id,
            "spec": self.spec,
            "release": self.release,
            "version": self.version,
            "where": self.where,
            "libbpf": self.libbpf_release,
        }
        return [(f"kernel_{name}", fact) for name, fact in facts.items() if fact is not None]


#: The kernel of a worker; `matrix.setup` sets it when pytest is configured.
RUNNING = pytest.StashKey[MatrixKernel]()


def running_kernel(config: pytest.Config) -> MatrixKernel:
    """Return the kernel that the tests of this process run on, with or without `--kernel`."""
    return config.stash.get(RUNNING, None) or native()


def native() -> MatrixKernel:
    """Return the kernel of this process."""
    release = os.uname().release
    return MatrixKernel(NATIVE, NATIVE, release, release, NATIVE, "the running kernel")
