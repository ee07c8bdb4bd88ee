"""Which language a document is in, by py3langid: a table of byte sequences that comes with the library."""

from __future__ import annotations

from functools import cache
from typing import Any

from litespark.data.libraries import library
from litespark.data.text.document import Document

LANGUAGE_RULE = "language"
_SETTING = "data.selection.languages"


@cache
def _identifier() -> Any:
    """One for the process: its table takes a quarter of a second to read, and it is never changed."""
    langid = library("py3langid.langid", setting=_SETTING)
    return langid.LanguageIdentifier.from_model_file(langid.MODEL_FILE, norm_probs=True)


class LanguageRule:
    """Refuses documents that are probably in none of the named languages.

    Raises:
        ValueError: py3langid is missing, or does not know one of the languages.
    """

    def __init__(self, languages: tuple[str, ...], threshold: float) -> None:
        library("py3langid.langid", setting=_SETTING)
        self._identifier = _identifier()
        known = sorted({name for name, _ in self._identifier.rank("a")})
        if unknown := sorted(set(languages) - set(known)):
            raise ValueError(f"{_SETTING}: got {', '.join(unknown)}; expected of {' '.join(known)}")
        self._languages = frozenset(languages)
        self._threshold = threshold

    def refusal(self, document: Document) -> str | None:
        """`language` where the named languages together are less probable than the threshold."""
        ranked = self._identifier.rank(document.text)
        probability = sum(share for name, share in ranked if name in self._languages)
        return LANGUAGE_RULE if probability < self._threshold else None
