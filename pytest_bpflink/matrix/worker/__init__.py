"""What an xdist worker does for the kernel matrix."""
