"""Tests of the selftests: they catch a broken libbpf, and their results make a page."""
