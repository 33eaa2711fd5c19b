"""Which test left which BPF object behind, and removing the remains of killed sessions."""
