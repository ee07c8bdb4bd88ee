"""Settings of data selection: which rules a training document must pass. None of them is on by default."""

from typing import Annotated, Literal, get_args

from pydantic import Field, StringConstraints

from litespark.config.settings import BY_CONTENT, Switch, settings
from litespark.ranges import InnerShare, Range

QualityRule = Literal["gopher_repetition", "gopher_quality", "c4", "fineweb"]
QUALITY_RULES: tuple[QualityRule, ...] = get_args(QualityRule)
SomeText = Annotated[str, StringConstraints(min_length=1)]
Words = Annotated[int, Range(at_least=1, at_most=1000)]


@settings("data.selection", kw_only=True, resume=BY_CONTENT)
class SelectionConfig:
    """Which training documents are left out; validation text never is: it would no longer be comparable.

    A document is dropped under the first rule, in the order of these settings, that refuses it.
    """

    quality: Annotated[tuple[QualityRule, ...], Field(examples=["[c4]"])] = ()
    """The heuristics of Gopher (Rae et al. 2021), C4 (Raffel et al. 2020) and FineWeb (Penedo et al.
    2024) as datatrove has them: made for English web pages; C4's leaves out nearly all code."""
    languages: Annotated[tuple[SomeText, ...], Field(examples=["[en]"])] = ()
    """ISO 639-1 codes; a document in none of them goes. Empty: all."""
    language_threshold: InnerShare = 0.65
    """Probability that the named languages must have together."""
    decontaminate: Annotated[tuple[SomeText, ...], Field(examples=["[FILE]"])] = ()
    """Files or folders of evaluation text; a document that shares a run of words with one goes."""
    decontaminate_words: Words = 13
    """Length of that run."""
    exact_duplicates: Switch = False
    """Keep only the first of documents with the same text."""
    near_duplicates: Switch = False
    """Keep only the first of documents that MinHash takes for equal (Broder 1997)."""
    near_duplicate_threshold: InnerShare = 0.8
    """Jaccard similarity of their word shingles around which documents begin to be taken for equal; it is a
    probability that rises there, see `duplicates`."""
    near_duplicate_words: Words = 5
    """Words of a shingle."""
    near_duplicate_permutations: Annotated[
        int, Range(at_least=2, at_most=4096, why="datasketch divides a signature into bands")
    ] = 128
    """Hash functions of a signature."""
    count_dropped_tokens: Switch = True
    """Tokenize also what is left out, so that it is known how many tokens went."""

    @property
    def compares_documents(self) -> bool:
        """Whether a document's fate depends on the others, which takes one more pass over the text."""
        return self.exact_duplicates or self.near_duplicates

    @property
    def any(self) -> bool:
        return bool(self.quality or self.languages or self.decontaminate or self.compares_documents)
