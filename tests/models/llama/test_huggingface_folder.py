"""Folders in transformers' format: complete exports, bit-equal round trips, and every broken folder refused."""

import json
import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file

from litespark.data.tokenizer import Tokenizer
from litespark.models.llama.config import RopeScaling
from litespark.models.llama.huggingface import export_huggingface, load_huggingface
from litespark.models.llama.huggingface_config import _KEYS, read_config, to_huggingface_config, why_not_native
from litespark.models.llama.model import Rotary
from litespark.models.safetensors_folder import INDEX, SINGLE, end_ids
from litespark.ops.backend import resolve
from litespark.ops.tolerance import relative_distance
from tests.models.small import BIASES, SDPA, give_biases, random_ids, small_model

CONFIGS = {
    "plain": {},
    "tie_embeddings": {"tie_embeddings": True},
    "llama3": {"rope_scaling": RopeScaling(8.0, 1.0, 4.0, 16), "rope_theta": 5e5},
    "linear": {"rope_scaling": RopeScaling(4.0, kind="linear")},
    "yarn": {"rope_scaling": RopeScaling(4.0, kind="yarn", original_max_seq_len=16, beta_fast=2.0, truncate=False)},
    "dynamic": {"rope_scaling": RopeScaling(4.0, kind="dynamic", original_max_seq_len=64)},
    "several ends": {"eos_ids": (7, 3)},
    "wide heads": {"head_dim": 12, "num_kv_heads": 1},
    "biases": BIASES,
}


def _load(folder):
    return load_huggingface(folder, resolve(SDPA))


def _tokenizer(folder, vocab_size=300, config=None):
    folder.mkdir()
    text = "def parity(a, b):\n    return a == b\n"
    tokenizer = Tokenizer.train([text] * 20, vocab_size=vocab_size).model._tokenizer
    tokenizer.save(str(folder / "tokenizer.json"))
    if config is not None:
        (folder / "tokenizer_config.json").write_text(config)
    return tokenizer


@pytest.mark.parametrize("changes", CONFIGS.values(), ids=CONFIGS)
@pytest.mark.parametrize("max_shard_bytes", [5_000_000_000, 1])
def test_import_of_an_export_is_bit_equal_and_so_is_its_export(tmp_path, changes, max_shard_bytes):
    model = small_model(**changes)
    give_biases(model)
    export_huggingface(model, tmp_path / "small", max_shard_bytes=max_shard_bytes)
    again = _load(tmp_path / "small")
    assert again.config == model.config
    assert again.state_dict().keys() == model.state_dict().keys()
    for name, value in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], value), name
    export_huggingface(again, tmp_path / "again", max_shard_bytes=max_shard_bytes)
    first, second = ({p.name: p.read_bytes() for p in (tmp_path / n).iterdir()} for n in ("small", "again"))
    assert first == second


def test_bf16_weights_stay_bf16(tmp_path):
    model = small_model().to(torch.bfloat16)
    export_huggingface(model, tmp_path / "small")
    assert {tensor.dtype for tensor in load_file(tmp_path / "small" / SINGLE).values()} == {torch.bfloat16}
    assert json.loads((tmp_path / "small/config.json").read_text())["torch_dtype"] == "bfloat16"
    assert torch.equal(_load(tmp_path / "small").head.weight, model.head.weight.float())


def test_shards_keep_below_their_size_with_the_right_index_and_the_mode_of_the_umask(tmp_path):
    before = os.umask(0o027)
    try:
        export_huggingface(small_model(), tmp_path / "small", max_shard_bytes=20_000)
    finally:
        os.umask(before)
    assert {oct(path.stat().st_mode & 0o777) for path in (tmp_path / "small").iterdir()} == {"0o640"}
    index = json.loads((tmp_path / "small" / INDEX).read_text())
    files = {file: load_file(tmp_path / "small" / file) for file in set(index["weight_map"].values())}
    assert len(files) > 2
    assert {name: file for file, tensors in files.items() for name in tensors} == index["weight_map"]
    sizes = {file: sum(t.nbytes for t in tensors.values()) for file, tensors in files.items()}
    assert max(sizes.values()) <= 20_000
    assert sum(sizes.values()) == index["metadata"]["total_size"]
    assert not (tmp_path / "small" / SINGLE).exists()


