"""Reinforcement learning from rewards of whole completions: GRPO and RLOO, without a value head."""
