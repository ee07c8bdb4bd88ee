"""Records to examples: which columns a format takes, and how prompts and completions become ids and weights."""

import json
import math
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from litespark.data.examples.chat import ChatTemplate
from litespark.data.examples.config import ExamplesConfig
from litespark.data.examples.example import Example, prompt_length
from litespark.data.examples.messages import (
    ASSISTANT,
    BadExampleError,
    Message,
    messages_in,
    shared,
    tools_in,
    weights_of,
)
from litespark.data.examples.rows import places_of
from litespark.data.examples.templates import template_of
from litespark.data.tokenizer import Tokenizer

TOO_LONG = "too_long"
EXPECTED = {
    "conversations": "messages, or prompt and completion",
    "pairs": "chosen and rejected, with or without prompt",
    "rated": "completion and label, with or without prompt",
    "prompts": "prompt, or messages",
}
MARGIN, DESIRABLE = "margin", "desirable"
Record = dict[str, Any]
Sequence = tuple[NDArray[np.int32], NDArray[np.float32]]


class ExampleEncoder:
    """Makes examples of records, as `config.format` has them.

    BadExampleError: of one record; of one that is longer than `config.seq_len` with the reason `TOO_LONG`.
    ValueError: of all, see `ChatTemplate`.
    """

    def __init__(self, config: ExamplesConfig, tokenizer: Tokenizer) -> None:
        self.config = config
        self.tokenizer = tokenizer
        self.wraps_text = config.chat_template is not None
        if config.chat_template is not None:
            tokenizer.chat_template = template_of(config.chat_template)
        self._chat: ChatTemplate | None = None

    @property
    def chat(self) -> ChatTemplate:
        if self._chat is None:
            source = self.tokenizer.chat_template
            if source is None:
                raise ValueError(
                    "data.chat_template: got null and a tokenizer without a template, expected one, since the examples "
                    "are conversations; name one of a model that was trained on them, or data.chat_template=plain"
                )
            self._chat = ChatTemplate(source, self.tokenizer, self.config.chat_template or "the tokenizer's")
        return self._chat

    def example(self, record: Record) -> Example:
        make = {
            "conversations": self._conversation,
            "pairs": self._pair,
            "rated": self._rated,
            "prompts": self._prompt,
        }[self.config.format]
        sequences, about = make(record)
        if len(sequences) == 2 and np.array_equal(sequences[0][0], sequences[1][0]):  # by its template, if not before
            raise _equal()
        sequences = [self._shortened(sequence) for sequence in sequences]
        inputs = places_of([ids.size for ids, _ in sequences])
        if self.config.format == "rated":  # which gets a second sequence of its prompt and one id at least
            inputs += 2 + prompt_length(sequences[0][1])
        if inputs > self.config.seq_len:
            raise BadExampleError(TOO_LONG, f"{inputs} inputs, data.seq_len={self.config.seq_len} has no room for them")
        ids, weights = zip(*sequences, strict=True)
        return Example(ids, weights, about)

    def _conversation(self, record: Record) -> tuple[list[Sequence], Record]:
        if _has(record, "messages"):
            messages = messages_in(record["messages"], "messages")
            _require_answers(messages, 0)
            return [self.chat.conversation(messages, tools_in(record.get("tools")), weights_of(messages))], {}
        prompt, completion = _column(record, "prompt", "conversations"), _column(record, "completion", "conversations")
        return [self._answered(prompt, completion, record, needs_prompt=False)], {}

    def _pair(self, record: Record) -> tuple[list[Sequence], Record]:
        chosen, rejected = _column(record, "chosen", "pairs"), _column(record, "rejected", "pairs")
        if chosen == rejected:
            raise _equal()
        about: Record = {}
        if (margin := record.get(MARGIN)) is not None:
            if isinstance(margin, bool) or not isinstance(margin, int | float) or not math.isfinite(margin):
                raise BadExampleError("no_margin", f"margin: got {margin!r:.80}, expected a finite number")
            about[MARGIN] = float(margin)
        if isinstance(chosen, list) != isinstance(rejected, list):
            raise BadExampleError("no_messages", "chosen and rejected: got text and messages, expected two of a kind")
        prompt = record.get("prompt")
        if isinstance(chosen, list) and (prompt is None or _role(chosen) != ASSISTANT):
            prompt, chosen, rejected = _shared_messages(chosen, rejected)
        if prompt is None:
            return self._shared_text(str(chosen), str(rejected)), about
        return [self._answered(prompt, answer, record) for answer in (chosen, rejected)], about

    def _rated(self, record: Record) -> tuple[list[Sequence], Record]:
        label = _column(record, "label", "rated")
        if label not in (0, 1):  # true and false are
            raise BadExampleError("no_label", f"label: got {label!r:.80}, expected true or false")
        completion = _column(record, "completion", "rated")
        prompt = record.get("prompt")
        if prompt is None and isinstance(completion, list):
            prompt, completion = completion[:-1], completion[-1:]
        return [self._answered(prompt, completion, record)], {DESIRABLE: float(label)}

    def _prompt(self, record: Record) -> tuple[list[Sequence], Record]:
        column = "prompt" if _has(record, "prompt") else "messages"
        prompt = _column(record, column, "prompts")
        about = {name: value for name, value in record.items() if name not in (column, "tools") and value is not None}
        ids = self._prompt_ids(prompt, record)
        return [(ids, np.zeros(ids.size, dtype=np.float32))], about

    def _prompt_ids(self, prompt: Any, record: Record) -> NDArray[np.int32]:
        _require_prompt(prompt)
        if isinstance(prompt, list):
            return self.chat.prompt(messages_in(prompt, "prompt"), tools_in(record.get("tools")))
        if self.wraps_text:
            return self.chat.prompt([{"role": "user", "content": _text(prompt, "prompt")}], None)
        return np.array(self._text_ids(_text(prompt, "prompt")), dtype=np.int32)

    def _answered(self, prompt: Any, completion: Any, record: Record, *, needs_prompt: bool = True) -> Sequence:
        """A prompt and its completion, of which the completion is trained; text or messages each."""
        if needs_prompt:
            _require_prompt(prompt)
        if isinstance(prompt, list) or isinstance(completion, list) or self.wraps_text:
            asked = _as_messages(prompt, "user", "prompt") if prompt else []
            answer = _as_messages(completion, ASSISTANT, "completion")
            messages = asked + answer
            _require_answers(messages, len(asked))
            return self.chat.conversation(messages, tools_in(record.get("tools")), weights_of(messages, len(asked)))
        answer_text = _text(completion, "completion")
        _require_text(answer_text)
        before = self._text_ids(_text(prompt or "", "prompt"))
        behind = [*self._encoded(answer_text), self.tokenizer.eos_id]
        return _weighted([*before, *behind], len(before))

    def _shared_text(self, chosen: str, rejected: str) -> list[Sequence]:
        """Two whole texts, whose prompt is what their ids begin with alike."""
        first, second = ([*self._text_ids(text), self.tokenizer.eos_id] for text in (chosen, rejected))
        same = shared(first, second)
        if same <= len(self.tokenizer.begin_ids):
            raise BadExampleError("empty_prompt", "chosen and rejected: got no prompt that they share, expected one")
        return [_weighted(ids, same) for ids in (first, second)]

    def _text_ids(self, text: str) -> list[int]:
        return [*self.tokenizer.begin_ids, *self._encoded(text)]

    def _encoded(self, text: str) -> list[int]:
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise BadExampleError("lone_surrogate", f"{text!r:.80}: got half a character, expected UTF-8") from error
        (ids,) = self.tokenizer.encode_parts([text])
        if self.tokenizer.eos_id in ids:
            raise BadExampleError("special_token", "a text holds what becomes EOS, which the end alone may have")
        return ids

    def _shortened(self, sequence: Sequence) -> Sequence:
        """Without the beginning of a prompt that is too long; what begins a document stays."""
        ids, weights = sequence
        if ids.size < 2:
            raise BadExampleError("empty_prompt", "got a prompt of one token, expected two at least")
        most, prompt = self.config.max_prompt_length, prompt_length(weights)
        if most is None or prompt <= most:
            return sequence
        begin = self.tokenizer.begin_ids
        kept = len(begin) if most > len(begin) and ids[: len(begin)].tolist() == begin else 0
        cut = slice(kept, prompt - most + kept)
        return np.delete(ids, cut), np.delete(weights, cut)


