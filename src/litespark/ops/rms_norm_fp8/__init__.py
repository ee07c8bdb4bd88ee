"""RMSNorm with the residual addition, whose result (and, backward, gradient) leaves it in fp8."""
