"""What selection is worth: equal tokens with and without it, on text with planted junk and duplicates."""
