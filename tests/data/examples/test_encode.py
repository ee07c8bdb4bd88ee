"""Records to examples: the columns of each format, what is cut, and what costs an example."""

import pytest

from litespark.data.examples.encode import TOO_LONG, split_key
from litespark.data.examples.messages import BadExampleError
from litespark.data.examples.templates import NAMED
from tests.data.examples.chats import assistant, encoder, user, write_tokenizer


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_tokenizer(tmp_path_factory.mktemp("tokenizer"), eos="<|endoftext|>")


def sequences(made, record):
    """(prompt, what is trained) of each sequence, decoded; EOS shows as a dot."""
    example, eos = made.example(record), made.tokenizer.eos_id
    for ids, weights in zip(example.sequences, example.weights, strict=True):
        first = int((weights == 0).sum())
        assert not weights[:first].any()
        parts = [ids[:first].tolist(), ids[first:].tolist()]
        yield tuple(
            "".join("." if number == eos else made.tokenizer.decode([number]) for number in part) for part in parts
        )


def test_a_prompt_and_its_completion_of_text_end_with_eos_and_the_completion_is_trained(folder):
    made = encoder(folder)
    record = {"prompt": "what is the ", "completion": "question <|im_end|>"}
    assert list(sequences(made, record)) == [("what is the ", "question <|im_end|>.")]
    parts = [made.tokenizer.encode_parts([text])[0] for text in record.values()]
    assert made.example(record).sequences[0].tolist() == [*parts[0], *parts[1], made.tokenizer.eos_id]
    # nothing predicts the first id where there is no prompt
    assert list(sequences(made, {"prompt": "", "completion": "xy"})) == [("x", "y.")]


@pytest.mark.parametrize(
    "record",
    [
        {"prompt": "what? ", "chosen": "this", "rejected": "that"},
        {"chosen": "what? this", "rejected": "what? that"},
    ],
)
def test_a_pair_has_its_prompt_or_what_both_begin_with(folder, record):
    made = encoder(folder, format="pairs")
    first, second = sequences(made, record | {"margin": 2, "other": 3})
    assert ("".join(first), "".join(second)) == ("what? this.", "what? that.")
    assert first[0] == second[0]
    assert first[0].startswith("what? ")
    assert made.example(record | {"margin": 2, "other": 3}).about == {"margin": 2.0}


def test_a_pair_of_conversations_shares_its_first_messages(folder):
    made = encoder(folder, format="pairs", chat_template="chatml", seq_len=300)
    turns = [user("is it?"), assistant("yes"), user("and?")]
    named = {"prompt": turns, "chosen": [assistant("no")], "rejected": [assistant("maybe")]}
    whole = {"prompt": "is it?", "chosen": [*turns, assistant("no")], "rejected": [*turns, assistant("maybe")]}
    mine, theirs = made.example(named), made.example(whole)
    for of in ("sequences", "weights"):
        assert [array.tolist() for array in getattr(mine, of)] == [array.tolist() for array in getattr(theirs, of)]
    trained = [ids[weights > 0].tolist() for ids, weights in zip(mine.sequences, mine.weights, strict=True)]
    end = made.tokenizer.model.id_of("<|im_end|>")
    assert [made.tokenizer.decode(ids) for ids in trained] == ["no", "maybe"]
    assert [ids[-1] for ids in trained] == [end, end]


def test_rated_completions_and_prompts_keep_what_is_read_of_them(folder):
    rated = encoder(folder, format="rated").example({"prompt": "a b", "completion": "c", "label": True, "more": 1})
    assert rated.about == {"desirable": 1.0}
    prompt = encoder(folder, format="prompts").example({"prompt": "what is", "level": 2, "tests": ["x"], "none": None})
    assert prompt.about == {"level": 2, "tests": ["x"]}
    assert not prompt.weights[0].any()


def test_long_prompts_lose_their_beginning_and_completions_are_never_cut(folder):
    record = {"prompt": "zyxwvu", "completion": "abcd"}
    assert list(sequences(encoder(folder, max_prompt_length=2), record)) == [("vu", "abcd.")]
    assert encoder(folder, max_prompt_length=4, seq_len=8).example(record).input_count == 8
    for changes in ({"seq_len": 9}, {"max_prompt_length": 4, "seq_len": 7}):
        with pytest.raises(BadExampleError, match=f"data.seq_len={changes['seq_len']} has no room") as raised:
            encoder(folder, **changes).example(record)
        assert raised.value.reason == TOO_LONG
    pair = {"prompt": "zy", "chosen": "abc", "rejected": "d"}
    assert encoder(folder, format="pairs", seq_len=10).example(pair).input_count == 8
    with pytest.raises(BadExampleError, match="10 inputs"):
        encoder(folder, format="pairs", seq_len=9).example(pair)


TALK = {"messages": [user("q"), assistant("a")]}


