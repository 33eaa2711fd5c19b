"""The conformance suite: the same questions to links of every type."""
