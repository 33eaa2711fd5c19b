"""Tests of maps: of objects, of pins and ids, of running programs."""