@pytest.mark.parametrize(
    ("kind", "record", "reason", "message"),
    [
        ("conversations", {"text": "x"}, "missing_column", "no prompt beside text, expected messages, or prompt and"),
        ("conversations", {"prompt": "x"}, "missing_column", "no completion beside prompt"),
        ("conversations", {"prompt": "x", "completion": " \n"}, "empty_completion", "expected text"),
        ("conversations", {"prompt": "x", "completion": 5}, "no_text", "completion: got 5, expected text or messages"),
        ("conversations", {"messages": "hello"}, "no_messages", "messages: got 'hello', expected a list"),
        ("conversations", {"messages": [{"role": "owl", "content": "x"}]}, "unknown_role", "got role 'owl', exp"),
        ("conversations", {"messages": [user("q")]}, "empty_completion", "empty or missing"),
        ("conversations", {"messages": [user("q"), assistant("")]}, "empty_completion", "empty or missing"),
        ("conversations", {"messages": [user("q"), assistant("a", weight=0)]}, "empty_completion", "missing"),
        ("conversations", {"messages": [user("q"), assistant("a", weight=-1)]}, "no_weight", "got weight -1"),
        ("conversations", {"messages": [user([{"type": "image"}]), assistant("a")]}, "no_text", "as content of user"),
        ("conversations", {"messages": [user("<|im_start|>"), assistant("a")]}, "special_token", "the template alone"),
        ("conversations", {"messages": [user("q\ud800"), assistant("a")]}, "lone_surrogate", "half a character"),
        ("conversations", TALK | {"tools": "{"}, "no_tools", "text that is no JSON"),
        (
            "conversations",
            {"instruction": "x", "output": "y"},
            "missing_column",
            "make prompt of instruction and input",
        ),
        ("pairs", {"prompt": "q", "chosen": "a"}, "missing_column", "no rejected beside prompt, chosen, expected"),
        ("pairs", {"prompt": "q", "chosen": "a", "rejected": "a"}, "equal_chosen_and_rejected", "the same"),
        ("pairs", {"prompt": " ", "chosen": "a", "rejected": "b"}, "empty_prompt", "expected text"),
        ("pairs", {"chosen": "a", "rejected": "b"}, "empty_prompt", "no prompt that they share"),
        ("pairs", {"prompt": "q", "chosen": "a", "rejected": ""}, "empty_completion", "expected text"),
        ("pairs", {"prompt": "q", "chosen": "a", "rejected": "b", "margin": float("nan")}, "no_margin", "got nan, exp"),
        ("rated", {"prompt": "q", "completion": "a", "label": "good"}, "no_label", "expected true or false"),
        ("rated", {"prompt": "", "completion": "a", "label": True}, "empty_prompt", "expected text"),
        ("prompts", {"prompt": ""}, "empty_prompt", "expected text"),
        ("prompts", TALK, "ends_with_assistant", "last message is the assistant's, expected a user's"),
        ("prompts", {"prompt": "q\ud800"}, "lone_surrogate", "half a character"),
    ],
)
def test_a_bad_record_costs_itself_and_says_why(folder, kind, record, reason, message):
    chat = "chatml" if "messages" in record else None
    with pytest.raises(BadExampleError, match=message) as raised:
        encoder(folder, format=kind, chat_template=chat).example(record)
    assert raised.value.reason == reason


def test_a_template_that_fails_costs_the_conversation(folder, tmp_path):
    (tmp_path / "t.jinja").write_text("{{ raise_exception('roles must alternate') }}")
    with pytest.raises(BadExampleError, match="fails: roles must alternate") as raised:
        encoder(folder, chat_template=str(tmp_path / "t.jinja")).example(TALK)
    assert raised.value.reason == "template_error"


def test_answers_that_a_template_makes_equal_are_no_pair(folder, tmp_path):
    pair = {"prompt": "q", "chosen": "a", "rejected": "a "}
    assert len(encoder(folder, format="pairs").example(pair).sequences) == 2
    trims = NAMED["chatml"].replace("message['content']", "message['content'] | trim")
    (tmp_path / "t.jinja").write_text(trims)
    with pytest.raises(BadExampleError, match="are the same"):
        encoder(folder, format="pairs", chat_template=str(tmp_path / "t.jinja")).example(pair)


def test_records_of_one_prompt_are_of_one_split():
    pair = {"chosen": "what? this", "rejected": "what? those"}
    assert split_key({"prompt": "x", "completion": "a"}) == split_key({"prompt": "x", "completion": "b"})
    assert split_key(pair) == split_key({"chosen": "what? thin", "rejected": "what? thou"}) == '"what? th"'
    talk = "Human: q\n\nAssistant:"
    assert split_key({"chosen": f"{talk} Yes", "rejected": f"{talk} You"}) == split_key(
        {"chosen": talk, "rejected": talk}
    )
    assert split_key({"prompt": "", "completion": "a"}) != split_key({"prompt": "", "completion": "b"})
    assert split_key({"messages": [user("q"), assistant("a")]}) == split_key({"messages": [user("q"), assistant("b")]})
    assert split_key({"messages": [user("q"), assistant("a")]}) != split_key({"messages": [user("r"), assistant("a")]})
