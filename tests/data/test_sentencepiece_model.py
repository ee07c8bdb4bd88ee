"""Converted sentencepiece models give sentencepiece's ids, or are refused."""

from __future__ import annotations

import io
import json
import random
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from litespark.data import sentencepiece_model
from litespark.data.sentencepiece_model import is_tie, load_sentencepiece
from litespark.data.tokenizer import Tokenizer

sentencepiece = pytest.importorskip("sentencepiece")

LIBRARY = Path(random.__file__).parent
STRANGE = "ab =-_▁\n\t.é漢🙂<s>/0xA\u0301ü"


@cache
def text_of(*names: str) -> tuple[str, ...]:
    """Lines of modules of the standard library."""
    return tuple(line for name in names for line in (LIBRARY / name).read_text(encoding="utf-8").split("\n") if line)


def train(folder: Path, kind: str, **options: Any) -> Path:
    """A model of 700 pieces that normalises nothing, unless told otherwise."""
    lines = [*text_of("random.py", "argparse.py", "ast.py"), *["ünïcode 漢字 é ====== aaaaaa aaa"] * 3]
    settings = {"vocab_size": 700, "model_type": kind, "byte_fallback": True, "normalization_rule_name": "identity"}
    settings |= {"character_coverage": 0.9995, "minloglevel": 2, "num_threads": 1}
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines), model_writer=model, **{**settings, **options}
    )
    path = folder / f"{kind}.model"
    path.write_bytes(model.getvalue())
    return path


def texts() -> list[str]:
    """Lines that no model here has seen, random strings of troublesome characters, and one long text."""
    draw = random.Random(0)
    held_out = text_of("calendar.py", "inspect.py")
    strange = ["".join(draw.choices(STRANGE, k=draw.randint(1, 30))) for _ in range(500)]
    return [*held_out, *strange, "\n".join(held_out)]


def different(path: Path) -> list[tuple[list[int], list[int]]]:
    """Ids of sentencepiece and of the converted tokenizer where they differ."""
    theirs = sentencepiece.SentencePieceProcessor(model_file=str(path))
    mine = Tokenizer.load(path, eos_token=theirs.id_to_piece(0)).encode_batch(texts())
    return [pair for pair in zip(theirs.encode(texts()), mine, strict=True) if pair[0] != pair[1]]


def parsed(path: Path) -> Any:
    from sentencepiece import sentencepiece_model_pb2

    return sentencepiece_model_pb2.ModelProto.FromString(path.read_bytes())


