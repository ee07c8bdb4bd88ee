"""LoRA and DoRA on both kinds of model compute what `peft` computes on the model of transformers, and go there."""

import json
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional

from litespark.models.adapters import lora
from litespark.models.adapters.config import LoraAdapter
from litespark.ops.backend import OpsConfig, resolve
from litespark.ops.linear import kept, split
from litespark.ops.tolerance import relative_distance
from litespark.planning.memory import training_state_bytes
from litespark.run.model_folder import ModelFolder
from litespark.training.model_builder import ModelBuilder
from litespark.training.optim import AdamWConfig, build_optimizer

transformers, peft = pytest.importorskip("transformers"), pytest.importorskip("peft")

SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 16,
         "intermediate_size": 48, "vocab_size": 64, "max_position_embeddings": 64, "initializer_range": 0.1,
         "bos_token_id": None, "pad_token_id": None, "eos_token_id": 0}  # fmt: skip
OURS = OpsConfig(rms_norm="torch", add_rms_norm="torch", attention="sdpa", linear_cross_entropy="chunked")
CPU = torch.device("cpu")


def written(folder: Path, kind: str) -> ModelFolder:
    torch.manual_seed(0)
    config = transformers.CONFIG_MAPPING[kind](**SIZES, attention_bias=True)
    model = transformers.AutoModelForCausalLM.from_config(config)
    for parameter in model.parameters():  # biases begin as zeros
        nn.init.normal_(parameter, std=0.1)
    model.save_pretrained(folder)
    return ModelFolder.find(folder)


def built(found: ModelFolder, adapter: LoraAdapter, *, moved: bool = True, precision: str = "fp32") -> nn.Module:
    """The model with an adapter, as a run builds it; `moved`: as if it had been trained."""
    model = ModelBuilder(
        found.spec, resolve(OURS), 1, load_weights=found.fill, adapter=adapter, precision=precision
    ).build(CPU)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for name, parameter in lora.weights_of(model).items():
            if moved and not name.endswith("lora_A.weight"):
                parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    return model


