"""Virtual machines: QEMU processes, the pipes to them, and plain guests."""
