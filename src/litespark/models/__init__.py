"""Models: what training asks of any, the native Llama, first weights, compilation and generation."""
