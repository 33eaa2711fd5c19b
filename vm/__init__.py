"""Boot kernels and run a Python in them; knows nothing of pytest or BPF."""
