"""Planning: what a run needs, computed before anything is built. Never imports Lightning."""
