"""`litespark.apply` beside the code of others: trainers, PEFT, copies, compilers, sharding, generation."""

import copy
import importlib.util
import pickle
from pathlib import Path

import pytest
import torch
from accelerate.utils import convert_outputs_to_fp32
from peft import LoraConfig, get_peft_model
from torch import distributed, nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from transformers import AutoModelForCausalLM

import litespark
from litespark.models.huggingface.layers import is_replaced
from litespark.ops.fp8.settings import Fp8Config
from tests.models.huggingface.families import build

_EXAMPLES = Path(__file__).resolve().parents[3] / "examples"
_TOKENS = torch.randint(3, 97, (2, 20), generator=torch.Generator().manual_seed(1))
_LORA = {"r": 2, "target_modules": "all-linear", "init_lora_weights": False}


def _pair(family="llama", **other):
    """A model that training steps are computed with by our ops, and the same as it was."""
    ours, theirs = build(family, **other).train(), build(family, **other).train()
    litespark.apply(ours)
    return ours, theirs


def _gradients(model, **options):
    model.zero_grad()
    loss = model(input_ids=_TOKENS, labels=_TOKENS, use_cache=False, **options).loss
    loss.backward()
    trained = {name.removeprefix("_orig_mod."): it.grad for name, it in model.named_parameters() if it.requires_grad}
    return {"loss": loss.detach(), **trained}


def _assert_same(got, expected):
    assert got.keys() == expected.keys()
    for name, value in expected.items():
        assert float((got[name] - value).norm() / value.norm()) < 1e-5, name


def _replaced(model):
    return [name for name, module in model.named_modules() if is_replaced(module)]


# ---------------------------------------------------------------- trainers


@pytest.mark.parametrize("name", ["transformers_trainer", "trl_sft"])
def test_examples_train_and_evaluate_with_the_losses_of_the_model_as_it_was(name, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    spec = importlib.util.spec_from_file_location(f"examples_{name}", _EXAMPLES / f"{name}.py")
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    ours, theirs = (example.train(None, tmp_path / str(plain), steps=2, plain=plain) for plain in (False, True))
    for got, expected in zip(ours.state.log_history, theirs.state.log_history, strict=True):
        for key in expected.keys() & {"loss", "grad_norm", "eval_loss", "entropy", "eval_entropy"}:
            assert got[key] == pytest.approx(expected[key], rel=1e-5), key
    assert sum("grad_norm" in row for row in theirs.state.log_history) == 2
    assert any("eval_loss" in row for row in theirs.state.log_history)
    logits, expected = (torch.tensor(it.predict(it.eval_dataset).predictions) for it in (ours, theirs))
    assert logits.shape == expected.shape
    torch.testing.assert_close(logits, expected)
    # the trainer's own changes of the model stay when ours go
    litespark.remove(ours.model)
    torch.testing.assert_close(torch.tensor(ours.predict(ours.eval_dataset).predictions), expected)


@pytest.mark.parametrize("count", [7, torch.tensor(7)])
def test_the_loss_of_an_accumulated_batch_is_divided_by_its_items(count):
    ours, theirs = _pair()
    got = _gradients(ours, num_items_in_batch=count)
    _assert_same(got, _gradients(theirs, num_items_in_batch=count))
    assert got["loss"] > 2 * _gradients(ours)["loss"]


def test_labels_that_were_shifted_before_are_not_shifted_again():
    ours, theirs = _pair()
    shifted = _TOKENS.roll(3, dims=1)
    _assert_same(_gradients(ours, shift_labels=shifted), _gradients(theirs, shift_labels=shifted))


def test_logits_are_left_out_of_training_alone_or_as_asked_for():
    ours, _ = _pair()
    got = {
        (training, skip): ours.train(training)(_TOKENS, labels=_TOKENS, skip_logits=skip).logits is None
        for training in (True, False)
        for skip in (None, True, False)
    }
    expected = {(True, None), (True, True), (False, True)}
    assert {key for key, left_out in got.items() if left_out} == expected
    assert ours.train()(_TOKENS).logits is not None


# ---------------------------------------------------------------- PEFT


@pytest.mark.parametrize("first", ["ops", "adapters"])
def test_adapters_get_the_same_gradients_and_are_saved_and_merged(first, tmp_path):
    ours, theirs = build("llama").train(), build("llama").train()
    if first == "ops":
        litespark.apply(ours)
    adapted = []
    for model in (ours, theirs):
        torch.manual_seed(0)
        adapted.append(get_peft_model(model, LoraConfig(**_LORA)))
    if first == "adapters":
        litespark.apply(adapted[0])
    assert len(_replaced(ours)) == 17
    got, expected = map(_gradients, adapted)
    assert len(expected) == 1 + 2 * 7 * 3
    _assert_same(got, expected)
    for number, model in enumerate(adapted):
        model.save_pretrained(tmp_path / str(number))
    files = [{file.name: file.read_bytes() for file in (tmp_path / number).iterdir()} for number in "01"]
    assert files[0] == files[1]
    merged = [model.merge_and_unload().eval()(_TOKENS).logits for model in adapted]
    torch.testing.assert_close(*merged)


def test_adapters_put_on_layers_in_fp8_are_not_lost():
    config, losses = Fp8Config(simulate=True), []
    for first in ("ops", "adapters", "none"):
        model = build("llama", hidden_size=64, intermediate_size=64).train()
        if first == "ops":
            litespark.apply(model, precision=config)
        torch.manual_seed(0)
        adapted = get_peft_model(model, LoraConfig(**{**_LORA, "target_modules": ["v_proj", "down_proj"]}))
        if first != "ops":
            litespark.apply(adapted, precision=config if first == "adapters" else None)
        losses.append(float(adapted(input_ids=_TOKENS[:, :16], labels=_TOKENS[:, :16]).loss))
    assert losses[0] == losses[1] != losses[2]


# ---------------------------------------------------------------- copies and files


@pytest.mark.parametrize("copied", [copy.deepcopy, copy.copy, lambda model: pickle.loads(pickle.dumps(model))])
def test_a_copy_computes_with_our_ops_too(copied):
    ours, theirs = _pair()
    other = copied(ours)
    assert _replaced(other) == _replaced(ours) != []
    _assert_same(_gradients(other), _gradients(theirs))
    litespark.remove(other)
    assert _replaced(other) == []
    _assert_same(_gradients(ours), _gradients(theirs))


def test_a_saved_folder_and_the_names_in_a_state_have_no_trace_of_us(tmp_path):
    ours, theirs = _pair()
    assert list(ours.state_dict()) == list(theirs.state_dict())
    assert repr(ours) == repr(theirs)
    for model, name in ((ours, "ours"), (theirs, "theirs")):
        model.save_pretrained(tmp_path / name)
    files = [{file.name: file.read_bytes() for file in (tmp_path / name).iterdir()} for name in ("ours", "theirs")]
    assert files[0] == files[1]
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "ours").train()
    assert _replaced(again) == []
    _assert_same(_gradients(again), _gradients(theirs))


