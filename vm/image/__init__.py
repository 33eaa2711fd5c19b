"""The image of our own guests: its files, and the writing of it."""
