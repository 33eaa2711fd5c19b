"""Events that programs write to ring buffers and perf event arrays, and user space to programs."""
