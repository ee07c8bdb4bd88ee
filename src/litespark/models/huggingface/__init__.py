"""Any causal LM of Hugging Face transformers; nothing here imports it before it is needed."""
