"""Virtual machines: QEMU processes, and what runs and talks in the simplest guests."""
