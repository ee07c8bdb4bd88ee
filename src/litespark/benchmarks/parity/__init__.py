"""`litespark bench parity`: the loss of variants after equal tokens, beside their speed."""
