"""From a .bpf.c to a .bpf.o, and libbpf itself."""
