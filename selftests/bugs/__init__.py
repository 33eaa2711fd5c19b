"""What kernels are known to do wrong with links: how to see it, and a page about it."""
