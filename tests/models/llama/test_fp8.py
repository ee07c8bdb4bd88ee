"""A Llama whose blocks multiply in fp8: which layers do, when it casts, how it trains, and what a checkpoint keeps."""

import copy
from dataclasses import replace

import pytest
import torch

from litespark.models.cache import KeyValueCache
from litespark.ops.fp8.reference import PIECES, Pieces
from litespark.ops.fp8.settings import RECIPES, AdaptiveConfig, Fp8Config
from tests.models.small import gradients, random_ids, small_model
from tests.models.small_fp8 import adamw, model_in_fp8, take_step


class _CountingPieces(Pieces):
    """Counts casts of each shape."""

    def __init__(self):
        self.casts = []

    def cast(self, x, quantisation):
        self.casts.append((tuple(x.shape), quantisation))
        return super().cast(x, quantisation)

    def weights(self, model):
        """How often a matrix of the shape of a block's weight was cast."""
        shapes = [tuple(each.shape) for each in model.blocks[0].parameters() if each.ndim == 2]
        return sum(shape in shapes for shape, _ in self.casts)


# ---------------------------------------------------------------- which layers


def test_parameters_keep_their_names_and_values():
    plain, model = small_model(), model_in_fp8()
    model(random_ids(2, 16), random_ids(2, 16, seed=1)).backward()
    model.fp8.finish_step()
    assert list(model.state_dict()) == list(plain.state_dict())
    assert all(torch.equal(value, plain.state_dict()[name]) for name, value in model.state_dict().items())


def test_the_settings_say_which_layers_are_in_fp8():
    model = model_in_fp8(Fp8Config(linears=("down", "qkv"), bf16_first=1, bf16_last=2, simulate=True), num_layers=5)
    names = [f"blocks.{layer}.{path}" for layer in (1, 2) for path in ("attention.qkv", "mlp.down")]
    assert list(model.fp8.linears) == names
    assert model.fp8.scaling.names == [
        f"{name}.{tensor}" for name in names for tensor in ("input", "weight", "gradient")
    ]
    assert [block.fp8 is None for block in model.blocks] == [True, False, False, True, True]
    model(random_ids(2, 16), random_ids(2, 16, seed=1)).backward()
    model.fp8.finish_step()
    assert all(model.fp8.scaling.known)


def test_embedding_head_and_norms_are_not_rounded():
    model = model_in_fp8()
    for linear in model.fp8.linears.values():
        linear.move(None)
    tokens, labels = random_ids(2, 16), random_ids(2, 16, seed=1)
    assert torch.equal(model(tokens, labels), small_model()(tokens, labels))
    # blocks without any layer in fp8 are blocks as they always were, which keep no weights of their own
    assert all(linear._operand is None for linear in model.fp8.linears.values())


def test_with_a_cache_the_model_generates_without_fp8():
    tokens, plain = random_ids(1, 8), small_model().eval()
    model = model_in_fp8().eval()
    with torch.no_grad():
        found, expected = (each(tokens, cache=KeyValueCache(2, 8)) for each in (model, plain))
    assert torch.equal(found, expected)
    assert not any(model.fp8.scaling.known)


# ---------------------------------------------------------------- training


@pytest.fixture(scope="module")
def losses_in_fp32():
    model = small_model(init_std=0.1)
    optimizer = adamw(model)
    return [take_step(model, optimizer, step) for step in range(12)]


@pytest.mark.parametrize("config", [*({"recipe": each} for each in RECIPES), {"gradients": "e4m3"}, {"margin": 2}])
def test_the_loss_stays_near_that_of_fp32(config, losses_in_fp32):
    model = model_in_fp8(Fp8Config(simulate=True, **config), init_std=0.1)
    optimizer = adamw(model)
    losses = [take_step(model, optimizer, step) for step in range(12)]
    assert losses_in_fp32[-1] < 0.65 * losses_in_fp32[0]
    # every step learns a third of the rows by heart, at a width of 32: far harder on fp8 than text is
    assert losses == pytest.approx(losses_in_fp32, rel=0.02)


def test_scales_that_are_wrong_move_the_loss_further(losses_in_fp32, monkeypatch):
    model = model_in_fp8(init_std=0.1)
    optimizer = adamw(model)
    right = type(model.fp8.scaling).quantisation

    def wrong(scaling, *values, **named):
        found = right(scaling, *values, **named)
        # as if the largest value were 64 times smaller: the largest are cut off
        return found if found.scale is None else replace(found, scale=found.scale / 64)

    monkeypatch.setattr(type(model.fp8.scaling), "quantisation", wrong)
    losses = [take_step(model, optimizer, step) for step in range(12)]
    assert losses != pytest.approx(losses_in_fp32, rel=0.02)


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_way_of_recomputing_gives_the_same_bits(recipe):
    found = {}
    for recompute in ("none", "swiglu", "full"):
        model = model_in_fp8(Fp8Config(recipe=recipe, simulate=True), recompute=recompute)
        optimizer = adamw(model)
        losses = [take_step(model, optimizer, step, micro_batches=2) for step in range(3)]
        found[recompute] = losses, gradients(model), model.fp8.scaling
    losses, expected, scaling = found["none"]
    shares = scaling.read()
    assert shares
    for recompute in ("swiglu", "full"):
        assert found[recompute][0] == losses
        assert all(torch.equal(gradient, expected[name]) for name, gradient in found[recompute][1].items())
        assert torch.equal(found[recompute][2].history, scaling.history)
        # forward passes that are made again count their values again, and what they lose: shares are the same
        assert found[recompute][2].read() == shares


