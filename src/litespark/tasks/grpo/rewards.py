"""Rewards of completions: functions by name, each with a weight and a time limit; what fails is counted.

P prompts, G completions of each, K rewards.
"""

import ast
import textwrap
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

Columns = Mapping[str, Any]
Reward = Callable[[Sequence[str], Sequence[str], Sequence[Columns]], Sequence[float]]
"""(prompts, completions, the other columns of the prompts' records), as many of each -> a number for each."""


def parses(prompts: Sequence[str], completions: Sequence[str], columns: Sequence[Columns]) -> list[float]:
    """1 for a completion that is Python and says something, else 0."""
    return [float(bool(getattr(_tree(text), "body", None))) for text in completions]


def keeps_signature(prompts: Sequence[str], completions: Sequence[str], columns: Sequence[Columns]) -> list[float]:
    """The share of the `signature` of its record (`def name(arguments):`) that a completion begins with, spaces aside:
    1 for all of it, so that a model which has none yet learns by each letter."""
    wanted = ["".join(str(of["signature"]).split()) for of in columns]
    begins = ["".join(text.split()) for text in completions]
    return [_begins_with(begin, one) / len(one) for begin, one in zip(begins, wanted, strict=True)]


def length(prompts: Sequence[str], completions: Sequence[str], columns: Sequence[Columns]) -> list[float]:
    """1 for an empty completion, 0 for one of a thousand characters or more, and linear between them."""
    return [max(0.0, 1 - len(text) / 1000) for text in completions]


REWARDS: dict[str, Reward] = {"parses": parses, "keeps_signature": keeps_signature, "length": length}
REASONS = ("raised", "hung", "crashed", "not_finite", "wrong_length")
"""Why a group has no reward: its function raised, took longer than its limit, or ended its process; a number that is
none; another number of them than of completions."""


@dataclass(frozen=True)
class Group:
    """A prompt and its completions, as texts without special tokens, with the other columns of its record; and as ids
    of the policy, each completion with what ended it, if it did end."""

    prompt: str
    completions: Sequence[str]
    columns: Columns
    prompt_ids: Sequence[int] = ()
    completion_ids: Sequence[Sequence[int]] = ()
    ended: Sequence[bool] = ()


def _begins_with(text: str, wanted: str) -> int:
    """How many letters of `wanted` the text begins with."""
    return sum(takewhile(bool, (one == other for one, other in zip(text, wanted, strict=False))))


OwnReward = Callable[[Group], Sequence[float]]
"""A reward that is called in the process of the run, such as a reward model: a number for each completion."""


def _tree(text: str) -> ast.Module | None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd escapes and numbers in what is read
            return ast.parse(textwrap.dedent(text))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