def split_key(record: Record) -> str:
    """What decides the split of a record, its prompt, so that a prompt is never in both.

    Of two texts it is what both begin with, as `Human: …` and `Assistant:` have it without what two answers share.
    """
    for column in ("prompt", "messages", "chosen", "completion"):
        if not (value := record.get(column)):
            continue
        if column == "chosen" and isinstance(value, str) and isinstance(record.get("rejected"), str):
            same = value[: shared(value, record["rejected"])]
            value = same.rpartition("Assistant:")[0] or same
        if isinstance(value, list):
            roles = [message.get("role") if isinstance(message, dict) else None for message in value]
            value = (value[: roles.index(ASSISTANT)] if ASSISTANT in roles else value) or value
        return json.dumps(value, sort_keys=True, default=str)
    return ""


def _has(record: Record, column: str) -> bool:
    return record.get(column) is not None


def _column(record: Record, column: str, wanted: str) -> Any:
    if not _has(record, column):
        hint = "" if "instruction" not in record else "; make prompt of instruction and input, and completion of output"
        raise BadExampleError(
            "missing_column",
            f"got no {column} beside {', '.join(record) or 'nothing'}, expected {EXPECTED[wanted]}{hint}",
        )
    return record[column]


def _text(value: Any, column: str) -> str:
    if not isinstance(value, str):
        raise BadExampleError("no_text", f"{column}: got {value!r:.80}, expected text or messages")
    return value


