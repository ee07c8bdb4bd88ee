"""Training, loading and byte lengths of tokenizers."""

from __future__ import annotations

import json
import random
import re

import pytest
import tokenizers

from litespark.data.tokenizer import Tokenizer
from litespark.data.tokenizers_model import END_OF_TEXT, without_long_words
from tests.data.corpus import documents
from tests.properties import given, settings, st

TRAINED = Tokenizer.train(documents(50), vocab_size=320)


def test_two_trainings_give_the_same_tokenizer():
    assert Tokenizer.train(documents(50), vocab_size=320).hash == TRAINED.hash
    assert Tokenizer.train(documents(50, seed=1), vocab_size=320).hash != TRAINED.hash


def test_special_strings_in_a_text_stay_text_also_once_it_is_saved(tmp_path):
    TRAINED.save(tmp_path)
    loaded = [Tokenizer.load(path) for path in (tmp_path, tmp_path / "tokenizer.json")]
    text = f"before {END_OF_TEXT} after <|unused-0|>"
    for tokenizer in (TRAINED, *loaded):
        (ids,) = tokenizer.encode_batch([text])
        assert tokenizer.eos_id not in ids
        assert tokenizer.decode(ids) == text
        assert (tokenizer.hash, tokenizer.eos_id, tokenizer.vocab_size) == (TRAINED.hash, TRAINED.eos_id, 320)


@settings(max_examples=40, deadline=None)
@given(st.text(st.characters(codec="utf-8")))
def test_text_survives_and_its_bytes_are_counted(text):
    (ids,) = TRAINED.encode_batch([text])
    lengths = TRAINED.token_bytes()
    assert TRAINED.decode(ids) == text
    assert sum(lengths[number] for number in ids) == len(text.encode())


def test_a_vocabulary_that_the_text_cannot_fill_is_filled_with_unused_ids():
    tokenizer = Tokenizer.train(["ab"], vocab_size=300)
    assert tokenizer.vocab_size == 300
    assert sum(length > 0 for length in tokenizer.token_bytes()) == 257
    assert tokenizer.token_bytes()[tokenizer.eos_id] == 0


@pytest.mark.parametrize("own_file", [False, True])
def test_a_chat_template_goes_with_the_tokenizer_of_others(tmp_path, own_file):
    transformers = pytest.importorskip("transformers")
    theirs, ours = tmp_path / "theirs", tmp_path / "ours"
    TRAINED.save(theirs)
    template = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
    if own_file:
        (theirs / "chat_template.jinja").write_text(template)
    else:
        settings = json.loads((theirs / "tokenizer_config.json").read_text())
        (theirs / "tokenizer_config.json").write_text(json.dumps({**settings, "chat_template": template}))
    Tokenizer.load(theirs).save(ours)
    Tokenizer.load(ours).save(ours)
    reader = transformers.AutoTokenizer.from_pretrained(ours)
    assert reader.apply_chat_template([{"role": "user", "content": "hi"}], tokenize=False) == "<user>hi"


def byte_fallback_tokenizer() -> tokenizers.Tokenizer:
    vocab_size = {"<unk>": 0, "<s>": 1, "</s>": 2, "<0x0A>": 3, "▁the": 4, "é": 5}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE(vocab_size, [], unk_token="<unk>", byte_fallback=True))
    tokenizer.decoder = tokenizers.decoders.Sequence([tokenizers.decoders.ByteFallback()])
    tokenizer.add_special_tokens(["<unk>", "<s>", "</s>"])
    return tokenizer


def test_a_folder_tells_the_bytes_of_tokens_and_which_one_ends_a_document(tmp_path):
    byte_fallback_tokenizer().save(str(tmp_path / "tokenizer.json"))
    tokenizer = Tokenizer.load(tmp_path)
    assert tokenizer.token_bytes() == [0, 0, 0, 1, 4, 2]
    assert (tokenizer.eos_id, tokenizer.bos_id) == (2, 1)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"eos_token": {"content": "<unk>"}}))
    assert Tokenizer.load(tmp_path).eos_id == 0
    assert Tokenizer.load(tmp_path, eos_token="<s>").eos_id == 1


def test_unusable_tokenizers_are_refused(tmp_path):
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ValueError, match=r"is not a tokenizer\.json"):
        Tokenizer.load(tmp_path)
    TRAINED.save(tmp_path)
    with pytest.raises(ValueError, match="'<end>' is not in its vocabulary"):
        Tokenizer.load(tmp_path, eos_token="<end>")
    (tmp_path / "tokenizer_config.json").write_text("{")
    with pytest.raises(ValueError, match=r"tokenizer_config\.json is not JSON"):
        Tokenizer.load(tmp_path)
    with pytest.raises(ValueError, match="needs at least 257 ids"):
        Tokenizer.train(["text"], vocab_size=256)


@pytest.mark.parametrize("letters", ["ACGT", "漢字仮名", " ", "\n", "aA1+/"])
def test_words_of_any_length_are_learned_from_in_parts_of_bounded_length(letters):
    draw = random.Random(0)
    text = "some words " + "".join(draw.choices(letters, k=20_000)) + " and more"
    parts = list(without_long_words(text))
    assert "".join(parts) == text
    assert max(len(run) for part in parts for run in re.findall(r"\S+|\s+", part)) <= 256
    (ids,) = Tokenizer.train([text], vocab_size=300).encode_batch([text])
    assert len(ids) < 0.7 * len(text), "nothing was learned"
    ordinary = documents(3)
    assert [part for text in ordinary for part in without_long_words(text)] == ordinary
