"""Prose out of Python sources: the sentences in docstrings, which every machine has by the megabyte."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator

# to parse the sources would take a hundred times as long, and what is no docstring is hardly ever a sentence
_DOCSTRING = re.compile(r'"""(.+?)"""', re.DOTALL)
_EMPTY_LINE = re.compile(r"\n\s*\n")
_FEWEST_WORDS = 12
_SENTENCES = re.compile(r"[A-Z].*[.!?]", re.DOTALL)
_WORD = re.compile(r"[A-Za-z][A-Za-z'’-]*[.,;:!?]?")
# of the words; code, tables and formulas hold fewer
_LEAST_SHARE_OF_WORDS = 0.8
# beside the words: names in quotes and references have more of it than sentences
_MOST_MARKS = 0.2


def prose(source: str) -> str:
    """The paragraphs of a module's docstrings that are sentences, each once and on one line.

    Not parameters, tables, formulas and examples: what is left is text as web pages have it.
    """
    found = (paragraph for text in _DOCSTRING.findall(source) for paragraph in _paragraphs(text))
    return "\n".join(dict.fromkeys(found))


def _paragraphs(docstring: str) -> Iterator[str]:
    for paragraph in _EMPTY_LINE.split(inspect.cleandoc(docstring)):
        if any(line.startswith((" ", "\t")) for line in paragraph.splitlines()):  # of a section, or an example
            continue
        words = paragraph.split()
        joined = " ".join(words)
        if len(words) < _FEWEST_WORDS or not _SENTENCES.fullmatch(joined):
            continue
        plain = sum(_WORD.fullmatch(word) is not None for word in words)
        marks = sum(not (letter.isalnum() or letter.isspace()) for letter in joined)
        if plain >= _LEAST_SHARE_OF_WORDS * len(words) and marks <= _MOST_MARKS * len(words):
            yield joined
