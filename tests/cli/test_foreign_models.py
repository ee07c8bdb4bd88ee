"""From a Llama folder of transformers to a run and back: padded rows, BOS, padding; a run that starts from a run."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer as Described
from tokenizers import processors

from litespark.cli import main
from litespark.data.tokenizer import Tokenizer
from litespark.run.load import load_for_generation, load_trained
from litespark.run.model_folder import ModelFolder
from tests.cli.tiny_run import tiny
from tests.models.small import give_biases

transformers = pytest.importorskip("transformers")

IDS, ROWS = 300, 320
YARN = {"rope_type": "yarn", "rope_theta": 5e5, "factor": 8.0, "original_max_position_embeddings": 8}
ENDS = [7, 9]


@pytest.fixture(scope="module")
def theirs(tmp_path_factory) -> Path:
    """More rows than ids, YaRN, several ends, biases, a tokenizer that puts BOS first, as transformers writes it."""
    folder = tmp_path_factory.mktemp("theirs")
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        hidden_size=32, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=1, intermediate_size=64,
        vocab_size=ROWS, max_position_embeddings=64, rms_norm_eps=1e-6, rope_parameters=YARN,
        eos_token_id=ENDS, attention_bias=True, mlp_bias=True,
    )  # fmt: skip
    model = transformers.LlamaForCausalLM(config)
    with torch.no_grad():
        # as a model that has never seen a padding row might: the likeliest of all
        model.lm_head.weight[IDS:] = 100 * model.lm_head.weight[:1]
    give_biases(model)
    model.save_pretrained(folder)
    trained = Tokenizer.train(["the quick brown fox jumps over lazy dogs"] * 9, vocab_size=IDS - 1)
    described = Described.from_str(trained.model.description().decode())
    described.add_special_tokens(["<|begin_of_text|>"])
    described.post_processor = processors.TemplateProcessing(
        single="<|begin_of_text|> $A", pair="$A $B", special_tokens=[("<|begin_of_text|>", IDS - 1)]
    )
    described.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<|endoftext|>"}))
    return folder


def start_from(weights: Path, overrides: list[str]) -> list[str]:
    """A run from weights, without sizes of a model."""
    others = [each for each in overrides if not each.startswith(("model.", "data.vocab_size"))]
    return [*others, "model=huggingface", f"model.path={weights}", "schedule.warmup=0"]


@pytest.fixture(scope="module")
def trained(theirs, tmp_path_factory) -> Path:
    """A run from those weights; no size is given."""
    folder = tmp_path_factory.mktemp("trained")
    assert main(["train", *start_from(theirs, tiny(folder, name="first"))]) == 0
    return folder / "logs" / "runs" / "first"


def test_a_run_starts_from_a_folder_of_others_with_its_tokenizer(theirs, trained):
    model, tokenizer, _ = load_trained(trained)
    assert (model.config.attention_bias, model.config.mlp_bias) == (True, True)
    assert (model.config.vocab_size, Tokenizer.load(tokenizer).vocab_size) == (ROWS, IDS)
    assert Tokenizer.load(tokenizer).difference(Tokenizer.load(theirs)) is None
    chunk = next((trained.parents[2] / "data/prepared").glob("*/train/*/chunk*.bin"))
    ids = np.frombuffer(chunk.read_bytes(), dtype=np.uint16)
    start = int(np.flatnonzero(ids == IDS - 1)[0])
    text = Tokenizer.load(tokenizer).decode(ids[start : start + 9].tolist())
    assert (trained.parents[2] / "text.txt").read_text().find(text) >= 0


def test_the_export_has_the_ids_and_logits_of_training_and_pads(trained, tmp_path):
    assert main(["export", str(trained), str(tmp_path / "hf")]) == 0
    assert len({path.stat().st_mode for path in (tmp_path / "hf").iterdir()}) == 1
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "hf", dtype=torch.float32)
    reader = transformers.AutoTokenizer.from_pretrained(tmp_path / "hf")
    ours, folder, _ = load_trained(trained)
    tokenizer = Tokenizer.load(folder)
    assert model.config.vocab_size == ROWS
    assert reader.eos_token_id == tokenizer.eos_id
    assert model.config.eos_token_id == model.generation_config.eos_token_id == [tokenizer.eos_id, *ENDS]
    assert load_for_generation(trained)[2] == ENDS
    texts = ["the quick", "over lazy dogs the quick brown fox"]
    ids = tokenizer.encode_batch(texts)
    assert reader(texts)["input_ids"] == ids
    with torch.no_grad():
        alone = [ours(torch.tensor([each]))[0] for each in ids]
        for side in ("left", "right"):
            batch = reader(texts, padding=True, padding_side=side, return_tensors="pt")
            logits, masks = model(**batch).logits, batch["attention_mask"].bool()
            for theirs, mask, expected in zip(logits, masks, alone, strict=True):
                torch.testing.assert_close(theirs[mask], expected, rtol=1e-4, atol=1e-4)


def test_rows_without_a_token_are_never_generated(theirs, trained, tmp_path, monkeypatch, capsys):
    fed: list[list[int]] = []
    original = Tokenizer.decode
    monkeypatch.setattr(Tokenizer, "decode", lambda self, ids: fed.append(ids) or original(self, ids))
    for path in (theirs, trained):
        for temperature in ("0", "5"):
            assert main(["generate", str(path), "--prompt", "the", "--tokens", "20", "--temperature", temperature]) == 0
    assert {ids[0] for ids in fed} == {IDS - 1}
    assert max(map(max, fed)) < IDS
    assert capsys.readouterr().out


def test_a_run_starts_from_a_run_and_from_one_of_its_checkpoints(trained, tmp_path):
    state = load_trained(trained).model.state_dict()
    for path in (trained, trained / "checkpoints" / "step-00000004"):
        found = ModelFolder.find(path)
        assert found.tokenizer == trained / "tokenizer" / "tokenizer.json"
        model = load_trained(trained).model
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.zero_()
        found.fill(model)
        assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    start = start_from(trained, tiny(tmp_path, name="second", budget__steps=1))
    assert main(["train", *start]) == 0
    assert Tokenizer.load(tmp_path / "logs" / "runs" / "second").hash == Tokenizer.load(trained).hash
