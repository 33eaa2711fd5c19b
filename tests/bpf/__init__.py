"""Tests of the API: links, programs and maps, what they attach to, and who holds them."""
