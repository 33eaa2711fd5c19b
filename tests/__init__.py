"""Tests of the plugin; the tests of the kernel are in `selftests/`."""
