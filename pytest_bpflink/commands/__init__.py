"""What `bpflink` can do, a module per command: `add` tells its arguments, and `run` does it."""
