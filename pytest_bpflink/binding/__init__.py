"""libbpf through ctypes, the kernel's numbers, and BTF."""
