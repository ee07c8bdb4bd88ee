"""Weights under autocast: cast once a step, with the bits that autocast gives, and anew wherever they change."""

import copy
from collections import Counter

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from litespark.data.batch import batch_from_sequences
from litespark.models.compilation import compile_model
from litespark.models.init import initialise
from litespark.models.llama.model import Llama
from litespark.ops.backend import OpsConfig, resolve
from litespark.ops.linear.kept import KeptLinear, accumulate_in_place, keep_casts, weight_gradient
from litespark.ops.tolerance import relative_distance
from litespark.tasks.pretrain import Pretrain
from litespark.training.model_builder import ModelBuilder
from litespark.training.optim import AdamWConfig, MuonConfig, build_optimizer
from litespark.training.parallel.config import StrategyConfig
from litespark.training.step import OptimizerStep
from tests.training.small_runs import small_llama

CPU = torch.device("cpu")
OPTIMIZERS = {
    "torch": AdamWConfig(lr=0.02, adamw_kernel="torch"),
    "triton": AdamWConfig(lr=0.02, adamw_kernel="triton"),
    "unfused": AdamWConfig(lr=0.02, fused=False),
    "muon": MuonConfig(lr=0.02),
}
ALL = pytest.mark.parametrize("config", OPTIMIZERS.values(), ids=OPTIMIZERS.keys())


def autocast():
    return torch.autocast("cpu", torch.bfloat16, cache_enabled=False)


class Training:
    """A tiny model, its optimizer and steps of three micro-batches, as a single process takes them.

    `keep`: else as autocast casts.
    """

    def __init__(self, config, *, keep=True, recompute="none"):
        self.model = Llama(small_llama(num_layers=2), resolve(OpsConfig()), recompute)
        initialise(self.model, self.model.config, 0)
        accumulate_in_place(self.model)
        self.optimizer = build_optimizer(self.model, config)
        for layer in linears(self.model):
            layer.keep = keep
        self.stepping = OptimizerStep(Pretrain(), grad_clip=1.0, device=CPU)
        self.losses = []

    def step(self, seed):
        generator = torch.Generator().manual_seed(seed)
        batches = [batch(torch.randint(31, (2, 9), generator=generator)) for _ in range(3)]
        self.stepping.take(self.model, self.optimizer, batches, 0.02, autocast)
        self.losses.append(float(self.stepping.sums[0]))


def batch(ids):
    return batch_from_sequences(ids, eos_id=None, document_mask=False)


def linears(model):
    return [module for module in model.modules() if isinstance(module, KeptLinear)]


def assert_same(left, right):
    torch.testing.assert_close(left.state_dict(), right.state_dict(), rtol=0, atol=0)


class Casts(TorchDispatchMode):
    """Counts the casts from fp32 to bf16 by shape."""

    def __init__(self):
        super().__init__()
        self.counts, self.functions = Counter(), Counter()

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        result = function(*arguments, **(options or {}))
        self.functions[function.name()] += 1
        if function in (torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default):
            source = arguments[-1] if function is torch.ops.aten._to_copy.default else arguments[1]
            if (source.dtype, result.dtype) == (torch.float32, torch.bfloat16):
                self.counts[tuple(result.shape)] += 1
        return result


@pytest.mark.parametrize("kernel, own", [("torch", 2), ("triton", 0)])
def test_a_step_of_several_micro_batches_casts_each_weight_once(kernel, own):
    """Each shape is that of two layers; Triton's kernel makes the casts as it goes."""
    counts, config = {}, OPTIMIZERS[kernel]
    for keep in (True, False):
        training = Training(config, keep=keep)
        training.step(0)
        with Casts() as casts:
            training.step(1)
        shapes = {tuple(layer.weight.shape) for layer in linears(training.model)}
        counts[keep] = {casts.counts[shape] for shape in shapes}
    assert counts == {True: {own}, False: {2 * 3}}


@pytest.mark.parametrize(
    "optimizer, recompute", [*((name, "none") for name in OPTIMIZERS), ("torch", "full"), ("triton", "swiglu")]
)
def test_losses_and_weights_are_those_of_autocast_bit_for_bit(optimizer, recompute):
    ours, theirs = (Training(OPTIMIZERS[optimizer], keep=keep, recompute=recompute) for keep in (True, False))
    for seed in range(3):
        ours.step(seed)
        theirs.step(seed)
    assert ours.losses == theirs.losses
    assert_same(ours.model, theirs.model)


