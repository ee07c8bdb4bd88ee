"""A sentencepiece model of any kind gives sentencepiece's ids, from its file to an exported model."""

from __future__ import annotations

import io
import json
import random
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from litespark.cli import main
from litespark.data.prepare.check import check_prepared
from litespark.data.storage import Storage
from litespark.data.stream.cache import ChunkCache
from litespark.data.tokenizer import Tokenizer
from tests.cli.tiny_run import tiny

sentencepiece = pytest.importorskip("sentencepiece")

LIBRARY = Path(random.__file__).parent
STRANGE = "ab =-_▁\n\t.é漢🙂<s>/0xA\u0301ü"


@cache
def text_of(*names: str) -> tuple[str, ...]:
    """Lines of modules of the standard library."""
    return tuple(line for name in names for line in (LIBRARY / name).read_text(encoding="utf-8").split("\n") if line)


def train(folder: Path, kind: str = "bpe", **options: Any) -> Path:
    """A model of 400 pieces that normalises nothing, unless told otherwise."""
    lines = [*text_of("random.py", "argparse.py"), *["ünïcode 漢字 é ====== aaaaaa aaa"] * 3]
    settings = {"vocab_size": 400, "model_type": kind, "byte_fallback": kind in ("bpe", "unigram")}
    settings |= {"normalization_rule_name": "identity", "hard_vocab_limit": False}
    settings |= {"character_coverage": 0.9995, "minloglevel": 2, "num_threads": 1}
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines), model_writer=model, **{**settings, **options}
    )
    path = folder / "tokenizer.model"
    path.write_bytes(model.getvalue())
    return path


def texts() -> list[str]:
    """Lines that no model here has seen, random strings of troublesome characters, and one long text."""
    draw = random.Random(0)
    held_out = text_of("calendar.py")
    strange = ["".join(draw.choices(STRANGE, k=draw.randint(1, 30))) for _ in range(300)]
    return [*held_out, *strange, "\n".join(held_out), ""]


MODELS: list[dict[str, Any]] = [
    {},
    {"normalization_rule_name": "nmt_nfkc"},
    {"kind": "unigram", "normalization_rule_name": "nmt_nfkc_cf", "user_defined_symbols": ["<extra>"]},
    {"kind": "unigram", "treat_whitespace_as_suffix": True},
    {"kind": "char", "add_dummy_prefix": False},
    {"remove_extra_whitespaces": False, "allow_whitespace_only_pieces": True, "split_digits": True},
]


@pytest.mark.parametrize("options", MODELS, ids=str)
def test_ids_and_texts_are_those_of_sentencepiece_also_once_it_is_saved(tmp_path, options):
    path = train(tmp_path, **options)
    theirs = sentencepiece.SentencePieceProcessor(model_file=str(path))
    tokenizer = Tokenizer.load(path)
    tokenizer.save(tmp_path / "saved")
    again = Tokenizer.load(tmp_path / "saved")
    expected = theirs.encode(texts())
    for mine in (tokenizer, again):
        assert mine.encode_batch(texts()) == expected
        assert [mine.decode(ids) for ids in expected] == theirs.decode(expected)
        assert (mine.vocab_size, mine.eos_id, mine.bos_id, mine.begin_ids) == (len(theirs), 2, 1, [])
    assert again.hash == tokenizer.hash
    assert (tmp_path / "saved" / "tokenizer.model").read_bytes() == path.read_bytes()


def test_special_pieces_in_a_text_stay_text_and_symbols_of_the_user_do_not(tmp_path):
    tokenizer = Tokenizer.load(train(tmp_path, user_defined_symbols=["<extra>"]))
    text = "an </s> and <s> and <unk> and <0x0A>"
    (ids,) = tokenizer.encode_batch([text])
    assert not {0, 1, 2, tokenizer.model.id_of("<0x0A>")} & set(ids)
    assert tokenizer.decode(ids) == text
    assert tokenizer.model.id_of("<extra>") in tokenizer.encode_batch(["x<extra>y"])[0]
    assert tokenizer.model.id_of("no such piece") is None


def test_the_bytes_of_its_pieces_are_those_of_the_text(tmp_path):
    tokenizer = Tokenizer.load(train(tmp_path, add_dummy_prefix=False, remove_extra_whitespaces=False))
    lengths = tokenizer.token_bytes()
    assert lengths[:3] == [0, 0, 0]
    for text, ids in zip(texts(), tokenizer.encode_batch(texts()), strict=True):
        # only `▁` itself, which decodes to a space, has other bytes
        assert sum(lengths[number] for number in ids) == len(text.replace("▁", " ").encode())


