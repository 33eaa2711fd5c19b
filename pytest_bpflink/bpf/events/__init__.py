"""What programs say: events in ring buffers and perf event arrays, and prints."""