def test_other_instances_of_the_same_config_stay_and_remove_undoes():
    config = build("qwen3").config
    ours, other = (AutoModelForCausalLM.from_config(config) for _ in range(2))
    before = [(type(module), sorted(vars(module))) for module in other.modules()], other.config.to_dict()
    litespark.apply(ours)
    for model in (other, AutoModelForCausalLM.from_config(config)):
        assert ([(type(module), sorted(vars(module))) for module in model.modules()], model.config.to_dict()) == before
        assert model.config._attn_implementation == "sdpa"
    litespark.remove(ours)
    assert ([(type(module), sorted(vars(module))) for module in ours.modules()], ours.config.to_dict()) == before
    assert ours.config._attn_implementation == "sdpa"


# ---------------------------------------------------------------- PyTorch


@pytest.mark.parametrize("reentrant", [True, False])
def test_gradient_checkpointing_gives_the_same_gradients(reentrant):
    ours, theirs = _pair()
    expected = _gradients(theirs)
    ours.gradient_checkpointing_enable({"use_reentrant": reentrant})
    _assert_same(_gradients(ours), expected)


def test_a_model_in_another_dtype_is_as_far_from_fp32_as_its_own():
    ours, theirs = _pair()
    exact = _gradients(theirs)
    distances = []
    for model in (ours.to(torch.bfloat16), theirs.to(torch.bfloat16)):
        got = _gradients(model)
        distances.append(max(float((got[name] - value).norm() / value.norm()) for name, value in exact.items()))
    assert distances[0] < 2 * distances[1]


