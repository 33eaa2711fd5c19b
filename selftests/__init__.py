"""The kernel's BPF link selftests, as pytest tests that run on any kernel."""
