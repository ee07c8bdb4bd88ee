"""RMSNorm: scale each row by its root mean square."""
