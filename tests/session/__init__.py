"""Tests of one session on one kernel: fixtures, marks, and the checks around each test."""
