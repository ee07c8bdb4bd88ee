"""Linear layers: a plain product, and products in fp8 together with the norm or SwiGLU around them."""
