"""The full trainer against a bare PyTorch loop."""
