"""Tests of compiling `.bpf.c` files, and of choosing and building a libbpf."""