IDS = torch.randint(SIZES["vocab_size"], (2, 9), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("dora", [False, True], ids=["lora", "dora"])
@pytest.mark.parametrize("kind", ["llama", "qwen3"])
def test_loss_gradients_file_and_merged_weights_are_those_of_peft(tmp_path, kind, dora):
    found = written(tmp_path / "base", kind)
    assert found.node["kind"] == {"llama": "llama", "qwen3": "huggingface"}[kind]
    adapter = LoraAdapter(
        rank=3, alpha=5, dora=dora, rslora=dora, targets=("k_proj", "v_proj", "gate_proj", "down_proj")
    )
    model = built(found, adapter)
    (folder := tmp_path / "adapter").mkdir()
    lora.save(model, adapter, folder, found.path)

    base = transformers.AutoModelForCausalLM.from_pretrained(found.path, dtype=torch.float32)
    with lora.disabled(model), torch.no_grad():
        assert relative_distance(model(IDS), base(IDS).logits) < 1e-6
    theirs = peft.PeftModel.from_pretrained(base, folder, is_trainable=True)
    labels = IDS.roll(-1, dims=1)
    expected = functional.cross_entropy(theirs(IDS).logits.flatten(0, 1), labels.flatten(), reduction="sum")
    loss = model(IDS, labels)
    assert relative_distance(loss, expected) < 1e-6
    expected.backward()
    loss.backward()
    gradients = {name: parameter.grad for name, parameter in theirs.named_parameters() if parameter.requires_grad}
    ours = {name: parameter.grad for name, parameter in lora.weights_of(model).items()}
    assert len(ours) == len(gradients) == 2 * 4 * (3 if dora else 2)
    for name, gradient in ours.items():
        place = name.replace(".weight", ".default.weight") if "magnitude" not in name else f"{name}.default.weight"
        assert relative_distance(gradient, gradients[place]) < 1e-5, name
    frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    assert len(frozen) + len(ours) == len(list(model.parameters()))
    assert all(model.get_parameter(name).grad is None for name in frozen)

    logits = model(IDS).detach()
    lora.merge(model)
    assert relative_distance(model(IDS), logits) < 1e-5
    # as it was built: another adapter may be put on it
    expected = found.spec.build(resolve(OURS), "none")
    assert [(name, type(part)) for name, part in model.named_modules()] == [
        (name, type(part)) for name, part in expected.named_modules()
    ]


@pytest.mark.parametrize(
    ("stated", "told"),
    [
        ({"alpha_pattern": {"q_proj": 9}}, r'has alpha_pattern=\{"q_proj": 9\}, which is not trained here; merge it'),
        ({"init_lora_weights": "pissa"}, 'has init_lora_weights="pissa"'),
        (
            {"bias": "all", "modules_to_save": ["lm_head"]},
            r'has modules_to_save=\["lm_head"\], bias="all"|bias="all", mod',
        ),
        ({"peft_type": "IA3"}, "is not of a LoRA"),
    ],
)
def test_an_adapter_that_computes_something_else_is_refused(tmp_path, stated, told):
    adapter = LoraAdapter(rank=3)
    adapter.of_peft(["q_proj"]).save_pretrained(tmp_path)
    path = tmp_path / lora.SETTINGS
    drawn = {"init_lora_weights": "gaussian", "lora_dropout": 0.5, "later": None}
    path.write_text(json.dumps(json.loads(path.read_text()) | drawn))
    assert lora.stated_settings(tmp_path, adapter)["r"] == 3
    path.write_text(json.dumps(json.loads(path.read_text()) | stated))
    with pytest.raises(ValueError, match=told):
        lora.stated_settings(tmp_path, adapter)


def test_casts_of_frozen_weights_are_kept_and_their_gradients_not_made(tmp_path, monkeypatch):
    found = written(tmp_path, "llama")
    model = built(found, LoraAdapter(rank=3, targets=("q_proj",)), moved=False).train()
    parted: list[int] = []
    monkeypatch.setattr(split.Rows, "forward", lambda self, x, product: parted.append(self.out_features) or product)
    optimizer = build_optimizer(model, AdamWConfig(lr=1e-2))
    made: list[torch.Size] = []
    monkeypatch.setattr(kept, "weight_gradient", lambda *arguments: made.append(arguments[0].shape))
    casts, losses = [], []
    for _ in range(3):
        with torch.autocast("cpu", torch.bfloat16):
            loss = model(IDS, IDS)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        casts.append([(part._cast.data_ptr(), part._cast._version) for part in model.modules() if _is_kept(part)])
    assert made == []
    assert parted == [32, 16, 16] * 3 * SIZES["num_hidden_layers"], "what no adapter is put on stays in one piece"
    assert casts[0] == casts[2]
    assert len(casts[0]) == 4 * SIZES["num_hidden_layers"]
    assert losses[2] != losses[0]
    states = sum(tensor.numel() for state in optimizer.state.values() for tensor in state.values() if tensor.ndim)
    assert states == 2 * sum(parameter.numel() for parameter in lora.weights_of(model).values())


def test_a_frozen_base_is_held_in_bf16_alone_with_the_same_results(tmp_path):
    found, losses, adapter = written(tmp_path, "llama"), [], LoraAdapter(rank=3, dora=True)
    for precision in ("fp32", "bf16"):
        model = built(found, adapter, moved=False, precision=precision).train()
        optimizer = build_optimizer(model, AdamWConfig(lr=1e-2))
        for _ in range(3):
            with torch.autocast("cpu", torch.bfloat16):
                loss = model(IDS, IDS)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    assert losses[:3] == losses[3:]
    assert all(part._cast is None for part in model.modules() if _is_kept(part))
    held = sum(parameter.nbytes for parameter in model.parameters() if not parameter.requires_grad)
    assert held == training_state_bytes(found.spec, keeps_casts=True, trained=0)
    assert held < training_state_bytes(found.spec, trained=0)
    assert model(IDS).dtype == torch.float32, "as a sample is drawn without autocast"


def _is_kept(part: nn.Module) -> bool:
    return isinstance(part, kept.KeptLinear)
