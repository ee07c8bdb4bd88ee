"""`litespark bench step`: one full training step, by variant, in fresh processes that take turns."""
