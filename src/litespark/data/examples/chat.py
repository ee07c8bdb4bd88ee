"""Conversations to ids by a chat template, and which of the ids the assistant wrote.

Templates run in the sandbox of transformers. Where one marks what the assistant writes (`{% generation %}`), the marks
count. Else a turn is what the template adds to the conversation before it, ready for an answer, which has to be a
prefix of the whole: a template that rewrites earlier turns is refused.
"""

import json
import logging
import re
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import Any

import numpy as np
from jinja2.exceptions import TemplateError, TemplateSyntaxError
from numpy.typing import NDArray

from litespark.data.examples.messages import ASSISTANT, BadExampleError, Message, shared, with_text_arguments
from litespark.data.libraries import library
from litespark.data.text.document import encodable
from litespark.data.tokenizer import Tokenizer
from litespark.data.tokenizers_model import TokenizersModel

log = logging.getLogger(__name__)
_MARKED = re.compile(r"\{%-?\s*generation\s*-?%\}")
_TODAY = datetime(2024, 7, 26)
"""Of templates that write the date: that of Llama 3 where a template has no clock."""
# rendered data may hold no function, so that the clock is one of the template's own
_CLOCK = (
    "{%- macro strftime_now(format) -%}{{- format"
    + "".join(f" | replace('%{code}', '{_TODAY.strftime('%' + code)}')" for code in "aAbBdmyYjHIMSp")
    + " -}}{%- endmacro -%}"
)
Span = tuple[int, int]


@dataclass(frozen=True)
class Rendered:
    """A conversation as text and ids: the first character of each id and the one behind it, and what is marked."""

    text: str
    ids: list[int]
    starts: NDArray[np.int64]
    ends: NDArray[np.int64]
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
        if "strftime_now" in source:
            log.warning(
                "data.chat_template (%s) writes the date; it is %s in all examples, so that they are the same each day",
                named,
                f"{_TODAY:%d %b %Y}",
            )
            source = _CLOCK + source
        self._source = source
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
        self._require_shown(messages, tools)
        text, _ = self._written(messages, tools, ready=True)
        return np.array(self.model.encode_rendered(text).ids, dtype=np.int32)

    def conversation(
        self, messages: list[Message], tools: list[dict[str, Any]] | None, weights: list[float]
    ) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """(n,) ids and the weight of each, that of the message which the assistant wrote it in, else 0.

        BadExampleError: nothing is trained, the template refuses the conversation, or a message holds the text of a
        special token. ValueError: the template leaves out what is trained, its end, or rewrites earlier turns.
        """
        self._require_shown(messages, tools)
        whole = self._rendered(messages, tools)
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
        before, _ = self._written(messages[:number], tools, ready=True)
        last = number == len(messages) - 1
        after = whole.text if last else self._written(messages[: number + 1], tools)[0]
        for earlier in (before, after):
            if not whole.text.startswith(earlier):
                place = shared(earlier, whole.text)
                raise self.refused(
                    f"it has no {{% generation %}} marks and rewrites earlier turns ({earlier[place:][:60]!r} becomes "
                    f"{whole.text[place:][:60]!r}), so that what the assistant wrote cannot be told",
                    "add the marks",
                )
        begin, end = (int(np.searchsorted(whole.starts, len(earlier))) for earlier in (before, after))
        # a special token parts a text: what stands before it does not change the ids behind it
        same = next((i for i in range(begin - 1, 0, -1) if whole.ids[i] in self.special), 0)
        if self.model.encode_rendered(before[whole.starts[same] if same else 0 :]).ids != whole.ids[same:begin]:
            raise BadExampleError("joined_tokens", "the answer's first token reaches into the prompt, expected its own")
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

    def _rendered(self, messages: list[Message], tools: list[dict[str, Any]] | None) -> Rendered:
        text, marks = self._written(messages, tools)
        encoding = self.model.encode_rendered(text)
        offsets = np.array(encoding.offsets, dtype=np.int64).reshape(-1, 2)
        return Rendered(text, encoding.ids, offsets[:, 0], offsets[:, 1], marks)

    def _written(
        self, messages: list[Message], tools: list[dict[str, Any]] | None, *, ready: bool = False
    ) -> tuple[str, list[Span]]:
        """What the template makes of a conversation, `ready` for an answer, and what it marks of that."""
        shown = [{key: value for key, value in message.items() if key != "weight"} for message in messages]
        try:
            try:
                text, marks = self._by_template(shown, tools, ready)
            except TypeError:
                # one that adds the arguments of calls to a text
                text, marks = self._by_template([with_text_arguments(message) for message in shown], tools, ready)
        except TemplateSyntaxError as error:
            raise self.refused(f"it is not Jinja as transformers has it ({error})", "mend it") from error
        except (TemplateError, TypeError, ValueError, KeyError, AttributeError) as error:
            raise BadExampleError("template_error", f"the chat template ({self.named}) fails: {error}") from error
        if not encodable(text):
            raise BadExampleError("lone_surrogate", "a message has half a character, expected UTF-8")
        return text, marks

    def _by_template(
        self, messages: list[Message], tools: list[dict[str, Any]] | None, ready: bool
    ) -> tuple[str, list[Span]]:
        texts, marks = self._library.render_jinja_template(
            [messages],
            tools=tools,
            chat_template=self._source,
            return_assistant_tokens_mask=self.marked,
            add_generation_prompt=ready,
            **self._names,
        )
        return texts[0], marks[0] if marks else []

    def _require_shown(self, messages: list[Message], tools: list[dict[str, Any]] | None) -> None:
        """Refuse what the template would leave out, and text that would become a special token."""
        calls = any(message.get("tool_calls") for message in messages)
        for name, there in (("tools", tools), ("tool_calls", calls)):
            if there and name not in self.source:
                raise self.refused(f"it does not show {name}, which examples have", "use that of a model with tools")
        if match := self._special_text.search(json.dumps([messages, tools], ensure_ascii=False)):
            raise BadExampleError(
                "special_token", f"a message holds {match.group()}, which the template alone may write"
            )

    @cached_property
    def _special_text(self) -> re.Pattern[str]:
        """The special tokens as they stand in JSON."""
        texts = (json.dumps(text, ensure_ascii=False)[1:-1] for text in self.special.values())
        return re.compile("|".join(map(re.escape, sorted(texts, key=len, reverse=True))))


def _ids_of(whole: Rendered, begin: int, end: int) -> Span:
    """The ids that hold characters begin..end-1."""
    first, behind = np.searchsorted(whole.ends, begin, side="right"), np.searchsorted(whole.starts, end)
    return (int(first), int(behind)) if first < behind else (0, 0)
