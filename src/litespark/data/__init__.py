"""From text to batches of tokens.

In the order the text takes: `sources` reads documents, `tokenizer` turns them into ids, `prepare` writes them as LitData
chunks beside a `manifest`, `streaming` serves the chunks in an exact global order, and `batch` is what a model gets.
"""
