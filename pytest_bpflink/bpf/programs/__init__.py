"""What the kernel does with a loaded program: it runs it, and counts its runs."""
