"""Maps: their keys and values as Python values, and the variables in them."""
