"""Whether this process tests another kernel than the host's; cheap, since every session asks."""

from __future__ import annotations

import pytest

#: Set in the workers of other kernels; `matrix.setup` sets it when pytest is configured.
IN_GUEST = pytest.StashKey[bool]()


def is_in_guest(config: pytest.Config) -> bool:
    """Whether this process is an xdist worker for another kernel: in a guest, or a stand-in."""
    return config.stash.get(IN_GUEST, False)
