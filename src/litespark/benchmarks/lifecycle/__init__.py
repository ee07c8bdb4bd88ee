"""The whole life of a model: pre-training, SFT, preferences, a reward model and RLHF, one after another."""