def _as_messages(value: Any, role: str, column: str) -> list[Message]:
    if isinstance(value, list):
        return messages_in(value, column)
    return [{"role": role, "content": _text(value, column)}]


def _role(messages: list[Any]) -> Any:
    return messages[0].get("role") if messages and isinstance(messages[0], dict) else None


def _shared_messages(chosen: list[Any], rejected: list[Any]) -> tuple[list[Any], list[Any], list[Any]]:
    """(prompt, chosen, rejected): the messages that both begin with, and what is left of each."""
    same = shared(chosen, rejected)
    return chosen[:same], chosen[same:], rejected[same:]


def _require_prompt(prompt: Any) -> None:
    contents: Iterable[Any] = prompt if isinstance(prompt, list) else [{"content": prompt}]
    if not any(isinstance(entry, dict) and str(entry.get("content") or "").strip() for entry in contents):
        raise BadExampleError("empty_prompt", f"prompt: got {prompt!r:.80}, expected text")
    if isinstance(prompt, list) and _role(prompt[-1:]) == ASSISTANT:
        raise BadExampleError("ends_with_assistant", "prompt: its last message is the assistant's, expected a user's")


def _require_answers(messages: list[Message], first: int) -> None:
    """Refuse an answer that is empty, or none at the end."""
    answers = [message for message in messages[first:] if message["role"] == ASSISTANT and message.get("weight", 1)]
    if not answers or any(not message["content"].strip() and not message.get("tool_calls") for message in answers):
        raise BadExampleError("empty_completion", "the assistant's answer is empty or missing, expected text")


def _require_text(completion: str) -> None:
    if not completion.strip():
        raise BadExampleError("empty_completion", f"completion: got {completion!r:.80}, expected text")


def _weighted(ids: list[int], prompt: int) -> Sequence:
    weights = np.ones(len(ids), dtype=np.float32)
    weights[: max(prompt, 1)] = 0  # nothing predicts the first id
    return np.array(ids, dtype=np.int32), weights


def _equal() -> BadExampleError:
    return BadExampleError("equal_chosen_and_rejected", "chosen and rejected are the same, expected two answers")
