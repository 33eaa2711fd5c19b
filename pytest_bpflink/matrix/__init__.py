"""Kernels as a parameter of a session."""
