"""Which ids of a conversation are trained: what the assistant wrote, and the token that ends its turn."""

import re

import pytest

from litespark.data.examples.messages import BadExampleError
from litespark.data.examples.templates import NAMED
from tests.data.examples.chats import assistant, encoder, user, write_tokenizer

SYSTEM = {"role": "system", "content": "be brief"}
TURNS = [SYSTEM, user("what is ü?\n"), assistant("\nthe answer 漢字"), user(" and "), assistant("is the question ")]
MARKS = re.compile(r"\{%-? (end)?generation %\}")
UNMARKED = MARKS.sub("", NAMED["chatml"])
ANSWER = "message['content'] + '<|im_end|>' }}{% endgeneration"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_tokenizer(tmp_path_factory.mktemp("tokenizer"))


def with_template(folder, tmp_path, template, **changes):
    (tmp_path / "template.jinja").write_text(template)
    return encoder(folder, **{"chat_template": str(tmp_path / "template.jinja"), "seq_len": 500} | changes)


def ids_and_weights(made, record):
    example = made.example(record)
    return example.sequences[0].tolist(), example.weights[0].tolist()


@pytest.mark.parametrize("name", ["chatml", "plain"])
def test_marked_ids_are_those_of_transformers(folder, name):
    from transformers import PreTrainedTokenizerFast

    theirs = PreTrainedTokenizerFast(
        tokenizer_file=str(folder / "tokenizer.json"), chat_template=NAMED[name], eos_token="<|im_end|>", bos_token=""
    ).apply_chat_template(TURNS, return_dict=True, return_assistant_tokens_mask=True)
    ids, weights = ids_and_weights(encoder(folder, chat_template=name, seq_len=500), {"messages": TURNS})
    assert ids == theirs["input_ids"]
    assert weights == theirs["assistant_masks"]
    assert 0 < sum(weights) < len(weights)


def test_without_marks_a_turn_is_what_is_added_to_the_conversation_before_it(folder, tmp_path):
    turns = [*TURNS[:2], assistant("\nthe answer 漢字", weight=0.5), *TURNS[3:], user("and?"), assistant("x", weight=0)]
    marked = ids_and_weights(encoder(folder, chat_template="chatml", seq_len=500), {"messages": turns})
    assert set(marked[1]) == {0, 0.5, 1}
    assert ids_and_weights(with_template(folder, tmp_path, UNMARKED), {"messages": turns}) == marked


def test_a_prompt_ends_where_the_assistant_begins_and_its_messages_are_not_trained(folder):
    made = encoder(folder, chat_template="chatml", seq_len=500, format="prompts")
    (prompt,) = made.example({"prompt": TURNS[:4], "level": 3}).sequences
    assert made.example({"prompt": TURNS[:4], "level": 3}).about == {"level": 3}
    answered = encoder(folder, chat_template="chatml", seq_len=500)
    ids, weights = ids_and_weights(answered, {"prompt": TURNS[:4], "completion": TURNS[4:]})
    assert ids[: prompt.size] == prompt.tolist()
    assert weights == [0.0] * prompt.size + [1.0] * (len(ids) - prompt.size - 1) + [0.0]  # a line break behind the end
    assert answered.tokenizer.decode(ids[prompt.size :]) == "is the question \n"
    # text is wrapped where a template is named
    wrapped = ids_and_weights(answered, {"prompt": "what", "completion": "the answer"})
    assert wrapped == ids_and_weights(answered, {"messages": [user("what"), assistant("the answer")]})


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{{ messages", "it is not Jinja as transformers has it .*mend it"),
        (NAMED["chatml"].replace(ANSWER, "message['content'] }}{% endgeneration %}{{ '<|im_end|>' }}{%- if x"
            ).replace("{%- if x %}", ""), r"<\|im_end\|> behind .* never learn to stop; put <\|im_end\|> within"),
        (NAMED["chatml"].replace(ANSWER, "'' }}{% endgeneration"), "marks with .* is empty, so that nothing"),
        (UNMARKED.replace("<|im_end|>", "</end>"), "no special token .* ends the assistant's turn"),
        (UNMARKED.replace("{{- '\\n' }}", "{{- '\\n' if loop.last else '.' }}"),
            r"rewrites earlier turns \('\\n<\|im_start.*becomes '\..*add the marks"),
    ],
)  # fmt: skip
def test_a_template_that_cannot_tell_what_is_trained_is_refused(folder, tmp_path, template, message):
    with pytest.raises(ValueError, match=message) as raised:
        with_template(folder, tmp_path, template).example({"messages": TURNS})
    assert not hasattr(raised.value, "reason"), "it is of all examples"