@pytest.mark.parametrize("changes", CONFIGS.values(), ids=CONFIGS)
def test_transformers_loads_model_and_tokenizer(tmp_path, changes):
    transformers = pytest.importorskip("transformers")
    ours = small_model(vocab_size=300, **changes)
    give_biases(ours)
    tokenizer = _tokenizer(tmp_path / "tokenizer")
    eos = tokenizer.token_to_id("<|endoftext|>")
    export_huggingface(ours, tmp_path / "small", tokenizer=tmp_path / "tokenizer", eos_id=eos, max_shard_bytes=50_000)

    theirs, loading = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "small", output_loading_info=True)
    assert not any(loading[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    ids = random_ids(1, 40, vocab_size=300)
    assert relative_distance(theirs(ids).logits, ours(ids)) <= 2e-6
    ends = [eos, *ours.config.eos_ids] if ours.config.eos_ids else eos
    assert theirs.generation_config.eos_token_id == theirs.config.eos_token_id == ends
    reader = transformers.AutoTokenizer.from_pretrained(tmp_path / "small")
    text = "def odd(x):\n\treturn  x % 2 == 1  # naïve\n"
    assert reader(text, add_special_tokens=False)["input_ids"] == tokenizer.encode(text).ids
    assert reader.decode(reader(text)["input_ids"]) == text
    assert reader.eos_token_id == eos
    settings = json.loads((tmp_path / "small/tokenizer_config.json").read_text())
    assert settings["tokenizer_class"] == "PreTrainedTokenizerFast"


def test_dynamic_scaling_begins_in_transformers_where_it_does_here(tmp_path):
    """Beyond the longest sequence of training, up to the original length."""
    transformers = pytest.importorskip("transformers")
    scaling = RopeScaling(4.0, kind="dynamic", original_max_seq_len=64)
    export_huggingface(small_model(rope_scaling=scaling, max_seq_len=32), tmp_path / "small")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "small")
    ids = random_ids(1, 64)
    assert relative_distance(theirs(ids).logits, small_model(rope_scaling=scaling)(ids)) <= 2e-6
    with pytest.raises(ValueError, match=r"model.max_seq_len is 65 .* beyond .*; set model.max_seq_len=64"):
        small_model(rope_scaling=scaling, max_seq_len=65)


def test_tokenizer_files_are_copied_as_they_are(tmp_path):
    _tokenizer(tmp_path / "tokenizer", config='{"tokenizer_class": "PreTrainedTokenizerFast"}')
    (tmp_path / "tokenizer/chat_template.jinja").write_text("{{ messages }}")
    (tmp_path / "tokenizer/notes.txt").write_text("not a tokenizer file")
    export_huggingface(small_model(vocab_size=300), tmp_path / "small", tokenizer=tmp_path / "tokenizer")
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        assert (tmp_path / "small" / name).read_bytes() == (tmp_path / "tokenizer" / name).read_bytes()
    assert not (tmp_path / "small/notes.txt").exists()


def _fill_disk(folder, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=10**6))


@pytest.mark.parametrize(
    ("prepare", "changes", "message"),
    [
        (lambda folder, _: (folder / "tokenizer").mkdir(), {}, r"tokenizer.json cannot be read"),
        (lambda folder, _: _tokenizer(folder / "tokenizer", 266), {},
         r"token ids up to 265, the model's vocabulary is 265"),
        (lambda folder, _: _tokenizer(folder / "tokenizer", 265, '{"auto_map": {"AutoTokenizer": ["evil.T", null]}}'),
         {}, "auto_map: it needs code of its own, refused here"),
        (lambda folder, _: (folder / "small/precious").mkdir(parents=True), {},
         "exists and is not empty; export into a new folder"),
        (_fill_disk, {}, r"0\.0 GB free, the export needs 0\.1 GB"),
        (lambda *_: None, {"hidden_size": 30, "head_dim": 8}, r"hidden_size 30 .* num_heads 4"),
    ],
)  # fmt: skip
def test_what_cannot_be_exported_is_refused_before_anything_is_written(
    tmp_path, monkeypatch, prepare, changes, message
):
    prepare(tmp_path, monkeypatch)
    before = sorted(tmp_path.rglob("*"))
    tokenizer = tmp_path / "tokenizer"
    with pytest.raises(ValueError, match=message):
        export_huggingface(
            small_model(vocab_size=265, **changes),
            tmp_path / "small",
            tokenizer=tokenizer if tokenizer.exists() else None,
        )
    assert sorted(tmp_path.rglob("*")) == before


