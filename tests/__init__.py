"""Tests of the plugin; those of the kernel are in `selftests/`."""
