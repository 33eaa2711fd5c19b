"""Tests of kernels and guests of other architectures than this machine's."""
