"""Tests of `--kernel` and several libbpfs: which items run where, and in which guests."""
