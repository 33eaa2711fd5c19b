"""Tests of `--kernel-report`."""
