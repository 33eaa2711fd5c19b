"""The directory of this user's kernels, for sessions in which pytester sets another HOME."""

from __future__ import annotations

from pytest_bpflink.vm.cache import cache_root

# Read at import: in a test that uses pytester, HOME is already pytester's.
CACHE = cache_root()
