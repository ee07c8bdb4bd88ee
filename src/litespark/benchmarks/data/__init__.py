"""What preparation and streaming reach, beside the bare tokenizer and LitData's own reader."""
