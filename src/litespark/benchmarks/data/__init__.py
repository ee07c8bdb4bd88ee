"""What preparation and streaming reach, beside the bare tokenizer, litgpt and LitData's own reader."""
