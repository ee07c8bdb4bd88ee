"""The schemas of everything that is written as a record and read again: of a run, and of each benchmark."""
