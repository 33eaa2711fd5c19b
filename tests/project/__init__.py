"""Tests of the project as a whole: its packages, pages and examples, and other plugins."""
