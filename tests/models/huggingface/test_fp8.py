"""`litespark.apply(model, precision="fp8")`, simulated: beside the native Llama, and beside the model as it was."""

import copy

import pytest
import torch
from torch import nn

import litespark
from litespark.mesh import Mesh
from litespark.models.huggingface import fp8
from litespark.models.huggingface.layers import is_replaced
from litespark.models.llama.config import LlamaConfig
from litespark.models.llama.fp8 import enable_fp8
from litespark.models.llama.huggingface import huggingface_parts
from litespark.models.llama.model import Llama
from litespark.ops.backend import OpsConfig, resolve
from litespark.ops.fp8.reference import PIECES
from litespark.ops.fp8.settings import RECIPES, Fp8Config
from tests.models.huggingface.families import build

SIMULATED = Fp8Config(simulate=True)
_SIZES = {"hidden_size": 32, "num_heads": 4, "num_kv_heads": 2, "head_dim": 16, "intermediate_size": 48}
_LLAMA = {"attention_bias": False, "mlp_bias": False, "hidden_size": 32, "intermediate_size": 48}


def _model(family="llama", **other):
    sizes = _LLAMA if family == "llama" else {"hidden_size": 64, "intermediate_size": 64}
    return build(family, **{**sizes, **other}).train()


def _native(model, config, ops):
    ours = LlamaConfig(
        "native", num_layers=3, vocab_size=97, max_seq_len=64, norm_eps=model.config.rms_norm_eps,
        rope_theta=10_000.0, tie_embeddings=False, **_SIZES,
    )  # fmt: skip
    native, weights = Llama(ours, resolve(ops)), model.state_dict()
    with torch.no_grad():
        for name, parts in huggingface_parts(ours).items():
            native.get_parameter(name).copy_(torch.cat([weights[part] for part, _ in parts]))
    return native, enable_fp8(native, config, PIECES)


def _batches(count):
    generator = torch.Generator().manual_seed(1)
    # some tokens are likelier, so that there is something to learn
    tokens = torch.randint(97, (count, 2, 25, 3), generator=generator).amin(-1)
    return [(part[:, :-1].contiguous(), part[:, 1:].contiguous()) for part in tokens]


def _loss(model, tokens, labels):
    return model(tokens, labels=tokens, shift_labels=labels, use_cache=False).loss


def _train(model, batches, optimizer):
    losses = []
    for step, (tokens, labels) in enumerate(batches):
        loss = _loss(model, tokens, labels)
        loss.backward()
        losses.append(loss.item())
        if step % 2:
            optimizer.step()
            optimizer.zero_grad()
    return losses


def _adamw(model):
    # which leaves no trace on the versions of weights
    return torch.optim.AdamW(model.parameters(), lr=1e-2, fused=True)


@pytest.mark.parametrize("recipe", RECIPES)
def test_trains_as_the_native_llama_in_fp8_with_no_callback(recipe):
    model, config = _model(), Fp8Config(simulate=True, recipe=recipe)
    applied = litespark.apply(model, precision=config)
    # the same backends: a sum in another order sends a code to the other side
    native, state = _native(model, config, OpsConfig(**{choice.op: choice.used for choice in applied.choices}))
    assert {module.ops["fp8"] for module in applied.modules if "_proj" in module.name} == {"reference"}
    batches, optimizer = _batches(8), _adamw(native)
    losses = _train(model, batches, _adamw(model))
    for step, (tokens, labels) in enumerate(batches):
        loss = native(tokens, labels) / labels.numel()
        loss.backward()
        # after a step of the optimizer the last bits of weights differ, which sends codes to the other side
        assert losses[step] == pytest.approx(loss.item(), rel=1e-6 if step < 2 else 5e-3)
        if step % 2:
            optimizer.step()
            optimizer.zero_grad()
            state.finish_step(Mesh())
    # the last step is taken into account by the next forward
    _loss(model, *batches[0])
    ours, theirs = model.litespark_fp8.scaling, state.scaling
    assert ours.steps == theirs.steps == 4
    assert torch.allclose(ours.history[3], theirs.history[3])  # of the first step
    assert torch.allclose(ours.history[:, 1::3], theirs.history[:, 1::3], rtol=0.02)  # of weights
    assert torch.equal(ours.history > 0, theirs.history > 0)
    assert all(ours.known)


def test_casts_alone_lose_no_more_over_tens_of_steps():
    batches, models = _batches(60), [_model(), _model(), _model()]
    for model in models[1:]:
        litespark.apply(model, precision=SIMULATED)
    for layer in models[2].model.layers:
        layer.self_attn.register_forward_hook(lambda *_: None)  # so that what is around it cannot pass it by
    exact, fused, alone = (sum(_train(model, batches, _adamw(model))[-10:]) / 10 for model in models)
    assert exact < 4.3
    assert abs(fused - exact) < 0.01
    assert abs(alone - exact) < 0.01


