"""Settings of examples of post-training, one flat group."""

from typing import Literal

from litespark.config.settings import BY_CONTENT, Switch, settings
from litespark.data.config import SourceConfig
from litespark.ranges import Count

Format = Literal["conversations", "pairs", "rated", "prompts"]
EXAMPLES = {"conversations": "conversation", "pairs": "pair", "rated": "completion", "prompts": "completion"}
"""What is learnt from: of prompts the completions that are sampled."""


@settings("data", kw_only=True, resume=BY_CONTENT)
class ExamplesConfig(SourceConfig):
    """Which records become which examples, and where they are written."""

    format: Format = "conversations"
    """What the task needs. `conversations`: `messages`, or `prompt` and `completion`. `pairs`: `chosen` and `rejected`,
    with or without `prompt`. `rated`: `completion` and `label`, with or without `prompt`. `prompts`: `prompt`, and what
    rewards read."""
    chat_template: str | None = None
    """How messages become text: `chatml`, `llama3`, `plain`, or a file of Jinja; None: as the tokenizer states, and
    `prompt` and `completion` that are text are taken as they are."""
    max_prompt_length: Count | None = None
    """Longer prompts lose their beginning; None: none does. Completions are never cut."""

    share_prompts: Switch = False
    """Compute what the sequences of a pair, or of a group of task=grpo, have in common once, with the rest of each
    behind it, which does not see the others; ops.attention is `reference`, `sdpa`, `cpu` or `flex` then."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.document_mask:
            raise ValueError(
                "data.document_mask=false, expected true: examples in one sequence never see each other. Take it out"
            )
