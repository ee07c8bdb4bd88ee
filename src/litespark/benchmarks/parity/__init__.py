"""`litespark bench parity`: what variants learn from equal tokens, the loss beside the speed."""
