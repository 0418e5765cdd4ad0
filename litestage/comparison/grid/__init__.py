"""Many comparisons in one command: every model with every task and every seed, and a summary over all."""
