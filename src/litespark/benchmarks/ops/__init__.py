"""Each op and backend on this device, against PyTorch and Liger."""
