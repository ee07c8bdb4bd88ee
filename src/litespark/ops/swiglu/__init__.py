"""SwiGLU: the gated activation of the feed-forward layer."""
