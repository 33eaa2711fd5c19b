"""What came of a run on several kernels, as data, and the files that `--kernel-report` writes."""
