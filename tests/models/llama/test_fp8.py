"""A Llama whose blocks multiply in fp8: which layers do, when it casts, and that recomputation changes nothing.

Training, scales and resumes are in `tests/training/test_fp8.py`.
"""

import pytest
import torch

from litespark.mesh import Mesh
from litespark.models.cache import KeyValueCache
from litespark.models.llama.fp8 import enable_fp8
from litespark.ops.fp8.reference import PIECES, Pieces
from litespark.ops.fp8.settings import RECIPES, Fp8Config
from tests.models.small import gradients, random_ids, small_model

SIMULATED = Fp8Config(simulate=True)


def model_in_fp8(config=SIMULATED, pieces=PIECES, **changes):
    model = small_model(**changes)
    enable_fp8(model, config, pieces)
    return model


def take_step(model, seed=0, micro_batches=1):
    """One optimizer step on 32 tokens a micro-batch; the losses."""
    model.zero_grad()
    losses = []
    for index in range(micro_batches):
        loss = model(*(random_ids(2, 16, seed=seed + index + each) for each in (0, 1)))
        loss.backward()
        losses.append(loss.item())
    torch.optim.AdamW(model.parameters(), lr=3e-3, fused=True).step()
    model.fp8.finish_step(Mesh())
    return losses


# ---------------------------------------------------------------- which layers


def test_the_settings_say_which_layers_are_in_fp8_and_parameters_keep_their_names():
    model = model_in_fp8(Fp8Config(linears=("down", "qkv"), bf16_first=1, bf16_last=2, simulate=True), num_layers=5)
    names = [f"blocks.{layer}.{path}" for layer in (1, 2) for path in ("attention.qkv", "mlp.down")]
    assert list(model.fp8.linears) == names
    assert model.fp8.scaling.names == [
        f"{name}.{tensor}" for name in names for tensor in ("input", "weight", "gradient")
    ]
    assert [block.fp8 is None for block in model.blocks] == [True, False, False, True, True]
    model(random_ids(2, 16), random_ids(2, 16, seed=1)).backward()
    model.fp8.finish_step(Mesh())
    assert all(model.fp8.scaling.known)
    plain = small_model(num_layers=5).state_dict()
    assert list(model.state_dict()) == list(plain)
    assert all(torch.equal(value, plain[name]) for name, value in model.state_dict().items())


def test_embedding_head_and_norms_are_not_rounded():
    model = model_in_fp8()
    for linear in model.fp8.linears.values():
        linear.move(None)
    tokens, labels = random_ids(2, 16), random_ids(2, 16, seed=1)
    assert torch.equal(model(tokens, labels), small_model()(tokens, labels))
    # blocks without any layer in fp8 are blocks as they always were, which keep no weights of their own
    assert all(linear._operand is None for linear in model.fp8.linears.values())


def test_with_a_cache_the_model_generates_without_fp8():
    tokens, plain, model = random_ids(1, 8), small_model().eval(), model_in_fp8().eval()
    with torch.no_grad():
        found, expected = (each(tokens, cache=KeyValueCache(2, 8)) for each in (model, plain))
    assert torch.equal(found, expected)
    assert not any(model.fp8.scaling.known)


# ---------------------------------------------------------------- training


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_way_of_recomputing_gives_the_same_bits(recipe):
    found = {}
    for recompute in ("none", "swiglu", "full"):
        model = model_in_fp8(Fp8Config(recipe=recipe, simulate=True), recompute=recompute)
        losses = [take_step(model, step, micro_batches=2) for step in range(3)]
        scaling = model.fp8.scaling
        # forward passes that are made again count their values again, and what they lose: shares are the same
        found[recompute] = (
            {"losses": losses, "shares": scaling.read(Mesh())},
            gradients(model) | {"history": scaling.history},
        )
    values, tensors = found.pop("none")
    assert values["shares"]
    for recomputed, its_tensors in found.values():
        assert recomputed == values
        assert all(torch.equal(tensor, tensors[name]) for name, tensor in its_tensors.items())


@pytest.mark.parametrize("recompute", ["none", "swiglu", "full"])
def test_weights_are_cast_once_a_step(recompute):
    casts = []

    class Recording(Pieces):
        def cast(self, x, quantisation):
            casts.append(x.shape)
            return super().cast(x, quantisation)

    # 2 · 16 tokens, so that no activation has the shape of a weight
    sizes = {"hidden_size": 64, "num_heads": 8, "intermediate_size": 80}
    model = model_in_fp8(pieces=Recording(), recompute=recompute, **sizes)
    weights = {parameter.shape for parameter in model.blocks[0].parameters() if parameter.ndim == 2}
    take_step(model, micro_batches=2)
    for _ in range(2):
        casts.clear()
        take_step(model, micro_batches=3)
        with torch.no_grad():
            model(random_ids(1, 5))
        assert sum(shape in weights for shape in casts) == len(model.fp8.linears)


def test_weights_of_layers_outside_fp8_are_renewed_with_the_others():
    model = model_in_fp8(Fp8Config(linears=("down",), simulate=True))
    linear = model.blocks[0].fp8.qkv
    before = linear.weight_operand(torch.bfloat16).rows.values
    take_step(model)
    after = linear.weight_operand(torch.bfloat16).rows.values
    assert torch.equal(after, linear.weight.bfloat16())
    assert not torch.equal(after, before)
