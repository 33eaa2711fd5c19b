"""The calls that create links, made by hand, so that they can be made with mistakes."""
