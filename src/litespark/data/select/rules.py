"""The rules that look at one document alone: each gives the name under which it refuses a document, or None."""

import hashlib
from collections.abc import Iterable
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from litespark.data.libraries import library
from litespark.data.select.words import normalized_words
from litespark.data.text.document import Document

# the module of each quality rule and its class in it
_FILTERS = {
    "gopher_repetition": ("gopher_repetition_filter", "GopherRepetitionFilter"),
    "gopher_quality": ("gopher_quality_filter", "GopherQualityFilter"),
    "c4": ("c4_filters", "C4QualityFilter"),
    "fineweb": ("fineweb_quality_filter", "FineWebQualityFilter"),
}
_QUALITY = "data.selection.quality"
_LANGUAGES = "data.selection.languages"
_DECONTAMINATE = "data.selection.decontaminate"


class QualityRule:
    """A quality rule with datatrove's own thresholds, as a yes or no to a whole document: `RULE/REASON`.

    C4's takes lines out of a document before it counts sentences. Here it only decides, so that what is trained on is
    text that somebody wrote. Nearly all of the time goes into spaCy's words, about a megabyte a second on one core.
    """

    def __init__(self, name: str) -> None:
        library("spacy", setting=_QUALITY)
        module, filter_class = _FILTERS[name]
        self.name = name
        self._filter: Any = getattr(library(f"datatrove.pipeline.filters.{module}", setting=_QUALITY), filter_class)()
        self._document: Any = library("datatrove.data", setting=_QUALITY).Document

    def refusal(self, document: Document) -> str | None:
        """Raises the ValueError, with the document's place, where the library fails on it."""
        # a copy: C4's filter writes what it would keep into the document that it is given
        copy = self._document(text=document.text, id="")
        try:
            answer = self._filter.filter(copy)
        except Exception as error:
            raise ValueError(
                f"{document.file}, record {document.place}: datatrove's {self.name} fails on it ({error!r}), expected "
                f"a yes or a no; leave the document out, or take {self.name} from {_QUALITY}"
            ) from error
        passes, reason = answer if isinstance(answer, tuple) else (answer, "refused")
        return None if passes else f"{self.name}/{str(reason).removeprefix('gopher_')}"


class LanguageRule:
    """`language`: together the named languages are less probable than the threshold, by py3langid's table."""

    def __init__(self, languages: tuple[str, ...], threshold: float) -> None:
        self._identifier = _language_identifier()
        known = sorted({name for name, _ in self._identifier.rank("a")})
        if unknown := sorted(set(languages) - set(known)):
            raise ValueError(f"{_LANGUAGES}: got {', '.join(unknown)}; expected of {' '.join(known)}")
        self._languages = frozenset(languages)
        self._threshold = threshold

    def refusal(self, document: Document) -> str | None:
        ranked = self._identifier.rank(document.text)
        probability = sum(share for name, share in ranked if name in self._languages)
        return "language" if probability < self._threshold else None


@cache
def _language_identifier() -> Any:
    """One for the process: its table takes a quarter of a second to read, and it is never changed."""
    langid = library("py3langid.langid", setting=_LANGUAGES)
    return langid.LanguageIdentifier.from_model_file(langid.MODEL_FILE, norm_probs=True)


class DecontaminationRule:
    """`contaminated`: the document shares a run of words with an evaluation text.

    The method of GPT-3 (Brown et al. 2020, appendix C) as datatrove has it: both sides are normalized, every run of so
    many words is hashed to 64 bits, and one run in common is enough. Memory: 8 bytes a word of evaluation text.
    """

    def __init__(self, texts: Iterable[str], words: int) -> None:
        self._words = words
        runs = [hashes for text in texts if len(hashes := self._runs(text))]
        if not runs:
            raise ValueError(
                f"{_DECONTAMINATE}: got no text of {words} words or more, expected one at least; give other texts, or "
                "lower data.selection.decontaminate_words"
            )
        self._known = np.unique(np.concatenate(runs))

    def refusal(self, document: Document) -> str | None:
        runs = self._runs(document.text)
        places = np.searchsorted(self._known, runs).clip(max=len(self._known) - 1)
        return "contaminated" if bool((self._known[places] == runs).any()) else None

    def _runs(self, text: str) -> NDArray[np.uint64]:
        words = normalized_words(text, numbers=False, setting=_DECONTAMINATE)
        count = max(len(words) - self._words + 1, 0)
        joined = (" ".join(words[start : start + self._words]) for start in range(count))
        digests = b"".join(hashlib.blake2b(run.encode(), digest_size=8).digest() for run in joined)
        return np.frombuffer(digests, dtype="<u8").astype(np.uint64)
