"""Which documents are trained on: quality, duplicates, language, evaluation texts, and a ledger of what went."""
