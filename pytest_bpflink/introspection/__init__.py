"""What the kernel says about BPF objects: their ids, their info, and who holds them."""
