"""SwiGLU: the gated activation of the MLP."""
