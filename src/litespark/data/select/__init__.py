"""Which documents are trained on: quality, duplicates, language, evaluation texts."""
