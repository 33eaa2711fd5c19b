"""Guests of our own: booted from our image, or restored from a save."""
