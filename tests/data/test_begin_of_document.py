"""What begins a document is the same in training, in prompts, and in transformers on the saved folder."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import tokenizers
from tokenizers import Tokenizer as Described
from tokenizers import decoders, models, pre_tokenizers, processors

from litespark.data.tokenizer import Tokenizer
from litespark.data.tokenizers_model import TokenizersModel
from tests.data.prepare.test_encoding import encoded

TEXT = "a row of\n words, and so on"
BOS = ("<bos>", 1)
EOS = ("<eos>", 0)


def template(single: str) -> processors.TemplateProcessing:
    return processors.TemplateProcessing(single=single, pair=f"{single} $B:1", special_tokens=[BOS, EOS])


POST_PROCESSORS = {
    "nothing": None,
    "BOS": template("<bos> $A"),
    "BOS behind offsets": processors.Sequence([processors.ByteLevel(trim_offsets=True), template("<bos> $A")]),
    "BOS and EOS": template("<bos> $A <eos>"),
    "as RoBERTa": processors.RobertaProcessing(EOS, BOS, add_prefix_space=False),
    "EOS at both ends": template("<eos> $A <eos>"),
}


def folder_of(folder: Path, post_processor: object, **config: object) -> Path:
    vocab_size = {"<eos>": 0, "<bos>": 1, "<pad>": 2}
    for character in sorted(pre_tokenizers.ByteLevel.alphabet()):
        vocab_size[character] = len(vocab_size)
    made = Described(models.BPE(vocab_size, []))
    made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    made.add_special_tokens(["<eos>", "<bos>", "<pad>"])
    if post_processor is not None:
        made.post_processor = post_processor
    folder.mkdir()
    made.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<eos>", "bos_token": "<bos>", **config}))
    return folder


def trained_on(tokenizer: Tokenizer, *texts: str) -> list[list[int]]:
    return [ids.tolist() for _, ids in encoded(tokenizer, list(texts))]


@pytest.mark.parametrize("add_bos", [None, True, False])
@pytest.mark.parametrize("name", POST_PROCESSORS)
def test_training_prompts_and_transformers_begin_alike(tmp_path, name, add_bos):
    transformers = pytest.importorskip("transformers")
    tokenizer = Tokenizer.load(folder_of(tmp_path / "theirs", POST_PROCESSORS[name]), add_bos=add_bos)
    has_bos = "BOS" in name or "RoBERTa" in name if add_bos is None else add_bos
    assert tokenizer.begin_ids == ([1] if has_bos else [])
    tokenizer.save(tmp_path / "ours")
    again = Tokenizer.load(tmp_path / "ours")
    assert (again.hash, again.begin_ids) == (tokenizer.hash, tokenizer.begin_ids)
    as_it_is = Tokenizer.load(tmp_path / "theirs")
    assert (as_it_is.hash == tokenizer.hash) == (as_it_is.begin_ids == tokenizer.begin_ids)
    ids = again.encode_prompt(TEXT)
    assert ids == again.encode_batch([TEXT])[0] == [1] * has_bos + again.encode_parts([TEXT])[0]
    assert transformers.AutoTokenizer.from_pretrained(tmp_path / "ours")(TEXT)["input_ids"] == ids
    assert trained_on(again, TEXT, "b") == [[*ids, 0], [*again.encode_prompt("b"), 0]]
    assert again.encode_prompt("") == ([1] if has_bos else [0])


def test_only_the_first_piece_of_a_long_document_begins_it(tmp_path, monkeypatch):
    tokenizer = Tokenizer.load(folder_of(tmp_path / "theirs", POST_PROCESSORS["BOS"]))
    expected = trained_on(tokenizer, TEXT * 20, "b", TEXT * 3)
    monkeypatch.setattr("litespark.data.prepare.encoding._PIECE_CHARACTERS", 30)
    assert trained_on(tokenizer, TEXT * 20, "b", TEXT * 3) == expected


def test_a_bos_that_is_missing_or_ends_documents_too_is_refused(tmp_path):
    other = folder_of(tmp_path / "other", POST_PROCESSORS["EOS at both ends"], bos_token="<eos>")
    assert Tokenizer.load(other).begin_ids == []
    with pytest.raises(ValueError, match=r"no token that begins a document and ends none; set data\.add_bos=auto"):
        Tokenizer.load(other, add_bos=True)
    none = Tokenizer.train(["text"], vocab_size=260)
    none.save(tmp_path / "none")
    with pytest.raises(ValueError, match="no token that begins a document"):
        Tokenizer.load(tmp_path / "none", add_bos=True)


@pytest.mark.parametrize("own", [True, False])
def test_a_saved_tokenizer_pads_without_a_new_id(tmp_path, own):
    transformers = pytest.importorskip("transformers")
    pad = {"pad_token": {"content": "<pad>", "lstrip": False}} if own else {}
    tokenizer = Tokenizer.load(folder_of(tmp_path / "theirs", None, **pad))
    tokenizer.save(tmp_path / "ours")
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "ours")
    batch = theirs(["a", "abc"], padding=True)
    assert set(batch) == {"input_ids", "attention_mask"}
    assert batch["input_ids"][0][1:] == [2 if own else 0] * 2
    assert len(theirs) == tokenizer.vocab_size


def test_a_prompt_that_is_no_text_is_refused():
    tokenizer = Tokenizer.train(["text"], vocab_size=260)
    with pytest.raises(ValueError, match=r"is not UTF-8 at character 2.*expected text"):
        tokenizer.encode_prompt("ab\udcff")


def test_a_tokenizer_lies_in_a_run_and_belongs_to_its_checkpoints(tmp_path):
    (tmp_path / "checkpoints/step-00000001").mkdir(parents=True)
    folder = tmp_path / "tokenizer"
    Tokenizer.train(["text"], vocab_size=260).save(folder)
    for path in (tmp_path, tmp_path / "checkpoints/step-00000001", folder):
        assert Tokenizer.load(path).vocab_size == 260


def test_two_tokenizers_differ_where_an_id_means_another_token():
    one, other = (Tokenizer.train([text], vocab_size=260) for text in ("aaaa aaaa", "bcbc bcbc"))
    assert one.difference(one) is None
    assert "ids mean other tokens, such as 25" in str(one.difference(other))
    more = tokenizers.Tokenizer.from_str(one.model.description().decode())
    more.add_special_tokens(["<|more|>"])
    assert Tokenizer(TokenizersModel(more), eos_id=0, bos_id=None).difference(one) is None


def test_a_failure_inside_the_library_is_an_error_of_ours(monkeypatch):
    class PanicException(BaseException):
        """As the library raises it."""

    class Failing:
        def encode_batch_fast(self, texts: list[str], add_special_tokens: bool) -> None:
            raise PanicException("index out of bounds")

    tokenizer = Tokenizer.train(["text"], vocab_size=260)
    monkeypatch.setattr(tokenizer.model, "_tokenizer", Failing())
    for encode in (tokenizer.encode_batch, tokenizer.encode_parts):
        with pytest.raises(ValueError, match="the tokenizer fails at a text: index out of bounds; name another"):
            encode(["a"])
