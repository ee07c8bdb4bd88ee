"""fp8 matrix products: number formats, scales that follow the tensors, casts, and what a product multiplies."""
