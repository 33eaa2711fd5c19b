"""Marks tests that boot more guests than each run of all tests has the time for."""

from __future__ import annotations

import os

import pytest

#: For the same facts on further kernels, or in further kinds of guests.
long = pytest.mark.skipif("LONG" not in os.environ, reason="takes long: make test LONG=1")
