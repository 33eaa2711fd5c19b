"""Lives of links, made up by Hypothesis: an oracle predicts each step, and a kernel does it."""
