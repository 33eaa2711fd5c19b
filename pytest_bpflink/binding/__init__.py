"""The C library and the kernel's numbers, as they are."""
