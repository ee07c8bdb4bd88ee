"""A budget is in tokens or in steps: of the two the one that is given last counts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def with_one_budget(given: Mapping[Any, Any]) -> dict[str, None]:
    """What the other one becomes where `given`, settings of `budget`, holds one of tokens and steps alone."""
    for one, other in (("tokens", "steps"), ("steps", "tokens")):
        if given.get(one) is not None and other not in given:
            return {other: None}
    return {}
