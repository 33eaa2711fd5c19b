"""Who left which BPF object behind, and what a killed session left."""
