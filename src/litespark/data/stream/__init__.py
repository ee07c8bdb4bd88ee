"""A prepared folder, or made-up ids, to numbered rows, and which row comes when."""
