"""Tests of the API: links, programs and maps, their targets, and their holders."""