def test_it_is_tried_in_the_dtype_that_autocast_computes_in():
    exact, distances = _gradients(build("llama").train()), []
    for applied in (True, False):
        model = build("llama").train()
        # as accelerate prepares a model for mixed precision
        model.forward = convert_outputs_to_fp32(torch.autocast("cpu", torch.bfloat16)(model.forward))
        if applied:
            done = {op for it in litespark.apply(model).modules for op in it.ops}
            assert done == {"rms_norm", "add_rms_norm", "rope", "swiglu", "attention"}
        got = _gradients(model)
        distances.append(max(float((got[name] - value).norm() / value.norm()) for name, value in exact.items()))
    assert distances[0] < 2 * distances[1]


def test_compiled_it_is_one_graph_with_the_same_gradients():
    ours, theirs = _pair("qwen3", num_hidden_layers=1)
    packed = torch.tensor([[*range(9), *range(11)]] * 2)
    compiled = torch.compile(ours, backend="aot_eager", fullgraph=True)
    _assert_same(_gradients(compiled, position_ids=packed), _gradients(theirs, position_ids=packed))


def test_it_can_be_sharded_and_not_removed_or_applied_then():
    ours, theirs = _pair("qwen2")  # whose head is tied to its embedding
    expected = _gradients(theirs)
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    try:
        for model in (ours, theirs):
            for part in (*model.model.layers, model):
                fully_shard(part)
        got = _gradients(ours)
        _assert_same({name: it.full_tensor() if isinstance(it, DTensor) else it for name, it in got.items()}, expected)
        with pytest.raises(ValueError, match="sharded since"):
            litespark.remove(ours)
        with pytest.raises(ValueError, match="that is sharded; apply first"):
            litespark.apply(theirs)
    finally:
        distributed.destroy_process_group()


# ---------------------------------------------------------------- generation and outputs


@pytest.mark.parametrize(
    "options",
    [{"cache_implementation": "static"}, {"num_beams": 3}, {"use_cache": False}],
    ids=lambda it: next(iter(it)),
)
def test_generates_the_same_tokens(options):
    ours, theirs = (model.eval() for model in _pair("qwen3"))
    options = {"max_new_tokens": 6, "do_sample": False, **options}
    assert ours.generate(_TOKENS, **options).equal(theirs.generate(_TOKENS, **options))


def test_a_window_and_a_cache_of_a_fixed_size_give_the_same_tokens():
    # whose mask `generate` makes, and the model is asked to keep
    ours, theirs = (model.eval() for model in _pair("mistral"))
    options = {"max_new_tokens": 6, "do_sample": False, "cache_implementation": "static"}
    assert ours.generate(_TOKENS, **options).equal(theirs.generate(_TOKENS, **options))


def test_hidden_states_are_given_and_attentions_by_eager_attention():
    ours, theirs = _pair("qwen3")
    for model in (ours, theirs):
        model.set_attn_implementation("eager")
    asked = {"output_hidden_states": True, "output_attentions": True, "labels": _TOKENS}
    got, expected = (model(_TOKENS, **asked) for model in (ours, theirs))
    assert got.logits is None
    for name in ("hidden_states", "attentions"):
        torch.testing.assert_close(got[name], expected[name], rtol=1e-4, atol=1e-5)
    litespark.remove(ours)
    assert ours.config._attn_implementation == "sdpa"


def test_heads_that_are_no_plain_layer_are_called():
    ours, theirs = _pair()
    for model in (ours, theirs):
        torch.manual_seed(0)
        model.lm_head = nn.Sequential(model.lm_head, nn.Linear(97, 97))
    _assert_same(_gradients(ours), _gradients(theirs))


def test_hooks_of_all_modules_are_called():
    ours, theirs = _pair()
    hook = nn.modules.module.register_module_forward_hook(
        lambda module, _, result: result * 1.5 if isinstance(module, nn.Linear) else None
    )
    try:
        _assert_same(_gradients(ours), _gradients(theirs))
    finally:
        hook.remove()


def test_another_loss_than_that_of_a_causal_lm_is_the_one_that_is_computed():
    ours, theirs = _pair()
    for model in (ours, theirs):
        model.loss_type = "ForMaskedLM"
    _assert_same(_gradients(ours), _gradients(theirs))


def test_an_activation_that_was_changed_since_is_the_one_that_is_computed():
    ours, theirs = _pair()
    for model in (ours, theirs):
        model.model.layers[0].mlp.act_fn = nn.GELU()
    _assert_same(_gradients(ours), _gradients(theirs))
