"""Whatever stands in the files of a Hugging Face folder, reading it works or is refused with a message."""

from __future__ import annotations

import copy
import json
import shutil
from contextlib import suppress
from pathlib import Path

import pytest

from litespark.data.tokenizer import Tokenizer
from litespark.models.llama.huggingface import export_huggingface
from litespark.models.safetensors_folder import INDEX
from litespark.run.initial_weights import InitialWeights
from litespark.run.load import load_for_generation
from tests.models.small import small_model
from tests.properties import HealthCheck, given, settings, st

FILES = (
    "config.json",
    "generation_config.json",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer_config.json",
    INDEX,
)
PLAIN = (
    st.none()
    | st.booleans()
    | st.integers(-2, 2**70)
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from(["32", "1e-5", "\ud800", "../x", "llama3", "BPE"])
)
VALUES = st.recursive(
    PLAIN,
    lambda each: st.lists(each, max_size=3) | st.dictionaries(st.text(max_size=3), each, max_size=3),
    max_leaves=5,
)
BYTES = (
    st.binary(max_size=40)
    | st.sampled_from([b"", b"\xff\xfe{}", b"[" * 100_000, b'{"a":' * 50_000, b"9" * 5000, b"NaN", b'{"a": 1e999}'])
    | VALUES.map(lambda value: json.dumps(value).encode())
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("fuzzed")
    (root / "tokenizer").mkdir()
    Tokenizer.train(["some text"], vocab_size=260).save(root / "tokenizer")
    export_huggingface(
        small_model(vocab_size=260), root / "sound", tokenizer=root / "tokenizer", eos_id=0, max_shard_bytes=20_000
    )
    (root / "sound/special_tokens_map.json").write_text('{"eos_token": {"content": "<|endoftext|>"}}')
    return root / "sound"


def read(folder: Path) -> None:
    """As the commands do; ValueErrors are what they show."""
    for step in (
        lambda: InitialWeights.find(folder),
        lambda: load_for_generation(folder),
        lambda: Tokenizer.load(folder).encode_prompt("some text"),
    ):
        with suppress(ValueError):
            step()


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck) if HealthCheck else [])
@given(data=st.data())
def test_a_file_of_anything_is_read_or_refused(folder, data):
    path = folder / data.draw(st.sampled_from(FILES))
    before = path.read_bytes()
    try:
        path.write_bytes(data.draw(BYTES))
        read(folder)
    finally:
        path.write_bytes(before)


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck) if HealthCheck else [])
@given(data=st.data())
def test_a_file_with_one_value_of_anything_is_read_or_refused(folder, data):
    path = folder / data.draw(st.sampled_from(FILES))
    before = path.read_bytes()
    content = json.loads(before)
    _change(content, data)
    try:
        path.write_text(json.dumps(content))
        read(folder)
    finally:
        path.write_bytes(before)


def _change(node: dict | list, data: st.DataObject) -> None:
    """Replace or remove one value somewhere in it."""
    keys = list(node) if isinstance(node, dict) else list(range(min(len(node), 5)))
    key = data.draw(st.sampled_from(keys))
    if isinstance(node[key], dict | list) and node[key] and data.draw(st.booleans()):
        _change(node[key], data)
    elif data.draw(st.integers(0, 5)):
        node[key] = copy.deepcopy(data.draw(VALUES))
    else:
        del node[key]


@pytest.mark.parametrize("name", [*FILES, "model-00001-of-00005.safetensors", None])
def test_a_file_or_folder_that_is_gone_is_refused_or_not_needed(folder, tmp_path, name):
    copied = Path(shutil.copytree(folder, tmp_path / "copied"))
    if name is None:
        shutil.rmtree(copied)
    else:
        next(iter(copied.glob(name.replace("00005", "*")))).unlink()
        copied.joinpath(name).mkdir()  # a folder in its place
    read(copied)
