"""English prose that every rule passes, and what is planted among it."""

from __future__ import annotations

from random import Random

from litespark.data.text.document import Document

_ADJECTIVES = (
    "old quiet narrow bright heavy gentle early distant broken careful empty famous golden humble little modern "
    "northern patient rapid silver tender useful wooden young ancient bitter curious"
).split()
_NOUNS = (
    "harbour teacher garden engine letter village window bridge doctor forest market kitchen lantern mountain "
    "notebook orchard painter railway sailor theatre uncle valley workshop captain blanket chimney drawer evening "
    "farmer gallery hospital island journey kettle library machine newspaper officer"
).split()
_VERBS = (
    "carried followed remembered repaired crossed painted welcomed visited measured collected described discovered "
    "guarded ignored joined lifted mentioned noticed opened polished questioned rescued sheltered trusted"
).split()
_PLACES = "behind beside near under beyond around above inside towards across".split()


def sentence(random: Random) -> str:
    """One sentence of about fifteen words."""
    words = [random.choice(kind) for kind in (_ADJECTIVES, _NOUNS, _VERBS, _NOUNS, _PLACES, _ADJECTIVES, _NOUNS)]
    one, noun, verb, other, place, adjective, last = words
    again = f"{random.choice(_NOUNS)} {random.choice(_VERBS)} {random.choice(_ADJECTIVES)} {random.choice(_NOUNS)}s"
    return f"The {one} {noun} {verb} a {other} {place} the {adjective} {last}, and {again} with care."


def prose(seed: int, sentences: int = 30) -> str:
    """A text of paragraphs; another seed is another text."""
    random = Random(seed)
    lines = [" ".join(sentence(random) for _ in range(5)) for _ in range(sentences // 5)]
    return "\n".join(lines)


def document(text: str, place: int = 1) -> Document:
    """The text as a document of a file."""
    return Document(text, "text", "corpus.jsonl", place)
