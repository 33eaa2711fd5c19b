"""Sessions on kernels and machines that `make test` does not have: `make test-machines`."""