@pytest.mark.parametrize("recompute", ["none", "swiglu", "full"])
def test_weights_are_cast_once_a_step(recompute):
    # 3 · 16 tokens, so that no activation has the shape of a weight
    pieces = _CountingPieces()
    model = model_in_fp8(pieces=pieces, recompute=recompute, hidden_size=64, num_heads=8, intermediate_size=80)
    optimizer = adamw(model)
    take_step(model, optimizer, 0, micro_batches=2)
    for _ in range(2):
        pieces.casts.clear()
        take_step(model, optimizer, 0, micro_batches=3)
        with torch.no_grad():
            model(random_ids(1, 5))
        assert pieces.weights(model) == len(model.fp8.linears)


def test_a_fused_optimizer_does_not_tell_that_it_changed_the_weights():
    """Why `finish_step` has to be called: without it products would go on with the weights of before."""
    model = model_in_fp8()
    optimizer = adamw(model)
    linear = model.fp8.linears["blocks.0.mlp.down"]
    model(random_ids(2, 16), random_ids(2, 16, seed=1)).backward()
    before = linear.weight_operand(torch.float32)
    optimizer.step()
    stale = linear.weight_operand(torch.float32) is before
    model.fp8.finish_step()
    after = linear.weight_operand(torch.float32)
    assert after is not before
    fresh = PIECES.cast(linear.weight.detach(), linear.quantisation("weight", 0, note=False))
    assert torch.equal(after.rows.values.float(), fresh.rows.values.float())
    assert torch.equal(after.columns.values.float(), fresh.columns.values.float())
    assert not torch.equal(after.rows.wide(), before.rows.wide())
    # Where this fails PyTorch has begun to count: then the version alone would do.
    assert stale


def test_weights_of_layers_outside_fp8_are_renewed_with_the_others():
    model = model_in_fp8(Fp8Config(linears=("down",), simulate=True))
    optimizer = adamw(model)
    linear = model.blocks[0].fp8.qkv
    model(random_ids(2, 16), random_ids(2, 16, seed=1)).backward()
    before = linear.weight_operand(torch.bfloat16).rows.values
    optimizer.step()
    model.fp8.finish_step()
    after = linear.weight_operand(torch.bfloat16).rows.values
    assert torch.equal(after, linear.weight.bfloat16())
    assert not torch.equal(after, before)


# ---------------------------------------------------------------- moves and checkpoints


def _states(model):
    state = model.fp8.state_dict()
    return state | state.pop("scaling")


@pytest.mark.parametrize("weights_first", [True, False])
@pytest.mark.parametrize("recipe", RECIPES)
def test_a_run_that_goes_on_from_a_checkpoint_is_one_that_was_not_interrupted(recipe, weights_first):
    # counted at steps 0, 3, 6: once after the checkpoint, once in the weights cast just before it
    config = Fp8Config(recipe=recipe, simulate=True, adaptive=AdaptiveConfig(sample_every=3))
    model = model_in_fp8(config)
    optimizer = adamw(model)
    for step in range(3):
        take_step(model, optimizer, step)
    model.fp8.linears["blocks.1.mlp.down"].move(None)
    saved = copy.deepcopy((model.state_dict(), optimizer.state_dict(), model.fp8.state_dict()))
    expected = [take_step(model, optimizer, step) for step in range(3, 8)]

    again = model_in_fp8(config, seed=1)
    optimizer_again = adamw(again)
    with torch.no_grad():
        again(random_ids(1, 16))  # as a sanity check of validation does
    loads = [lambda: again.load_state_dict(saved[0]), lambda: again.fp8.load_state_dict(saved[2])]
    for load in loads if weights_first else loads[::-1]:
        load()
    optimizer_again.load_state_dict(saved[1])
    assert again.fp8.linears["blocks.1.mlp.down"].recipe is None
    assert [take_step(again, optimizer_again, step) for step in range(3, 8)] == expected
    found, wanted = _states(again), _states(model)
    for name, value in wanted.items():
        assert torch.equal(found[name], value) if isinstance(value, torch.Tensor) else found[name] == value, name
