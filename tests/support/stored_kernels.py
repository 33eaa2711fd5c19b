"""Where this user's kernels are stored, for sessions that pytester gives another home."""

from __future__ import annotations

from pytest_bpflink.vm.cache import cache_root

# Read at import: in a test that uses pytester, HOME is already pytester's.
CACHE = cache_root()
