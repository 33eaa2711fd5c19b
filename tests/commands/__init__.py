"""Tests of the `bpflink` command."""
