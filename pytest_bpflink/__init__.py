"""Test the life of BPF links: attach, pin, reopen, update, detach, and see what the kernel does."""
