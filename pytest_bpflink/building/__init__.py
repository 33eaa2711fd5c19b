"""Compiling a .bpf.c to a .bpf.o, and choosing or building a libbpf."""
