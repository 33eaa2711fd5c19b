"""Tests of `vm/kernels/`: sources of kernels, packages and images."""
