"""A prepared folder, or made-up ids, to numbered sequences, and which sequence comes when."""
