"""Tests of `--kernel` and of several libbpfs: the worker and the guest that run an item."""
