"""Tests of the ledgers: the objects that a test or a program leaves, and the test to blame."""
