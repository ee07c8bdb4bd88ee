"""Rotary position embedding, with the frequency scaling of Llama 3."""