def test_the_export_gets_its_name_last_and_at_once(tmp_path, monkeypatch):
    seen = []

    def failing(partial, target):
        seen.append((sorted(path.name for path in partial.iterdir()), target.exists()))
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(Path, "replace", failing)
    with pytest.raises(ValueError, match=r"cannot export to .*small: Input/output error"):
        export_huggingface(small_model(), tmp_path / "small")
    assert seen == [(["config.json", "generation_config.json", SINGLE], False)]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"architectures": ["MistralForCausalLM"]}, "architectures is .*MistralForCausalLM.* native Llama .*LlamaForC"),
        ({"model_type": "qwen2"}, "model_type is 'qwen2'"),
        (
            {"hidden_act": "gelu"},
            r"_act is 'gelu', .* 'silu'\. model=huggingface model\.path=.*small trains any",
        ),
        ({"attention_bias": True}, r"lacks 8 of the tensors its config.json implies: .*k_proj\.bias"),
        ({"mlp_bias": "yes"}, "model.mlp_bias: got 'yes', expected true or false"),
        ({"quantization_config": {"bits": 4}}, "quantization_config is"),
        ({"rope_scaling": {"rope_type": "llama3", "factor": 8.0}}, r"low_frequency_factor: got nothing.*kind=llama3"),
        ({"rope_scaling": {"type": "yarn"}}, r"model.rope_scaling.factor: got None, expected a number above 0"),
        (
            {"rope_scaling": {"type": "yarn", "factor": 2, "beta_slow": 32}},
            "beta_slow: got 32, expected .* below beta",
        ),
        ({"rope_scaling": {"type": "yarn", "factor": 2}, "rope_theta": 1}, "model.rope_theta is 1 with YaRN"),
        (
            {"rope_scaling": {"type": "dynamic", "factor": 2.0, "original_max_position_embeddings": 32}},
            "length of a sequence beyond 32, and max_position_embeddings is 64; .* takes it with .*embeddings 32",
        ),
        # as in transformers, the old key wins over the new one
        (
            {"rope_scaling": {"type": "longrope", "factor": 2.0}, "rope_parameters": {"rope_type": "default"}},
            "rotary type is 'longrope', with angles that depend on the length",
        ),
        ({"rope_scaling": ["linear", 2.0]}, "the rotary settings are .*expected a JSON object or null"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor is 0.5"),
        ({"rope_parameters": {"partial_rotary_factor": 0.5}, "rope_scaling": None}, "partial_rotary_factor is 0.5"),
        ({"rope_theta": "10000"}, "config.json: model.rope_theta: got '10000'"),
        ({"hidden_size": 10**30}, "model.hidden_size: got 1000"),
        ({"intermediate_size": 47}, r"mlp.gate_proj.weight is \(48, 32\); its config.json implies \(47, 32\)"),
        ({"vocab_size": 60}, r"embed_tokens.weight is \(61, 32\).*; set vocab_size to 61 in config.json"),
        ({"num_hidden_layers": 3}, r"lacks 9 of the tensors .*model\.layers\.2\."),
        ({"num_hidden_layers": 1}, r"has 9 tensors that a Llama of its config.json has not: .*model\.layers\.1\."),
        ({"tie_word_embeddings": True}, "lm_head.weight differs from the embedding"),
    ],
)
def test_models_that_are_no_plain_llama_are_refused(tmp_path, changes, message):
    export_huggingface(small_model(), tmp_path / "small")
    path = tmp_path / "small/config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(ValueError, match=message):
        _load(tmp_path / "small")


def test_whether_a_folder_is_one_for_the_native_llama(tmp_path):
    path = tmp_path / "config.json"
    path.write_text(json.dumps(SIZES))
    assert why_not_native(tmp_path) is None
    path.write_text(json.dumps(SIZES | {"hidden_act": "gelu"}))
    assert why_not_native(tmp_path) == "hidden_act is 'gelu', that of the native Llama 'silu'"
    path.write_text(json.dumps(SIZES | {"hidden_size": -1}))
    with pytest.raises(ValueError, match="hidden_size: got -1"):
        why_not_native(tmp_path)


def _edit(path, change):
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)


def _without(folder, name):
    index = json.loads((folder / INDEX).read_text())
    _edit(folder / index["weight_map"].pop(name), lambda tensors: tensors.pop(name))
    (folder / INDEX).write_text(json.dumps(index))


def _truncate(path, keep):
    path.write_bytes(path.read_bytes()[:keep])


