"""The conformance suite, which asks the same of links of every type."""
