"""Tasks: what a batch and a loss are. Pre-training is the first."""
