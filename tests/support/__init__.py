"""Modules that the tests of several folders import; none of them holds tests."""

from pathlib import Path

ROOT = Path(__file__).parents[2]
