"""The archives that kernels are fetched from beside the distribution's: `bpflink_kernel_sources`.

`vm.kernels.sources` knows what a deb line says.
"""

from __future__ import annotations

import pytest

from pytest_bpflink.session.options import SOURCES_OPTION
from pytest_bpflink.vm.kernels import KernelError, sources


def of(config: pytest.Config) -> tuple[str, ...]:
    """Return the deb lines of the project, in which keyrings have absolute paths.

    Raises UsageError for a line that is wrong, also in the file of `BPFLINK_KERNEL_SOURCES`.
    """
    directory = config.inipath.parent if config.inipath else config.invocation_params.dir
    try:
        lines = [line for line in config.getini(SOURCES_OPTION) if line.strip()]
        found = [sources.parse(line, directory) for line in lines]
        sources.configured()
    except KernelError as error:
        raise pytest.UsageError(str(error)) from None
    return tuple(source.whole_line for source in found)
