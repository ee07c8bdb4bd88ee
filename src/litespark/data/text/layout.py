"""Which split a file is of, from its name and those of its folders; nothing here opens a file.

A word that stands for a split alone (`train/`, `wiki.valid.tokens`) is one. A word beside others counts where the file
holds records, or where another split is named in the same way beside it: a plain text may be about anything,
`night-train.txt` too. What looks like a split and is not used as one is reported.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping
from itertools import chain
from typing import NamedTuple

from litespark.data.text.files import plain_name
from litespark.data.text.splits import TRAIN, VALIDATION

TEST = "test"
OUTSIDE = "outside the splits of the source"
OF_TEST = "a test split, never used for training"
# these mean little else
_FIRM = {"train": TRAIN, "val": VALIDATION, "valid": VALIDATION, "validation": VALIDATION, "test": TEST}
_WORDS = {
    **_FIRM,
    **dict.fromkeys("training trn".split(), TRAIN),
    **dict.fromkeys("dev devel development eval evaluation validate holdout heldout".split(), VALIDATION),
    **dict.fromkeys("testing tests tst devtest testdev".split(), TEST),
}
_ATTACHED = re.compile(rf"({'|'.join(sorted(_WORDS, key=len, reverse=True))})(?:data|sets?|splits?)?")
# that may stand behind the word without making it another
_QUALIFIERS = frozenset(
    "data dataset set sets split corpus text texts docs documents examples samples sample sft gen prefs raw clean full "
    "small large final filtered dedup deduplicated shuffled tokens matched mismatched seen unseen partial v "
    "tfrecord tfrecords json jsonl csv tsv txt parquet".split()
)
# `train.py` beside `test.py` is a program
_OF_CODE = tuple(f".{suffix}" for suffix in "py md rst c h cc cs js ts go rs rb sh hs ml pl jl".split())
_NUMBER = re.compile(r"\d+|of|part|shard|chunk|file|v\d+|[0-9a-f]{8,}")


class _Candidate(NamedTuple):
    """A folder or file whose name has the word of a split."""

    path: str
    """Down to it; a folder's ends in `/`."""
    split: str
    place: str
    """Its path with `*` for the word: equal for other splits beside it."""
    firm: bool
    """Whether the word means little else."""
    alone: bool
    closes: bool
    """Whether nothing but numbers and qualifiers stands behind the word."""
    opens: bool

    @property
    def certain(self) -> bool:
        return self.alone and self.firm

    def counts(self, records: bool, paired: bool) -> bool:
        likely = self.closes or (self.opens and self.firm)
        return self.certain or (records and likely) or (paired and (records or self.firm or self.closes))


class Layout(NamedTuple):
    """Names by what becomes of them."""

    training: tuple[str, ...]
    validation: tuple[str, ...]
    left_out: dict[str, str]
    """Reason by name."""
    taken_anyway: tuple[str, ...]
    """Folders and files that look like a split and are not used as one."""


def lay_out(files: Mapping[str, bool], *, one_split_is_meant: bool = False) -> Layout:
    """Deal files out to the splits that their names state.

    Args:
        files: by name below the source, whether it holds records.
        one_split_is_meant: files that are all of one split were asked for by name, and are all trained on.
    """
    candidates = {name: _candidates(name) for name in files}
    splits_at: dict[str, set[str]] = defaultdict(set)
    for candidate in chain.from_iterable(candidates.values()):
        splits_at[candidate.place].add(candidate.split)
    split_of = {
        name: _chosen([c for c in found if c.counts(files[name], len(splits_at[c.place]) > 1)], files[name])
        for name, found in candidates.items()
    }
    if one_split_is_meant and len(stated := set(split_of.values())) == 1 and TRAIN not in stated:
        split_of = dict.fromkeys(files)
    has_train = TRAIN in split_of.values()
    left_out = {name: OF_TEST for name, split in split_of.items() if split == TEST}
    left_out |= {name: OUTSIDE for name, split in split_of.items() if split is None and has_train}
    unused = {
        c.path
        for name, found in candidates.items()
        for c in found
        if name not in left_out and c.split != split_of[name]
    }
    training = (name for name, split in split_of.items() if name not in left_out and split != VALIDATION)
    validation = (name for name, split in split_of.items() if split == VALIDATION)
    return Layout(tuple(training), tuple(validation), left_out, tuple(sorted(unused)))


def _chosen(counting: list[_Candidate], records: bool) -> str | None:
    """The outermost, unless records of `train/` are of another split within it, as those of `train/en/test.jsonl`."""
    if not counting:
        return None
    outermost = counting[0].split
    certain = {candidate.split for candidate in counting if candidate.certain} if records else set()
    if TEST in (outermost, *certain):
        return TEST
    return VALIDATION if VALIDATION in certain else outermost


def _candidates(name: str) -> list[_Candidate]:
    *folders, file = name.split("/")
    found = [_candidate(folder, "/".join(folders[:place]), f"{folder}/") for place, folder in enumerate(folders)]
    if not file.lower().endswith(_OF_CODE):
        found.append(_candidate(plain_name(file), "/".join(folders), file))
    return [candidate for candidate in found if candidate]


def _candidate(part: str, above: str, name: str) -> _Candidate | None:
    words = _words(part)
    splits = [_split_of(word) for word in words]
    places = [number for number, split in enumerate(splits) if split]
    if not places:
        return None
    number = places[-1]
    closes = all(word in _QUALIFIERS or len(word) <= 2 for word in words[number + 1 :])
    if not closes and splits[0]:
        number = 0
    pattern = " ".join("*" if place == number else word for place, word in enumerate(words))
    return _Candidate(
        f"{above}/{name}".lstrip("/"),
        splits[number] or "",
        f"{above}/{pattern}",
        firm=words[number] in _FIRM,
        alone=len(words) == 1,
        closes=closes,
        opens=number == 0,
    )


def _words(part: str) -> list[str]:
    """The words of a name in lower case, without numbers."""
    part = re.sub(r"(held|hold)[-_. ]out", r"\1out", part.lower())
    words = (word for word in re.findall(r"[^\W_]+", part) if not _NUMBER.fullmatch(word))
    return [word.rstrip("0123456789") for word in words]


def _split_of(word: str) -> str | None:
    found = _ATTACHED.fullmatch(word)
    return _WORDS[found.group(1)] if found else None
