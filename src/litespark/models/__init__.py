"""The Llama model: sizes, network, initial weights, FLOPs, generation and the exchange with Hugging Face."""
