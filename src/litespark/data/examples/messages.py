"""Messages of a conversation as records have them, checked: roles, contents, and the weight of each.

A fault of one example is a `BadExampleError`, which costs that example; a fault of all is a ValueError.
"""

import json
from collections.abc import Sequence
from typing import Any

ROLES = ("system", "user", "assistant", "tool")
ASSISTANT = "assistant"
_SHARE_ROLES = {"human": "user", "gpt": "assistant", "observation": "tool"}
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
    message = _stated(entry)
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
    if calls := message.get("tool_calls"):
        message["tool_calls"] = [_with_arguments(call) for call in calls] if isinstance(calls, list) else calls
    return message | {"content": content}


def _stated(value: Any) -> Any:
    """Without the entries that are null: a table gives each record the names that any record has."""
    if isinstance(value, dict):
        return {key: _stated(entry) for key, entry in value.items() if entry is not None}
    return [_stated(entry) for entry in value] if isinstance(value, list) else value


def _with_arguments(call: Any) -> Any:
    """A call whose arguments are an object, as templates expect them; an API of chats has its JSON."""
    function = call.get("function", call) if isinstance(call, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("arguments"), str):
        return call
    try:
        arguments = json.loads(function["arguments"])
    except ValueError:
        return call
    function = function | ({"arguments": arguments} if isinstance(arguments, dict) else {})
    return call | {"function": function} if "function" in call else function


def with_text_arguments(message: Message) -> Message:
    """A message whose calls have their arguments as JSON, for a template that writes them as they are."""
    calls = []
    for call in message.get("tool_calls") or []:
        function = call.get("function", call)
        text = json.dumps(function.get("arguments"), ensure_ascii=False)
        calls.append(
            call | ({"function": function | {"arguments": text}} if "function" in call else {"arguments": text})
        )
    return message | {"tool_calls": calls} if calls else message


def standard(record: dict[str, Any]) -> dict[str, Any]:
    """A record whose `conversations` of `from` and `value`, as ShareGPT has them, are `messages`."""
    talk = record.get("conversations")
    if record.get("messages") is not None or not isinstance(talk, list):
        return record
    messages = [_of_share(entry) for entry in talk]
    if isinstance(system := record.get("system"), str) and system.strip():
        messages = [{"role": "system", "content": system}, *messages]
    return {key: value for key, value in record.items() if key != "conversations"} | {"messages": messages}


def _of_share(entry: Any) -> Any:
    if not isinstance(entry, dict) or not {"from", "value"} <= entry.keys():
        return entry
    known = {key: value for key, value in entry.items() if key not in ("from", "value")}
    return {"role": _SHARE_ROLES.get(entry["from"], entry["from"]), "content": entry["value"]} | known


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
    return [_stated(tool) for tool in value]
