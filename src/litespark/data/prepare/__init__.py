"""Documents to a prepared folder: chunks of token ids, the tokenizer, and last the manifest."""
