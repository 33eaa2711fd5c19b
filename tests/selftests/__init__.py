"""Tests of the selftests: that they catch a broken libbpf, and the page that they write."""
