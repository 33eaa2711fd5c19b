"""Kernels that prove something about the tests: with faults to choose from, or with checks."""
