"""From text to batches of tokens.

In the order the text takes: `sources` reads documents and `splits` deals them out, `tokenizer` turns them into ids,
`prepare` writes them as LitData `chunks` beside a `manifest` (whole or not at all, by `folders`), `rows` cuts rows from
the chunks, `order` says which row comes when, `streaming` serves them, and `batch` is what a model gets. `config` holds
the settings of all of it.
"""
