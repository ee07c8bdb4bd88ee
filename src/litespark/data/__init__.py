"""From text to batches of tokens.

In the order the text takes: `text` reads documents from the files of a source, `selection` says which are left out,
`preparation` turns the others into LitData `chunks` with the `tokenizer`, and last writes the `manifest` with the
`dropped` documents; `sequences` cuts sequences from the chunks, `order` and
`mixture` say which sequence comes when, `streaming` serves them, and `batch` is what a model gets. `storage` reads and
writes files here and behind addresses, `cache` keeps remote chunks. `config` holds the settings of all of it.
"""
