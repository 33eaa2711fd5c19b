"""What packed guests, those of kernels without 9p, have of the host. No guest runs."""
