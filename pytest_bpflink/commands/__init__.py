"""The commands of `bpflink`, a module each: `add` defines its arguments, and `run` runs it."""
