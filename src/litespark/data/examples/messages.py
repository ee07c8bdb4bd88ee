"""Messages of a conversation as records have them, checked: roles, contents, and the weight of each.

A fault of one example is a `BadExampleError`, which costs that example; a fault of all is a ValueError.
"""

import json
from collections.abc import Sequence
from typing import Any

ROLES = ("system", "user", "assistant", "tool")
ASSISTANT = "assistant"
Message = dict[str, Any]


class BadExampleError(ValueError):
    """One example that cannot be trained on: why, in a word for its count, and what is wrong with it."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


def messages_in(value: Any, column: str) -> list[Message]:
    """The messages of a column, each with a role and text or tool calls."""
    if not isinstance(value, list) or not value:
        raise BadExampleError("no_messages", f"{column}: got {value!r:.80}, expected a list of messages")
    return [_message(entry, column) for entry in value]


def _message(entry: Any, column: str) -> Message:
    if not isinstance(entry, dict):
        raise BadExampleError("no_messages", f"{column}: got {entry!r:.80}, expected messages with role and content")
    message = {key: value for key, value in entry.items() if value is not None}
    if (role := message.get("role")) not in ROLES:
        raise BadExampleError("unknown_role", f"{column}: got role {role!r:.80}, expected {', '.join(ROLES)}")
    content = message.get("content")
    if isinstance(content, list):
        parts = [part.get("text") if isinstance(part, dict) else part for part in content]
        texts = [text for text in parts if isinstance(text, str)]
        content = "".join(texts) if len(texts) == len(parts) else content
    if content is None and message.get("tool_calls"):
        content = ""
    if not isinstance(content, str):
        raise BadExampleError("no_text", f"{column}: got {content!r:.80} as content of {role}, expected text")
    weight = message.get("weight", 1)
    if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 <= weight < float("inf"):
        raise BadExampleError("no_weight", f"{column}: got weight {weight!r:.80}, expected a number of at least 0")
    return message | {"content": content}


def weights_of(messages: list[Message], first: int = 0) -> list[float]:
    """By how much each message is trained: the assistant's from message `first` on, by its own weight where it has."""
    return [
        float(message.get("weight", 1)) if message["role"] == ASSISTANT and number >= first else 0.0
        for number, message in enumerate(messages)
    ]


def shared(first: Sequence[Any], second: Sequence[Any]) -> int:
    """How many items two sequences begin with alike."""
    pairs = enumerate(zip(first, second, strict=False))
    return next((place for place, (a, b) in pairs if a != b), min(len(first), len(second)))


def tools_in(value: Any) -> list[dict[str, Any]] | None:
    """The column `tools`: a list of JSON schemas, or its text; None where there are none."""
    if isinstance(value, str):
        try:
            value = json.loads(value) if value.strip() else None
        except ValueError as error:
            raise BadExampleError("no_tools", f"tools: got text that is no JSON ({error})") from error
    if not value:
        return None
    if not isinstance(value, list) or not all(isinstance(tool, dict) for tool in value):
        raise BadExampleError("no_tools", f"tools: got {value!r:.80}, expected a list of JSON schemas")
    return value
