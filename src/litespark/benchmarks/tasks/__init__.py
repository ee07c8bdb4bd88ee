"""Post-training beside TRL: steps of SFT, DPO and GRPO of both on one model and the same examples."""