def test_a_file_that_is_no_model_and_a_missing_library_are_refused(tmp_path, monkeypatch):
    for content in (b"no model", b""):
        (tmp_path / "broken.model").write_bytes(content)
        with pytest.raises(ValueError, match=r"broken.model is not a sentencepiece model"):
            Tokenizer.load(tmp_path / "broken.model")
    monkeypatch.setitem(sys.modules, "sentencepiece", None)
    with pytest.raises(ValueError, match=r"pip install 'litespark\[sentencepiece\]'"):
        Tokenizer.load(tmp_path / "broken.model")


@pytest.mark.parametrize(
    "settings, begin", [(None, []), ({"add_bos_token": True}, [1]), ({"add_bos_token": False}, [])]
)
def test_what_lies_beside_a_model_says_whether_bos_begins_a_document(tmp_path, settings, begin):
    model = train(tmp_path)
    if settings is not None:
        (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    for path in (model, tmp_path):  # by its name, and by its folder
        tokenizer = Tokenizer.load(path)
        assert tokenizer.begin_ids == begin
        assert tokenizer.encode_batch(["a b"])[0] == begin + tokenizer.encode_parts(["a b"])[0]
    other = Tokenizer.load(model, add_bos=not begin, eos_token="<unk>")
    assert other.begin_ids == ([] if begin else [1])
    assert other.hash != tokenizer.hash
    other.save(tmp_path / "saved")
    again = Tokenizer.load(tmp_path / "saved")
    assert (again.begin_ids, again.eos_id, again.hash) == (other.begin_ids, 0, other.hash)


def test_a_run_on_a_normalising_model_prepares_trains_exports_and_generates(tmp_path, capsys):
    transformers = pytest.importorskip("transformers")
    path = train(tmp_path, normalization_rule_name="nmt_nfkc")
    (tmp_path / "tokenizer_config.json").write_text('{"add_bos_token": true}')
    settings = {
        "data__tokenizer": path,
        "model__vocab_size": 400,
        "data__vocab_size": 400,
        "callbacks__sample_prompt": "the quick",
        "name": "pieces",
    }
    assert main(["train", *tiny(tmp_path, **settings)]) == 0
    run, exported = tmp_path / "logs" / "runs" / "pieces", tmp_path / "exported"
    (manifest_file,) = (tmp_path / "data").rglob("manifest.json")
    manifest, strange = check_prepared(manifest_file.parent)
    assert (manifest.tokenizer_hash, strange) == (Tokenizer.load(path).hash, [])
    assert main(["export", str(run), str(exported)]) == 0
    for file in (manifest_file.parent / "tokenizer.model", run / "tokenizer" / "tokenizer.model"):
        assert (exported / "tokenizer.model").read_bytes() == file.read_bytes()
    capsys.readouterr()
    generated = []
    for folder in (run, exported):
        assert main(["generate", str(folder), "--prompt", "the ﬁrst", "--tokens", "5"]) == 0
        generated.append(capsys.readouterr().out)
    assert generated[0] == generated[1]
    reader = transformers.AutoTokenizer.from_pretrained(exported)
    tokenizer = Tokenizer.load(exported)
    for text in ("the quick", "the  ﬁrst ½\n\tline", "def f(x):\n    return x"):
        assert reader(text)["input_ids"] == tokenizer.encode_prompt(text)


def test_a_copy_of_prepared_data_in_the_cache_has_the_model(tmp_path):
    address = "memory://pieces"
    path = train(tmp_path)
    arguments = tiny(tmp_path, data__tokenizer=path, data__vocab_size=400)
    assert main(["prepare", *(word for word in arguments if word.startswith(("data.", "paths.data")))]) == 0
    (manifest_file,) = (tmp_path / "data").rglob("manifest.json")
    for file in manifest_file.parent.glob("*.*"):
        Storage(address).write(file.name, file.read_bytes())
    copied = ChunkCache(tmp_path / "cache", 10**9).data_set(address)
    assert sorted(file.name for file in copied.iterdir()) == [
        "manifest.json", "tokenizer.model", "tokenizer_config.json",
    ]  # fmt: skip


def test_transformers_follows_a_model_by_one_name_and_not_by_that_of_llama(tmp_path):
    """Why a saved tokenizer_config.json names PreTrainedTokenizerFast."""
    transformers = pytest.importorskip("transformers")
    model = train(tmp_path)
    lines = text_of("calendar.py")
    expected = sentencepiece.SentencePieceProcessor(model_file=str(model)).encode([*lines])
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    same = {}
    for name in ("PreTrainedTokenizerFast", "LlamaTokenizer"):
        (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": name}))
        theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
        ids = theirs([*lines], add_special_tokens=False)["input_ids"]
        same[name] = sum(mine == other for mine, other in zip(expected, ids, strict=True)) / len(lines)
    assert same["PreTrainedTokenizerFast"] == 1
    assert same["LlamaTokenizer"] < 0.5, "transformers is mended: `Tokenizer.save` can name LlamaTokenizer"
