"""Which split a file is of, from its name and those of its folders; nothing here opens a file.

The usual names are known as folders (`train/`, `split=test/`) and in names of files (`train-00000-of-00001.parquet`,
`c4-validation.00003-of-00008.json.gz`, `wiki.valid.tokens`). A word that stands for a split alone is one. A word beside
others counts where the file holds records, or where another split is named in the same way beside it: a plain text may
be about anything, `night-train.txt` too. What looks like a split and is not used as one is reported.
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
_HUMPS = re.compile(r"(?<=[a-z])(?=[A-Z])")


class _Candidate(NamedTuple):
    """A folder or file whose name has the word of a split."""

    path: str
    """Down to it."""
    split: str
    firm: bool
    """Whether the word means little else."""
    alone: bool
    closes: bool
    """Whether nothing but numbers and qualifiers stands behind the word."""
    opens: bool
    place: str
    """Its path with `*` for the word: equal for other splits beside it."""
    is_file: bool

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
    chosen = {
        name: _chosen([c for c in found if c.counts(files[name], len(splits_at[c.place]) > 1)], files[name])
        for name, found in candidates.items()
    }
    stated = {candidate.split for candidate in chosen.values() if candidate}
    mixed = None in chosen.values()
    # one text about trains among others is no layout
    texts = stated == {TRAIN} and mixed and all(c is None or (c.is_file and not files[n]) for n, c in chosen.items())
    one = len(stated) == 1 and (texts or (one_split_is_meant and not mixed and stated != {TRAIN}))
    split_of = {name: candidate.split if candidate and not one else None for name, candidate in chosen.items()}
    has_train = TRAIN in split_of.values()
    left_out = {name: OF_TEST for name, split in split_of.items() if split == TEST}
    # `evaluation.txt` beside `validation/` is for something else
    validations = {name: c for name, c in chosen.items() if c and split_of[name] == VALIDATION}
    if any(candidate.firm for candidate in validations.values()):
        left_out |= {name: OUTSIDE for name, candidate in validations.items() if not candidate.firm}
    if has_train:
        left_out |= {name: OUTSIDE for name, split in split_of.items() if split is None}
    unused = {
        c.path if c.is_file else f"{c.path}/"
        for name, found in candidates.items()
        for c in found
        if name not in left_out and c.split != split_of[name]
    }
    training = (name for name, split in split_of.items() if split == TRAIN or (split is None and not has_train))
    validation = (name for name in validations if name not in left_out)
    return Layout(tuple(training), tuple(validation), left_out, tuple(sorted(unused)))


def _chosen(counting: list[_Candidate], records: bool) -> _Candidate | None:
    """The outermost, unless records of `train/` are of another split within it, as those of `train/en/test.jsonl`."""
    outermost = counting[0] if counting else None
    if outermost is None or not records or outermost.split == TEST:
        return outermost
    certain = {candidate.split: candidate for candidate in counting if candidate.certain}
    if outermost.split == TRAIN:
        outermost = certain.get(VALIDATION, outermost)
    return certain.get(TEST, outermost)


def _candidates(name: str) -> list[_Candidate]:
    """Outermost first."""
    *folders, file = name.split("/")
    found = [_candidate(folder, "/".join(folders[:place]), folder) for place, folder in enumerate(folders)]
    if not file.lower().endswith(_OF_CODE):
        found.append(_candidate(plain_name(file), "/".join(folders), file, is_file=True))
    return [candidate for candidate in found if candidate]


def _candidate(part: str, above: str, name: str, *, is_file: bool = False) -> _Candidate | None:
    if not is_file and (hive := re.fullmatch(r"split=(.+)", part, re.IGNORECASE)):
        part = hive.group(1)
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
        firm=words[number] in _FIRM,
        alone=len(words) == 1,
        closes=closes,
        opens=number == 0,
        place=f"{above}/{pattern}",
        is_file=is_file,
    )


def _words(part: str) -> list[str]:
    """The words of a name in lower case, without numbers."""
    part = re.sub(r"(held|hold)[-_. ]out", r"\1out", part, flags=re.IGNORECASE)
    parts = [word for token in re.findall(r"[^\W_]+", part) for word in _HUMPS.split(token)]
    words = [part.lower() for part in parts if not _NUMBER.fullmatch(part.lower())]
    return [word.rstrip("0123456789") for word in words]


def _split_of(word: str) -> str | None:
    found = _ATTACHED.fullmatch(word)
    return _WORDS[found.group(1)] if found else None
