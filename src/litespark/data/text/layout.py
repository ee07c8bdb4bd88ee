"""Which split a file is of, from its name and those of its folders; nothing here opens a file.

The usual names are known as folders (`train/`, `split=test/`) and in names of files (`train-00000-of-00001.parquet`,
`c4-validation.00003-of-00008.json.gz`, `wiki.valid.tokens`). A word that stands for a split alone is one. A word beside
others counts where the file holds records, or where another split is named in the same way beside it: a plain text may
be about anything, `night-train.txt` too. What looks like a split and is not used as one is reported.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from litespark.data.text.files import plain_name
from litespark.data.text.splits import TRAIN, VALIDATION

TEST = "test"
OUTSIDE = "outside the splits of the source"
OF_TEST = "a test split, never used for training"
_FIRM = {"train": TRAIN, "val": VALIDATION, "valid": VALIDATION, "validation": VALIDATION, "test": TEST}
_SOFT = {
    **dict.fromkeys(("training", "trn"), TRAIN),
    **dict.fromkeys(
        ("dev", "devel", "development", "eval", "evaluation", "validate", "holdout", "heldout"), VALIDATION
    ),
    **dict.fromkeys(("testing", "tests", "tst", "devtest", "testdev"), TEST),
}
_WORDS = _FIRM | _SOFT
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
    kind: str
    """`alone`, `last` (others before it), `first` (others behind it), or `within`."""
    firm: bool
    """Whether the word means little else."""
    place: str
    """Its path with `*` for the word: equal for other splits beside it."""
    is_file: bool


@dataclass(frozen=True)
class Layout:
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
    candidates = {name: list(_candidates(name)) for name in files}
    splits_at: dict[str, set[str]] = {}
    for group in candidates.values():
        for candidate in group:
            splits_at.setdefault(candidate.place, set()).add(candidate.split)
    chosen = {
        name: _chosen([c for c in group if _counts(c, files[name], splits_at[c.place])], files[name])
        for name, group in candidates.items()
    }
    stated = {candidate.split for candidate in chosen.values() if candidate is not None}
    mixed = None in chosen.values()
    alone = len(stated) == 1 and (
        # one text about trains among others is no layout
        (stated == {TRAIN} and mixed and all(c is None or (c.is_file and not files[n]) for n, c in chosen.items()))
        or (one_split_is_meant and not mixed and stated != {TRAIN})
    )
    split_of = {name: None if candidate is None or alone else candidate.split for name, candidate in chosen.items()}
    has_train = TRAIN in split_of.values()
    left_out = {name: OF_TEST for name, split in split_of.items() if split == TEST}
    # `evaluation.txt` beside `validation/` is for something else
    validations = {name: chosen[name] for name, split in split_of.items() if split == VALIDATION}
    if any(candidate is not None and candidate.firm for candidate in validations.values()):
        others = [name for name, candidate in validations.items() if candidate is not None and not candidate.firm]
        left_out |= dict.fromkeys(others, OUTSIDE)
    if has_train:
        left_out |= {name: OUTSIDE for name, split in split_of.items() if split is None}
    return Layout(
        training=tuple(name for name, split in split_of.items() if split == TRAIN or (split is None and not has_train)),
        validation=tuple(name for name in validations if name not in left_out),
        left_out=left_out,
        taken_anyway=tuple(
            sorted(
                {
                    c.path if c.is_file else f"{c.path}/"
                    for name, group in candidates.items()
                    for c in group
                    if name not in left_out and c.split != split_of[name]
                }
            )
        ),
    )


def _chosen(counting: list[_Candidate], records: bool) -> _Candidate | None:
    """The outermost, unless records of `train/` are of another split within it, as those of `train/en/test.jsonl`."""
    outermost = counting[0] if counting else None
    if outermost is None or not records or outermost.split == TEST:
        return outermost
    alone = {candidate.split: candidate for candidate in counting if candidate.kind == "alone" and candidate.firm}
    if outermost.split == TRAIN and VALIDATION in alone:
        outermost = alone[VALIDATION]
    return alone.get(TEST, outermost)


def _counts(candidate: _Candidate, records: bool, beside: set[str]) -> bool:
    if candidate.kind == "alone" and candidate.firm:
        return True
    paired = len(beside) > 1
    if candidate.kind in ("alone", "last"):
        return records or paired
    if candidate.kind == "first" and records and candidate.firm:
        return True
    return paired and (records or candidate.firm)


def _candidates(name: str) -> list[_Candidate]:
    """Outermost first."""
    *folders, file = name.split("/")
    candidates = []
    above = ""
    for place, part in enumerate([*folders, plain_name(file)]):
        is_file = place == len(folders)
        if is_file and file.lower().endswith(_OF_CODE):
            continue
        path = f"{above}{file if is_file else part}"
        if (candidate := _candidate(part, path, above, is_file)) is not None:
            candidates.append(candidate)
        above += f"{part}/"
    return candidates


def _candidate(part: str, path: str, above: str, is_file: bool) -> _Candidate | None:
    if not is_file and (hive := re.fullmatch(r"split=(.+)", part, re.IGNORECASE)):
        part = hive.group(1)
    words = _words(part)
    splits = [_split_of(word) for word in words]
    places = [number for number, split in enumerate(splits) if split]
    if not places:
        return None
    last = places[-1]
    closes = all(word in _QUALIFIERS or len(word) <= 2 for word in words[last + 1 :])
    if closes:
        number, kind = last, "alone" if len(words) == 1 else "last"
    else:
        number, kind = (0, "first") if splits[0] else (last, "within")
    split = splits[number]
    assert split is not None
    pattern = " ".join("*" if place == number else word for place, word in enumerate(words))
    return _Candidate(path, split, kind, words[number] in _FIRM, f"{above}{pattern}", is_file)


def _words(part: str) -> list[str]:
    """The words of a name in lower case, without numbers."""
    part = re.sub(r"(held|hold)[-_. ]out", r"\1out", part, flags=re.IGNORECASE)
    parts = [word for token in re.findall(r"[^\W_]+", part) for word in _HUMPS.split(token)]
    words = [part.lower() for part in parts if not _NUMBER.fullmatch(part.lower())]
    return [word.rstrip("0123456789") for word in words]


def _split_of(word: str) -> str | None:
    match = _ATTACHED.fullmatch(word)
    return _WORDS[match.group(1)] if match else None