def test_a_template_that_does_not_show_tools_is_refused_and_one_that_does_gets_them(folder, tmp_path):
    tools = [{"type": "function", "function": {"name": "lookup"}}]
    with pytest.raises(ValueError, match="does not show tools"):
        encoder(folder, chat_template="chatml").example({"messages": TURNS[1:3], "tools": tools})
    made = with_template(folder, tmp_path, "{{ tools[0].function.name }}" + NAMED["chatml"])
    ids, _ = ids_and_weights(made, {"messages": TURNS[1:3], "tools": str(tools).replace("'", '"')})
    assert made.tokenizer.decode(ids).startswith("lookup")


CALL = "{{ message.tool_calls[0].function.arguments | tojson }}"


@pytest.mark.parametrize("template", [CALL, "{{ message.tool_calls[0].function.arguments + '' }}"])
def test_arguments_of_calls_are_objects_or_json_as_the_template_has_them(folder, tmp_path, template):
    made = with_template(folder, tmp_path, f"{NAMED['chatml']}{{% set message = messages[1] %}}{template}")
    for given in ({"x": "é", "y": None}, '{"x": "é"}'):
        call = {"type": "function", "function": {"name": "f", "arguments": given}}
        asked = [user("q"), {"role": "assistant", "content": None, "tool_calls": [call]}, *TURNS[1:3]]
        assert made.tokenizer.decode(ids_and_weights(made, {"messages": asked})[0]).endswith('{"x": "é"}')
    call["function"]["arguments"] = {"x": "<|im_end|>"}
    with pytest.raises(BadExampleError, match=r"holds <\|im_end\|>, which the template alone"):
        made.example({"messages": asked})


def test_a_template_that_writes_the_date_gives_the_same_each_day(folder, tmp_path, caplog):
    made = with_template(folder, tmp_path, "{{ strftime_now('%d %b %Y') }}" + NAMED["chatml"])
    assert made.tokenizer.decode(ids_and_weights(made, {"messages": TURNS})[0]).startswith("26 Jul 2024system")
    assert "writes the date; it is 26 Jul 2024 in all examples" in caplog.text


def test_many_turns_are_read_about_once(folder, tmp_path, monkeypatch):
    made, read = with_template(folder, tmp_path, UNMARKED, seq_len=10**5), []
    encode = made.chat.model.encode_rendered
    monkeypatch.setattr(made.chat.model, "encode_rendered", lambda text: read.append(len(text)) or encode(text))
    turns = [*TURNS[1:3] * 20]
    expected = ids_and_weights(encoder(folder, chat_template="chatml", seq_len=10**5), {"messages": turns})
    assert ids_and_weights(made, {"messages": turns}) == expected
    assert sum(read) < 3 * max(read)


def test_the_template_is_the_tokenizers_where_none_is_named_and_goes_with_it(tmp_path):
    made = encoder(write_tokenizer(tmp_path, template=NAMED["chatml"]), seq_len=500)
    assert ids_and_weights(made, {"messages": TURNS})[1]
    named = encoder(tmp_path, chat_template="plain")
    assert named.tokenizer.chat_template == NAMED["plain"]
    with pytest.raises(ValueError, match=r"a tokenizer without a template, .*data.chat_template=plain"):
        encoder(write_tokenizer(tmp_path / "none")).example({"messages": TURNS})
    with pytest.raises(ValueError, match=r"got no template .*chatml, llama3, plain, or a file of Jinja"):
        encoder(tmp_path, chat_template="chatlm")
