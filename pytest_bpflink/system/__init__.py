"""Linux without BPF: processes, mounts, cgroups, the kernel log."""
