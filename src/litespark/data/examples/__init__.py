"""Examples of post-training: conversations, pairs, rated completions and prompts, as ids with a weight each."""