@ALL
def test_training_goes_on_from_a_loaded_state_bit_for_bit(config):
    whole = Training(config)
    for seed in range(2):
        whole.step(seed)
    model, optimizer = (copy.deepcopy(part.state_dict()) for part in (whole.model, whole.optimizer))
    resumed = Training(config)
    resumed.step(7)  # which leaves casts of other weights
    resumed.model.load_state_dict(model)
    resumed.optimizer.load_state_dict(optimizer)
    for training in (whole, resumed):
        training.step(2)
    assert whole.losses[-1] == resumed.losses[-1]
    assert_same(whole.model, resumed.model)


def test_validation_and_models_that_compile_compute_what_autocast_does():
    training = Training(OPTIMIZERS["torch"])
    training.step(0)
    plain = copy.deepcopy(training.model)
    for layer in linears(plain):
        layer.keep = False
    ids = torch.arange(16).view(2, 8)
    with torch.inference_mode(), autocast():
        assert torch.equal(training.model(ids), plain(ids))
    training.step(1)  # with what was cast in inference mode
    torch.compiler.reset()
    compile_model(training.model, list(training.model.blocks)[:1], "block", "aot_eager")
    before = len(training.losses)
    training.step(2)
    assert all(0 < loss < 1e3 for loss in training.losses[before:])


def test_a_weight_that_is_written_to_or_moved_is_cast_anew_and_without_a_promise_each_time():
    layer = KeptLinear(8, 4)
    keep_casts(layer)
    kept = layer.cast(torch.bfloat16)
    assert layer.cast(torch.bfloat16) is kept
    with torch.no_grad():
        layer.weight.mul_(2)
    assert layer.cast(torch.bfloat16) is kept, "a CUDA graph reads it where it is"
    assert torch.equal(kept, layer.weight.bfloat16())
    layer.weight.data = torch.ones(4, 8)
    assert torch.equal(layer.cast(torch.bfloat16), torch.ones(4, 8, dtype=torch.bfloat16))
    other = KeptLinear(8, 4)
    with autocast():
        other(torch.ones(2, 8))
    assert other._cast is None


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("frozen", [False, True])
def test_gradients_are_those_of_autocast_and_in_the_dtypes_of_input_and_weight(dtype, frozen):
    layer, found = KeptLinear(48, 32, bias=True), []
    of_bias = []
    layer.weight.requires_grad_(not frozen)
    for keep in (True, False):
        layer.keep, layer.weight.grad = keep, None
        layer.bias.grad = None
        x = torch.randn(3, 5, 48, generator=torch.Generator().manual_seed(0)).to(dtype).requires_grad_()
        with autocast():
            y = layer(x)
        y.square().sum().backward()
        found.append((y, x.grad, layer.weight.grad))
        of_bias.append(layer.bias.grad)
    exact = (2 * y.detach()).flatten(0, 1).float().sum(0)
    assert relative_distance(of_bias[0], exact) < 1e-6
    for ours, theirs in zip(*found, strict=True):
        assert (ours is theirs is None) or (ours.dtype == theirs.dtype and torch.equal(ours, theirs))


@pytest.mark.parametrize("strategy, expected", [("single", True), ("ddp", False)])
def test_gradients_are_accumulated_in_place_where_nobody_listens_to_them(strategy, expected):
    builder = ModelBuilder(small_llama(), resolve(OpsConfig()), 0, strategy=StrategyConfig(name=strategy))
    assert {layer.accumulate for layer in linears(builder.build(CPU))} == {expected}
    layer = KeptLinear(48, 32)
    layer.keep = layer.accumulate = True
    for number in range(3):
        with autocast():
            layer(torch.ones(4, 48)).sum().backward()
        if number == 0:
            first, place = layer.weight.grad.clone(), layer.weight.grad.data_ptr()
    assert layer.weight.grad.data_ptr() == place
    assert torch.equal(layer.weight.grad, 3 * first)


def test_on_nvidia_gradients_leave_the_product_in_fp32_and_are_added_by_it():
    with FakeTensorMode(), Casts() as casts:
        gradient, x = (torch.empty(64, width, dtype=torch.bfloat16, device="cuda") for width in (32, 48))
        total = weight_gradient(gradient, x, torch.float32, None)
        assert (total.shape, total.dtype) == ((32, 48), torch.float32)
        assert weight_gradient(gradient, x, torch.float32, total) is None
    assert {name: count for name, count in casts.functions.items() if "mm" in name} == {
        "aten::mm.dtype": 1,
        "aten::addmm.dtype_out": 1,
    }
    assert not any("copy" in name or "add." in name for name in casts.functions)


def test_casts_are_kept_of_weights_without_memory_too_which_traffic_is_counted_with():
    with FakeTensorMode():
        assert len(keep_casts(Llama(small_llama(), resolve(OpsConfig())))) == 4