def _point_index_at(folder, file):
    index = json.loads((folder / INDEX).read_text())
    index["weight_map"]["model.norm.weight"] = file
    (folder / INDEX).write_text(json.dumps(index))


def _pickled(folder):
    for file in folder.glob("*.safetensors*"):
        file.unlink()
    torch.save({}, folder / "pytorch_model.bin")


FIRST_SHARD = "model-00001-of-00004.safetensors"
FAULTS = {
    "no folder": (shutil.rmtree, "is not a folder"),
    "no config": (lambda f: (f / "config.json").unlink(), r"config.json cannot be read .*is the folder complete"),
    "config no JSON": (lambda f: _truncate(f / "config.json", 40), "config.json is not valid JSON"),
    "config a list": (lambda f: (f / "config.json").write_text("[]"), "holds list; expected a JSON object"),
    "config empty": (lambda f: (f / "config.json").write_text("{}"), "config.json lacks hidden_size, intermediate_s"),
    "no shard": (lambda f: (f / FIRST_SHARD).unlink(), f"{FIRST_SHARD} is missing; the folder needs"),
    "no index": (lambda f: (f / INDEX).unlink(), r"model.safetensors is missing; the folder needs .*index.json"),
    "index without map": (lambda f: (f / INDEX).write_text("{}"), "has no weight_map"),
    "index points outside": (lambda f: _point_index_at(f, "../x.safetensors"), "expected the name of a file beside"),
    "index of another shard": (lambda f: _point_index_at(f, FIRST_SHARD), "lacks model.norm.weight, which"),
    "index of numbers": (lambda f: _point_index_at(f, 1), "has the file 1 in the index; expected"),
    "pickled weights": (_pickled, r"pickles \(pytorch_model.bin\).*load the folder with transformers"),
    "no head": (lambda f: _without(f, "lm_head.weight"), "lacks 1 of .*lm_head.weight; set tie_word_embeddings to tr"),
    "truncated shard": (lambda f: _truncate(f / FIRST_SHARD, 5000), f"{FIRST_SHARD} is truncated"),
    "empty shard": (lambda f: _truncate(f / FIRST_SHARD, 0), f"{FIRST_SHARD} is truncated"),
    "a bias too many": (
        lambda f: _edit(f / FIRST_SHARD, lambda t: t.update({"model.layers.0.self_attn.q_proj.bias": torch.ones(32)})),
        r"has 1 tensors that a Llama .*q_proj\.bias",
    ),
    "quantised tensor": (
        lambda f: _edit(f / FIRST_SHARD, lambda t: t.update({"model.embed_tokens.weight": torch.ones(61, 32).char()})),
        "model.embed_tokens.weight has dtype I8; expected one of",
    ),
}


@pytest.mark.parametrize(("fault", "message"), FAULTS.values(), ids=FAULTS)
def test_broken_folders_are_refused(tmp_path, fault, message):
    export_huggingface(small_model(), tmp_path / "small", max_shard_bytes=25_000)
    assert (tmp_path / "small" / FIRST_SHARD).is_file()
    fault(tmp_path / "small")
    with pytest.raises(ValueError, match=message):
        _load(tmp_path / "small")


def test_harmless_extra_tensors_of_older_exports_are_ignored(tmp_path):
    model = small_model(tie_embeddings=True)
    export_huggingface(model, tmp_path / "small")
    extra = {
        "model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4),
        "model.rotary_emb.original_inv_freq": torch.ones(4),
        "lm_head.weight": model.embedding.weight.detach().clone(),
    }
    _edit(tmp_path / "small" / SINGLE, lambda tensors: tensors.update(extra))
    assert torch.equal(_load(tmp_path / "small").embedding.weight, model.embedding.weight)
    # the head's name alone, as `safetensors.torch.save_model` keeps it
    _edit(tmp_path / "small" / SINGLE, lambda tensors: tensors.pop("model.embed_tokens.weight"))
    assert torch.equal(_load(tmp_path / "small").embedding.weight, model.embedding.weight)


LLAMA3_OF_ITS_LENGTH = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
LLAMA3 = LLAMA3_OF_ITS_LENGTH | {"original_max_position_embeddings": 32}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}
SIZES = {"model_type": "llama", "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4,
         "intermediate_size": 48, "vocab_size": 61, "max_position_embeddings": 64}  # fmt: skip
