"""One pytest session on one kernel."""