@pytest.mark.parametrize("family", ["qwen2", "qwen3", "phi3", "smollm3", "olmo2", "granite", "starcoder2", "mixtral"])
def test_gradients_are_those_of_the_model_as_it_was_but_for_the_rounding(family):
    # rounding sends a token to another expert, so each goes to all of them
    routed = {"num_experts_per_tok": 4} if family == "mixtral" else {}
    model, exact = _model(family, **routed), _model(family, **routed)
    applied = litespark.apply(model, {"attention": "reference"}, precision=SIMULATED)
    said = {module.ops.get("fp8") for module in applied.modules if module.name.endswith(("o_proj", "down_proj"))}
    fused = family in ("qwen2", "qwen3", "phi3", "smollm3")
    assert said - {None} == {"reference" if fused else "reference (cast alone)"}
    tokens, labels = _batches(1)[0]
    _loss(exact, tokens, labels).backward()
    for _ in range(2):  # the second knows the scales
        model.zero_grad()
        _loss(model, tokens, labels).backward()
        torch.optim.SGD(model.parameters(), lr=0.0).step()
        named = dict(exact.named_parameters())
        distances = {
            name: float((part.grad - named[name].grad).norm() / named[name].grad.norm())
            for name, part in model.named_parameters()
            if part.grad is not None
        }
        assert max(distances.values()) < 0.35, max(distances, key=distances.get)
        assert min(it for name, it in distances.items() if name.endswith("o_proj.weight")) > 0.02


def test_weights_written_by_nobody_known_are_cast_in_each_forward():
    model = _model()
    litespark.apply(model, precision=SIMULATED)
    tokens, labels = _batches(1)[0]
    first = _loss(model, tokens, labels).item()
    other = _model(seed=1)
    for ours, theirs in zip(model.parameters(), other.parameters(), strict=True):
        ours.data.copy_(theirs.data)  # which leaves no trace on its version
    litespark.apply(other, precision=SIMULATED)
    assert _loss(model, tokens, labels).item() == _loss(other, tokens, labels).item() != first


def test_copies_are_trained_by_themselves_and_removing_leaves_the_model_as_it_was():
    model, batches = _model(), _batches(4)
    before, classes = model.state_dict(), [type(part) for part in model.modules()]
    litespark.apply(model, precision=SIMULATED)
    copied = copy.deepcopy(model)
    assert model.state_dict().keys() == before.keys()
    losses = _train(copied, batches, _adamw(copied))
    assert (model.litespark_fp8.due, copied.litespark_fp8.due) == (False, True)
    assert _train(model, batches, _adamw(model)) == losses
    watched = len(fp8._watched())
    litespark.remove(model)
    assert len(fp8._watched()) == watched - 1
    assert [type(part) for part in model.modules()] == classes
    assert not [name for name in vars(model) if name.startswith("litespark")]


def test_an_activation_that_was_changed_since_is_the_one_that_is_computed():
    model, exact = _model(), _model()
    litespark.apply(model, precision=SIMULATED)
    for each in (model, exact):
        for layer in each.model.layers:
            layer.mlp.act_fn = nn.Threshold(1e9, 3.0)  # 3 whatever it gets
    tokens = _batches(1)[0][0][:1, :16]
    got, expected = _loss(model.train(), tokens, tokens), _loss(exact.train(), tokens, tokens)
    assert got.item() == pytest.approx(expected.item(), rel=2e-3)


def test_evaluates_in_its_own_dtype(caplog):
    fp8._warn.cache_clear()
    model, exact = _model(), _model()
    litespark.apply(model, precision=SIMULATED)
    tokens, labels = _batches(1)[0]
    with torch.no_grad():
        got, expected = _loss(model.eval(), tokens, labels), _loss(exact.eval(), tokens, labels)
    assert got == pytest.approx(float(expected), rel=1e-5)
    # 47 tokens are no multiple of 16
    got, expected = (
        _loss(model.train(), tokens[:1, :13], labels[:1, :13]),
        _loss(exact, tokens[:1, :13], labels[:1, :13]),
    )
    assert got.item() == pytest.approx(expected.item(), rel=1e-5)
    assert "pad_to_multiple_of" in caplog.text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"precision": "fp8"}, "a device of type cpu has no fp8 units.*simulate=True"),
        ({"precision": "int8"}, "got precision='int8', expected \"fp8\""),
        (
            {"precision": Fp8Config(simulate=True, bf16_first=3)},
            "no linear layer came to be in fp8: the settings of fp8",
        ),
    ],
)
def test_refuses_what_cannot_be_and_leaves_the_model_as_it_was(options, message):
    model = _model()
    with pytest.raises(ValueError, match=message):
        litespark.apply(model, **options)
    assert not [name for name in vars(model) if name.startswith("litespark")]
    assert not any(is_replaced(part) for part in model.modules())


def test_sizes_that_fp8_products_do_not_take_are_left_alone_and_said_so():
    model = _model(intermediate_size=40)
    applied = litespark.apply(model, precision=SIMULATED)
    reasons = {module.name.rpartition(".")[2]: module.reason for module in applied.modules}
    assert "its size 40 is no multiple of 16" in reasons["down_proj"]
    assert reasons["q_proj"] == ""


def test_a_compiled_model_is_refused():
    model = _model(num_hidden_layers=1)
    litespark.apply(model, precision=SIMULATED)
    compiled = torch.compile(model, backend="eager")
    with pytest.raises(ValueError, match="which cannot trace its kernels"):
        _loss(compiled, *_batches(1)[0])