OTHERS = {
    "null for keys and ends": dict.fromkeys(["num_key_value_heads", "head_dim", "bos_token_id"]),
    "fewer key/value heads": {"num_key_value_heads": 2, "head_dim": 12},
    "theta at the top": {"rope_theta": 5e5},
    "theta in both": {"rope_theta": 7e5, "rope_parameters": {"rope_theta": 5e5, "rope_type": "default"}},
    "theta beside the new key": {"rope_theta": 7e5, "rope_parameters": LLAMA3},
    "old scaling by type": {"rope_scaling": {key.replace("rope_type", "type"): LLAMA3[key] for key in LLAMA3}},
    "old scaling by rope_type": {"rope_scaling": {"type": "linear", **LLAMA3}},
    "scaling without its length": {"rope_scaling": LLAMA3_OF_ITS_LENGTH},
    "old and new": {
        "rope_theta": 7e5,
        "rope_scaling": LLAMA3,
        "rope_parameters": {"rope_type": "default", "rope_theta": 5e5},
    },
    "an empty old beside a new": {"rope_scaling": {}, "rope_parameters": {"rope_theta": 5e5, **LLAMA3}},
    "yarn": {"rope_scaling": YARN | {"beta_fast": 8, "beta_slow": 0.5}},
    "yarn, its length beside it": {"rope_scaling": YARN, "original_max_position_embeddings": 4096},
    "yarn, its sharpness stated": {"rope_parameters": YARN | {"attention_factor": 1.25, "truncate": False}},
    "yarn, its sharpness in two": {"rope_parameters": YARN | {"mscale": 1.0, "mscale_all_dim": 0.5}},
    "yarn between two dimensions": {"rope_scaling": YARN | {"beta_fast": 0.2, "beta_slow": 0.1}},
    "linear": {"rope_scaling": {"type": "linear", "factor": 3}},
    "dynamic": {"rope_parameters": {"rope_type": "dynamic", "factor": 3.0}},
    "stretched by nothing": {"rope_scaling": {"type": "linear", "factor": 1.0}},
    "several ends": {"eos_token_id": [5, 2]},
    "biases": {"attention_bias": True},
    "other words": {"tie_word_embeddings": True, "rms_norm_eps": 1e-5, "use_cache": False, "hidden_act": "swish"},
}


@pytest.mark.parametrize("changes", OTHERS.values(), ids=OTHERS)
def test_config_files_of_others_mean_what_they_mean_to_transformers(tmp_path, changes):
    transformers = pytest.importorskip("transformers")
    (tmp_path / "config.json").write_text(json.dumps(SIZES | changes))
    ours = read_config(tmp_path / "config.json", "others")
    theirs = transformers.LlamaForCausalLM.config_class.from_pretrained(tmp_path)
    for field, key in _KEYS.items():
        assert getattr(ours, field) == getattr(theirs, key), field
    ends = theirs.eos_token_id
    assert ours.eos_ids == (tuple(ends) if isinstance(ends, list) else ())
    small = transformers.LlamaConfig.from_dict(theirs.to_dict() | {"hidden_size": 4 * ours.num_heads, "vocab_size": 8})
    rotary, positions = transformers.models.llama.modeling_llama.LlamaRotaryEmbedding(small), torch.arange(64)[None]
    cosines, sines = rotary(torch.ones(1), positions)
    cos, sin = Rotary(ours)(positions)
    torch.testing.assert_close(torch.cat((cos, cos), -1), cosines)
    torch.testing.assert_close(torch.cat((sin, sin), -1), sines)
    written = transformers.LlamaConfig.from_dict(to_huggingface_config(ours, torch.float32, None, None))
    again = transformers.models.llama.modeling_llama.LlamaRotaryEmbedding(written)
    assert again.inv_freq.equal(rotary.inv_freq)
    assert again.attention_scaling == rotary.attention_scaling


def test_one_id_or_several_end_a_text(tmp_path):
    assert end_ids(tmp_path) == []
    (tmp_path / "config.json").write_text('{"eos_token_id": 3}')
    assert end_ids(tmp_path) == [3]
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": null}')
    assert end_ids(tmp_path) == [3]
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": [1, 2]}')
    assert end_ids(tmp_path) == [1, 2]
    for wrong in ('"2"', "[1, null]", "true", "-1"):
        (tmp_path / "generation_config.json").write_text(f'{{"eos_token_id": {wrong}}}')
        with pytest.raises(ValueError, match="expected an id, or a list of ids"):
            end_ids(tmp_path)
