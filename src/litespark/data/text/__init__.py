"""Raw corpora as documents: which files a source names, and what is in them."""
