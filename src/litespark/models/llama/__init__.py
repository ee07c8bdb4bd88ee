"""The native Llama: its sizes, network, first weights, fp8, and the exchange with Hugging Face."""
