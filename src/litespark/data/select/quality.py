"""The quality rules of Gopher, C4 and FineWeb, as datatrove has them, each as a yes or no to a whole document.

They were made for English web pages: their word lists are English, and C4 refuses whatever holds a curly bracket, so
that code seldom passes. Nearly all of their time goes into spaCy's words, about a megabyte a second on one core.
"""

from __future__ import annotations

from typing import Any

from litespark.data.libraries import library
from litespark.data.text.document import Document

_SETTING = "data.selection.quality"
# the module of each rule and its class in it
_FILTERS = {
    "gopher_repetition": ("gopher_repetition_filter", "GopherRepetitionFilter"),
    "gopher_quality": ("gopher_quality_filter", "GopherQualityFilter"),
    "c4": ("c4_filters", "C4QualityFilter"),
    "fineweb": ("fineweb_quality_filter", "FineWebQualityFilter"),
}


class QualityRule:
    """One of QUALITY_RULES with datatrove's own thresholds.

    C4's rule takes lines out of a document before it counts sentences. Here it only decides: a document of which at
    least five sentences would be left stays as it is, with all of its lines, so that what is trained on is text that
    somebody wrote.
    """

    def __init__(self, name: str) -> None:
        library("spacy", setting=_SETTING)
        module, filter_class = _FILTERS[name]
        self.name = name
        self._filter: Any = getattr(library(f"datatrove.pipeline.filters.{module}", setting=_SETTING), filter_class)()
        self._document: Any = library("datatrove.data", setting=_SETTING).Document

    def refusal(self, document: Document) -> str | None:
        """`RULE/REASON` with datatrove's word for the reason, or None where the document passes.

        Raises:
            ValueError: the library fails on this document; names its place.
        """
        # a copy: C4's filter writes what it would keep into the document that it is given
        copy = self._document(text=document.text, id="")
        try:
            answer = self._filter.filter(copy)
        except Exception as error:
            raise ValueError(
                f"{document.file}, record {document.place}: datatrove's {self.name} fails on it ({error!r}), expected "
                f"a yes or a no; leave the document out, or take {self.name} from {_SETTING}"
            ) from error
        passes, reason = answer if isinstance(answer, tuple) else (answer, "refused")
        return None if passes else f"{self.name}/{str(reason).removeprefix('gopher_')}"
