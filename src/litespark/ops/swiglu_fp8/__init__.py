"""SwiGLU whose product (and, backward, gradient) leaves it in fp8."""
