"""A text as the words that documents are compared by: lower case, no punctuation, no diacritics."""

from litespark.data.libraries import library


def normalized_words(text: str, *, numbers: bool, setting: str) -> list[str]:
    """Words of a text as datatrove's `simplify_text` leaves them; without `numbers` all of them become 0."""
    text_module = library("datatrove.utils.text", setting=setting)
    # ASCII has no diacritics, and looking for them takes most of the time
    settings = text_module.TextNormConfig(norm_numbers=not numbers, norm_unicode_diacritics=not text.isascii())
    simplified: str = text_module.simplify_text(text, settings)
    return simplified.split()
