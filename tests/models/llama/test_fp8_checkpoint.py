"""Linear layers that move between fp8 and bf16, and what a checkpoint keeps of a Llama in fp8."""

import copy

import pytest
import torch

from litespark.ops.fp8.settings import RECIPES, AdaptiveConfig, Fp8Config
from tests.models.small import random_ids
from tests.models.small_fp8 import adamw, model_in_fp8, take_step


def test_layers_that_moved_train_on():
    model = model_in_fp8()
    optimizer = adamw(model)
    take_step(model, optimizer, 0)
    moves = {"blocks.0.mlp.down": None, "blocks.1.mlp.gate_up": "tensorwise"}
    for name, recipe in moves.items():
        model.fp8.move(name, recipe)
        assert model.fp8.linears[name].recipe == recipe
    losses = [take_step(model, optimizer, step) for step in range(1, 4)]
    for name in moves:
        model.fp8.move(name, "delayed")
    losses += [take_step(model, optimizer, step) for step in range(4, 12)]
    assert losses[-1] < 0.8 * losses[0]
    assert all(model.fp8.scaling.known)


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
    model.fp8.move("blocks.1.mlp.down", None)
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


def test_a_checkpoint_holds_plain_values(tmp_path):
    model = model_in_fp8()
    torch.save(model.fp8.state_dict(), tmp_path / "fp8.pt")
    model.fp8.load_state_dict(torch.load(tmp_path / "fp8.pt", weights_only=True))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"recipe": "tensorwise"}, "another recipe than this run: got delayed, expected tensorwise"),
        ({"linears": ("down",)}, "other names than this run"),
        ({"gradients": "e4m3"}, "other formats than this run"),
        ({"history": 3}, "other history than this run"),
    ],
)
def test_a_checkpoint_of_other_settings_is_refused(config, message):
    state = model_in_fp8().fp8.state_dict()
    with pytest.raises(ValueError, match=message):
        model_in_fp8(Fp8Config(simulate=True, **config)).fp8.load_state_dict(state)
