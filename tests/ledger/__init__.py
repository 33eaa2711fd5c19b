"""Tests of the ledgers: what a test or a program leaves behind, and who is blamed."""
