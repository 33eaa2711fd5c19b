"""Tests of attaching: by name, to events, to devices, and their places."""