OPTIONS: list[dict[str, Any]] = [
    {},
    {"byte_fallback": False},
    {"add_dummy_prefix": False},
    {"remove_extra_whitespaces": False, "allow_whitespace_only_pieces": True, "split_digits": True},
    {"split_by_whitespace": False, "remove_extra_whitespaces": False},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_ids_of_bpe_are_the_same_for_every_text(tmp_path, options):
    assert different(train(tmp_path, "bpe", **options)) == []


def test_symbols_of_the_user_are_found_in_a_text(tmp_path):
    symbols = ["<extra>", "aa", "a="]
    path = train(tmp_path, "bpe", add_dummy_prefix=False, user_defined_symbols=symbols)
    assert different(path) == []
    tokenizer = Tokenizer.load(path)
    (ids,) = tokenizer.encode_batch(["x<extra>y"])
    assert "<extra>" in [parsed(path).pieces[number].piece for number in ids]


@pytest.mark.parametrize("options", [OPTIONS[1], OPTIONS[3]], ids=str)
def test_ids_of_a_unigram_model_are_the_same_but_for_ties(tmp_path, options):
    path = train(tmp_path, "unigram", **options)
    found, model = different(path), parsed(path)
    assert all(is_tie(model, *pair) for pair in found)
    assert len(found) < 0.02 * len(texts())


def test_special_pieces_in_a_text_stay_text(tmp_path):
    for kind in ("bpe", "unigram"):
        tokenizer = Tokenizer.load(train(tmp_path, kind))
        assert (tokenizer.eos_id, tokenizer.bos_id, tokenizer.vocab_size) == (2, 1, 700)
        (ids,) = tokenizer.encode_batch(["an </s> and <s> and <unk> and <0x0A>"])
        assert not {0, 1, 2, 3 + 0x0A} & set(ids)
        assert tokenizer.decode(ids) == "an </s> and <s> and <unk> and <0x0A>"


def test_it_is_saved_as_a_tokenizer_json_with_the_same_ids_and_bytes(tmp_path):
    tokenizer = Tokenizer.load(train(tmp_path, "bpe", add_dummy_prefix=False, remove_extra_whitespaces=False))
    tokenizer.save(tmp_path / "saved")
    again = Tokenizer.load(tmp_path / "saved")
    ids, lengths = again.encode_batch(texts()), again.token_bytes()
    assert (again.hash, again.eos_id, ids) == (tokenizer.hash, 2, tokenizer.encode_batch(texts()))
    for text, its in zip(texts(), ids, strict=True):
        # only `▁` itself, which decodes to a space, has other bytes
        assert sum(lengths[number] for number in its) == len(text.replace("▁", " ").encode())


@pytest.mark.parametrize(
    "kind, options, message",
    [
        ("bpe", {"normalization_rule_name": "nmt_nfkc"}, "normalises texts by 'nmt_nfkc'"),
        ("char", {}, "is neither BPE nor unigram"),
        ("bpe", {"treat_whitespace_as_suffix": True}, "has ▁ behind words"),
        ("bpe", {"user_defined_symbols": ["<extra>"]}, "symbols of its user that its treatment of spaces changes"),
        ("unigram", {"user_defined_symbols": ["<extra>"], "add_dummy_prefix": False}, "unigram model with symbols"),
    ],
)
def test_what_has_no_counterpart_is_refused(tmp_path, kind, options, message):
    path = train(tmp_path, kind, **options)
    with pytest.raises(ValueError, match=rf"{message}.*cannot be converted with the same ids"):
        load_sentencepiece(path)


@pytest.mark.parametrize("kind", ["bpe", "unigram"])
def test_a_conversion_that_gives_other_ids_is_noticed(tmp_path, monkeypatch, kind):
    path = train(tmp_path, kind)
    right = sentencepiece_model._normalizer
    monkeypatch.setattr(sentencepiece_model, "_normalizer", lambda collapse, prefix: right(False, prefix))
    with pytest.raises(ValueError, match=r"cannot be converted with the same ids: of '.*' sentencepiece makes"):
        load_sentencepiece(path)


def test_a_file_that_is_no_model_and_a_missing_library_are_refused(tmp_path, monkeypatch):
    (tmp_path / "broken.model").write_bytes(b"no model")
    with pytest.raises(ValueError, match=r"broken.model is not a sentencepiece model"):
        Tokenizer.load(tmp_path / "broken.model")
    monkeypatch.setitem(sys.modules, "sentencepiece", None)
    with pytest.raises(ValueError, match=r"pip install 'litespark\[sentencepiece\]'"):
        Tokenizer.load(tmp_path / "broken.model")


@pytest.mark.parametrize(
    "settings, begin", [(None, []), ({"add_bos_token": True}, [1]), ({"add_bos_token": False}, [])]
)
def test_what_lies_beside_a_model_says_whether_bos_begins_a_document(tmp_path, settings, begin):
    model = train(tmp_path, "bpe").rename(tmp_path / "tokenizer.model")
    if settings is not None:
        (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    for path in (model, tmp_path):  # by its name, and by its folder
        tokenizer = Tokenizer.load(path)
        assert tokenizer.begin_ids == begin
        assert tokenizer.encode_batch(["a b"])[0] == begin + tokenizer.encode_parts(["a b"])[0]
    assert Tokenizer.load(model, add_bos=not begin).begin_ids == ([] if begin else [1])


def test_what_transformers_makes_of_a_model_gives_other_ids(tmp_path):
    transformers = pytest.importorskip("transformers")
    model = train(tmp_path, "bpe").rename(tmp_path / "tokenizer.model")
    lines = text_of("calendar.py")
    expected = sentencepiece.SentencePieceProcessor(model_file=str(model)).encode([*lines])
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "LlamaTokenizer"}')
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    differing = sum(
        theirs.encode(line, add_special_tokens=False) != ids for line, ids in zip(lines, expected, strict=True)
    )
    assert differing > 0.5 * len(lines)
