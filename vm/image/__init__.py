"""The image of our own guests: what is in it, and how it is written."""
