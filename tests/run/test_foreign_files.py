"""Whatever stands in the files of a Hugging Face folder, reading it works or is refused with a message."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path

import pytest

from litespark.data.tokenizer import Tokenizer
from litespark.models.llama.huggingface import export_huggingface
from litespark.models.safetensors_folder import INDEX
from litespark.ops.rope.reference import RopeScaling
from litespark.run.load import load_for_generation
from litespark.run.model_folder import ModelFolder
from tests.models.small import small_model

FILES = [
    INDEX,
    *(
        f"{name}.json"
        for name in ("config", "generation_config", "special_tokens_map", "tokenizer", "tokenizer_config")
    ),
]
BYTES = [b"", b"\xff\xfe{}", b"[" * 100_000, b'{"a":' * 50_000, b"9" * 5000, b"NaN", b'{"a": 1e999}', b"[1]"]
VALUES = [None, True, -1, 2**70, 1e308, "32", "\ud800", "../x", [[]], {"a": 1}]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("foreign")
    (root / "tokenizer").mkdir()
    Tokenizer.train(["some text"], vocab_size=260).save(root / "tokenizer")
    model = small_model(vocab_size=260, rope_scaling=RopeScaling(2.0, kind="yarn", original_max_seq_len=16))
    export_huggingface(model, root / "sound", tokenizer=root / "tokenizer", eos_id=0, max_shard_bytes=20_000)
    (root / "sound/special_tokens_map.json").write_text('{"eos_token": {"content": "<|endoftext|>"}}')
    return root / "sound"


def read(folder: Path) -> None:
    """As the commands do; ValueErrors are what they show."""
    for step in (ModelFolder.find, load_for_generation, lambda folder: Tokenizer.load(folder).encode_prompt("text")):
        with suppress(ValueError):
            step(folder)


@pytest.mark.parametrize("name", FILES)
def test_a_file_of_anything_or_none_is_read_or_refused(folder, name):
    path, sound = folder / name, (folder / name).read_bytes()
    for written in BYTES:
        path.write_bytes(written)
        read(folder)
    content = json.loads(sound)
    for owner in (content, *(value for value in content.values() if isinstance(value, dict))):
        for key in list(owner)[:20]:
            before = owner[key]
            for owner[key] in VALUES:
                path.write_text(json.dumps(content))
                read(folder)
            owner[key] = before
    path.unlink()
    read(folder)
    path.mkdir()  # a folder in its place
    read(folder)
    path.rmdir()
    path.write_bytes(sound)
