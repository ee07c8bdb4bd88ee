"""Conversations to ids by a chat template, and which of the ids the assistant wrote.

Templates run in the sandbox of transformers. Where one marks what the assistant writes (`{% generation %}`), the marks
count. Else a turn is what the template adds to the conversation before it, ready for an answer, which has to be a
prefix of the whole: a template that rewrites earlier turns is refused.
"""

import re
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from jinja2.exceptions import TemplateError, TemplateSyntaxError
from numpy.typing import NDArray

from litespark.data.examples.messages import ASSISTANT, BadExampleError, Message, shared
from litespark.data.libraries import library
from litespark.data.tokenizer import Tokenizer
from litespark.data.tokenizers_model import TokenizersModel

_MARKED = re.compile(r"\{%-?\s*generation\s*-?%\}")
Span = tuple[int, int]


@dataclass(frozen=True)
class Rendered:
    """A conversation as text and ids; `offsets` are the characters of each id, `marks` what the template marks."""

    text: str
    ids: list[int]
    offsets: list[Span]
    marks: list[Span]


class ChatTemplate:
    """A template with the tokenizer that reads what it writes.

    ValueError: transformers is missing, the tokenizer is a sentencepiece model, or later: the source is no Jinja.
    """

    def __init__(self, source: str, tokenizer: Tokenizer, named: str) -> None:
        self.source = source
        self.tokenizer = tokenizer
        self.named = named
        self.marked = _MARKED.search(source) is not None
        if not isinstance(tokenizer.model, TokenizersModel):
            raise ValueError(
                "data.tokenizer: got a sentencepiece model, expected a tokenizer.json for conversations: it states the "
                "special tokens of a chat. Convert it with transformers"
            )
        self.model = tokenizer.model
        self.special = self.model.special_tokens() | {tokenizer.eos_id: str(self.model.token(tokenizer.eos_id))}
        self._library = library("transformers.utils.chat_template_utils", setting="messages with a chat template")
        names = {"bos_token": tokenizer.bos_id, "eos_token": tokenizer.eos_id, "pad_token": tokenizer.pad_id}
        self._names = {name: "" if number is None else self.model.token(number) for name, number in names.items()}

    def refused(self, what: str, remedy: str) -> ValueError:
        return ValueError(f"data.chat_template ({self.named}): {what}; {remedy}, or name another, such as chatml")

    def prompt(self, messages: list[Message], tools: list[dict[str, Any]] | None) -> NDArray[np.int32]:
        """(n,) ids of a conversation up to where the assistant begins its answer."""
        return np.array(self._render(messages, tools, ready=True).ids, dtype=np.int32)

    def conversation(
        self, messages: list[Message], tools: list[dict[str, Any]] | None, weights: list[float]
    ) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """(n,) ids and the weight of each, that of the message which the assistant wrote it in, else 0.

        BadExampleError: nothing is trained, the template refuses the conversation, or a message holds the text of a
        special token. ValueError: the template leaves out what is trained, its end, or rewrites earlier turns.
        """
        whole = self._render(messages, tools)
        trained = np.zeros(len(whole.ids), dtype=np.float32)
        if not any(weights):
            raise BadExampleError("nothing_trained", "got no message of the assistant with a weight, expected one")
        for begin, end, weight in self._turns(whole, messages, tools, weights):
            if weight:
                self._require_end(whole, begin, end)
            trained[begin:end] = weight
        trained[:1] = 0
        return np.array(whole.ids, dtype=np.int32), trained

    def _turns(
        self, whole: Rendered, messages: list[Message], tools: list[dict[str, Any]] | None, weights: list[float]
    ) -> list[tuple[int, int, float]]:
        """(first id, behind the last, weight) of each turn."""
        if not self.marked:
            numbers = [number for number, weight in enumerate(weights) if weight]
            return [(*self._added(whole, messages, tools, number), weights[number]) for number in numbers]
        of_turns = [weight for message, weight in zip(messages, weights, strict=True) if message["role"] == ASSISTANT]
        marks = [mark for mark in whole.marks if mark[0] < mark[1]]
        if not marks:
            raise self.refused(
                "what it marks with {% generation %} is empty, so that nothing would be trained",
                "put the marks around the assistant's content and the end of its turn",
            )
        if len(marks) != len(of_turns):
            if len(set(of_turns)) > 1:
                raise self.refused(
                    f"it marks {len(marks)} pieces of {len(of_turns)} turns of the assistant, so that their weights "
                    f"({of_turns}) have no place",
                    "mark each turn once",
                )
            of_turns = of_turns[:1] * len(marks)
        turns = zip(marks, of_turns, strict=True)
        return [(*_ids_of(whole, *mark), weight) for mark, weight in turns]

    def _added(self, whole: Rendered, messages: list[Message], tools: list[dict[str, Any]] | None, number: int) -> Span:
        """The ids that the template adds for message `number`, down to the token that ends it."""
        if number == 0:
            raise BadExampleError("begins_with_assistant", "the first message is the assistant's, expected a user's")
        before = self._render(messages[:number], tools, ready=True)
        last = number == len(messages) - 1
        after = whole if last else self._render(messages[: number + 1], tools)
        for earlier in (before.text, after.text):
            if not whole.text.startswith(earlier):
                place = shared(earlier, whole.text)
                raise self.refused(
                    f"it has no {{% generation %}} marks and rewrites earlier turns ({earlier[place:][:60]!r} becomes "
                    f"{whole.text[place:][:60]!r}), so that what the assistant wrote cannot be told",
                    "add the marks",
                )
        begin = len(before.ids)
        if whole.ids[:begin] != before.ids:
            raise BadExampleError("joined_tokens", "the answer's first token reaches into the prompt, expected its own")
        end = next((i for i in range(begin, len(whole.ids)) if whole.offsets[i][0] >= len(after.text)), len(whole.ids))
        # line breaks behind the end of a turn are written by the template, not by the model
        ends = [i for i in range(begin, end) if whole.ids[i] in self.special]
        return begin, (ends[-1] + 1 if ends else end)

    def _require_end(self, whole: Rendered, begin: int, end: int) -> None:
        if any(number in self.special for number in whole.ids[begin:end]):
            return
        behind = next((self.special[number] for number in whole.ids[end:] if number in self.special), None)
        if self.marked and behind is not None:
            raise self.refused(
                f"{behind} behind the assistant's turn is not within its {{% generation %}} marks, so that the model "
                "would never learn to stop",
                f"put {behind} within them",
            )
        raise self.refused(
            "no special token of data.tokenizer ends the assistant's turn, so that the model would never learn to stop",
            "use a template whose tokens the tokenizer has, such as plain",
        )

    def _render(self, messages: list[Message], tools: list[dict[str, Any]] | None, *, ready: bool = False) -> Rendered:
        self._require_shown(messages, tools)
        shown = [{key: value for key, value in message.items() if key != "weight"} for message in messages]
        try:
            texts, marks = self._library.render_jinja_template(
                [shown],
                tools=tools,
                chat_template=self.source,
                return_assistant_tokens_mask=self.marked,
                add_generation_prompt=ready,
                **self._names,
            )
        except TemplateSyntaxError as error:
            raise self.refused(f"it is not Jinja as transformers has it ({error})", "mend it") from error
        except (TemplateError, TypeError, ValueError, KeyError, AttributeError) as error:
            raise BadExampleError("template_error", f"the chat template ({self.named}) fails: {error}") from error
        encoding = self.model.encode_rendered(texts[0])
        return Rendered(texts[0], encoding.ids, encoding.offsets, marks[0] if marks else [])

    def _require_shown(self, messages: list[Message], tools: list[dict[str, Any]] | None) -> None:
        """Refuse what the template would leave out, and text that would become a special token."""
        calls = any(message.get("tool_calls") for message in messages)
        for name, there in (("tools", tools), ("tool_calls", calls)):
            if there and name not in self.source:
                raise self.refused(f"it does not show {name}, which examples have", "use that of a model with tools")
        for message in messages:
            if match := self._special_text.search(message["content"]):
                raise BadExampleError(
                    "special_token", f"a message holds {match.group()}, which the template alone may write"
                )

    @cached_property
    def _special_text(self) -> re.Pattern[str]:
        return re.compile("|".join(map(re.escape, sorted(self.special.values(), key=len, reverse=True))))


def _ids_of(whole: Rendered, begin: int, end: int) -> Span:
    """The ids that hold characters begin..end-1."""
    held = [i for i, (first, behind) in enumerate(whole.offsets) if first < end and behind > begin]
    return (held[0], held[-1] + 1) if held else (0, 0)
