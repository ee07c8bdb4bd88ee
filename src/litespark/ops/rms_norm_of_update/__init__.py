"""RMSNorm of an update and its addition to the residual stream in one pass: a way of `add_rms_norm`."""
