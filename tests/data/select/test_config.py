"""Settings of selection that cannot be meant are refused, and the config group makes what it says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from litespark.data.select.config import QUALITY_RULES, SelectionConfig

_GROUP = Path(__file__).parents[3] / "configs" / "data" / "selection"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"quality": "c4"}, "data.selection.quality: got 'c4', expected a list"),
        ({"quality": ("c4", "good")}, r"data.selection.quality\[1\]: got 'good', expected gopher_repetition, "),
        ({"decontaminate": ("",)}, r"data.selection.decontaminate\[0\]: got '', expected a text that is not empty"),
        ({"decontaminate_words": 0}, "selection.decontaminate_words: got 0, expected a whole number from 1 to 1000"),
        ({"near_duplicate_permutations": 1}, "near_duplicate_permutations: got 1, expected a whole number from 2"),
        ({"language_threshold": 1}, "data.selection.language_threshold: got 1, expected a number above 0 and below 1"),
    ],
)
def test_what_cannot_be_meant_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SelectionConfig(**settings)


def test_none_is_the_default_and_web_is_what_it_says() -> None:
    none = OmegaConf.load(_GROUP / "none.yaml")
    web = OmegaConf.load(_GROUP / "web.yaml")
    assert SelectionConfig(**none) == SelectionConfig()
    del web["defaults"]
    assert SelectionConfig(**OmegaConf.to_container(OmegaConf.merge(none, web))) == SelectionConfig(
        quality=QUALITY_RULES, languages=("en",), exact_duplicates=True, near_duplicates=True
    )
