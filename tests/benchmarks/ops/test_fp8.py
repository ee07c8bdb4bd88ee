"""The rows of fp8 in `litespark bench ops`: what each of them runs, and that nothing simulated gets a figure."""

import sys
import types
from collections import Counter
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import nn

from litespark.benchmarks.ops import contenders, fp8_runs
from litespark.benchmarks.ops import fp8 as bench
from litespark.benchmarks.ops.fp8 import measure_fp8
from litespark.benchmarks.ops.fp8_runs import CASTS, NORM, SWIGLU, WEIGHTS, Fp8Runs
from litespark.benchmarks.ops.rivals import TORCHAO, torchao_linear
from litespark.models.llama.config import LlamaConfig
from litespark.ops.fp8.limits import without_units
from litespark.ops.fp8.operands import product
from litespark.ops.fp8.reference import Pieces
from litespark.ops.fp8.settings import Fp8Config
from litespark.ops.shapes import Place
from litespark.ops.tolerance import Difference
from litespark.ops.verification import Verification

CPU = torch.device("cpu")
TINY = LlamaConfig("t", 32, 3, 4, 2, 48, 97, 32)
SHAPES = TINY.step_shapes(2, 16, documents=False)
PLACE = Place(CPU, torch.bfloat16, SHAPES, autocast=True)
LINEARS = ("qkv", "output", "gate_up", "down")
ROWS = ["bf16", "fp8 products alone", "delayed", "delayed, casts apart", "tensorwise"]
REASON = "a device of type cpu has no fp8 units, and the speed of simulated products says nothing"


class Counted(Pieces):
    """Counts the tensors that are cast by themselves, by whether their scale was known."""

    def __init__(self) -> None:
        self.casts: Counter[str] = Counter()

    def cast(self, x, quantisation):
        if quantisation.format is not None:
            self.casts["found" if quantisation.scale is None else "known"] += 1
        return super().cast(x, quantisation)

    def add_rms_norm(self, *arguments, **settings):
        self.casts["fused"] += arguments[-1].fused
        return super().add_rms_norm(*arguments, **settings)

    def swiglu(self, *arguments, **settings):
        self.casts["fused"] += arguments[-1].fused
        return super().swiglu(*arguments, **settings)

    def of(self, call) -> dict[str, int]:
        """What a call casts."""
        self.casts.clear()
        call()
        return dict(+self.casts)


@pytest.fixture
def simulated(monkeypatch):
    """As on a device with fp8 units, for which the simulation stands in, and the reference for the fused pieces."""

    def multiplied(left, right, dtype, *, simulate, fast):
        assert not simulate
        return product(left, right, dtype, simulate=True, fast=fast)

    monkeypatch.setattr(fp8_runs, "product", multiplied)
    monkeypatch.setattr(bench, "without_units", lambda device: None)
    monkeypatch.setattr(bench, "_fastest_pieces", lambda place: (Pieces(), None, True))
    monkeypatch.setattr(bench, "WIDTHS", (16, 32))
    once = partial(contenders.interleaved_milliseconds, least_repeats=1)
    monkeypatch.setattr(contenders, "interleaved_milliseconds", once)


def measured(place=PLACE):
    return measure_fp8(TINY, Fp8Config(), place, seconds=0.001, bandwidth=1e9)


# ---------------------------------------------------------------- without the units


def test_without_fp8_units_every_figure_is_absent_with_the_reason(monkeypatch):
    monkeypatch.setattr(fp8_runs, "product", lambda *inputs, **settings: pytest.fail("it was simulated"))
    cases, widths, pays = measured()
    assert [case.case for case in cases] == [*(f"linear {name}" for name in LINEARS), NORM, SWIGLU, CASTS, WEIGHTS]
    for case in cases:
        assert {(each.reason, each.forward_backward) for each in case.variants} == {(REASON, None)}
    assert [each.name for each in cases[0].variants] == [*ROWS, TORCHAO]
    assert not widths
    assert [(each.width, each.reason) for each in pays] == [(None, REASON)] * 3


@pytest.mark.parametrize(
    ("place", "reason"),
    [
        (replace(PLACE, dtype=torch.float32, autocast=False), "set precision=bf16"),
        (replace(PLACE, shapes=replace(SHAPES, intermediate_size=50)), "intermediate_size F is 50"),
    ],
)
def test_other_precisions_and_sizes_are_refused_with_the_reason(monkeypatch, place, reason):
    monkeypatch.setattr(bench, "without_units", lambda device: None)
    assert reason in bench.why_absent(place)


@pytest.mark.parametrize("wrong", ["pieces", "products"])
def test_pieces_whose_verification_fails_get_no_figure(monkeypatch, wrong):
    failed = Verification("fp8", "triton", "cast", "8 x 8", "bf16", False, 0.0, (Difference("codes", 1.0, 1e-3),))
    monkeypatch.setattr(bench, "without_units", lambda device: None)
    monkeypatch.setattr(bench, "reason_against", lambda *arguments: None)
    monkeypatch.setattr(bench, "why_wrong", lambda *arguments: str(failed) if wrong == "pieces" else None)
    monkeypatch.setattr(bench, "verify_products", lambda place: [failed] if wrong == "products" else [])
    cases, widths, _ = measured()
    for case in cases:
        ours = [each for each in case.variants if not each.rival]
        assert {each.verified for each in ours} == {False}
        assert all("FAILED" in each.reason for each in ours)
        assert all(each.forward_backward is None for each in ours)
    assert not widths


# ---------------------------------------------------------------- what the rows run


@pytest.mark.parametrize(("name", "apart"), [("qkv", 1), ("output", 1), ("gate_up", 0), ("down", 1)])
def test_a_linear_layer_casts_what_its_row_says(simulated, name, apart):
    pieces = Counted()
    runs = Fp8Runs(PLACE, pieces, "e5m2").linear(name, *TINY.linear_shapes()[name])
    counts = [{}, {}, {"known": apart} if apart else {}, {"known": 2}, {"found": 2}]
    assert {each: pieces.of(run.both) for each, run in runs.items()} == dict(zip(ROWS, counts, strict=True))
    forward = {each: sum(pieces.of(run.forward).values()) for each, run in runs.items()}
    assert list(forward.values()) == [0, 0, int(name == "output"), 1, 1]


def test_all_rows_of_a_linear_layer_compute_the_same_products(simulated):
    found = {name: run.both() for name, run in Fp8Runs(PLACE, Pieces(), "e4m3").linear("qkv", 64, 32).items()}
    for name, products in found.items():
        for made, expected in zip(products, found["bf16"], strict=True):
            distance = (made.float() - expected.float()).norm() / expected.float().norm()
            assert distance < 0.06, name
    assert [tuple(each.shape) for each in found["bf16"]] == [(32, 64), (32, 32), (64, 32)]


@pytest.mark.parametrize("name", ["norm", "swiglu"])
def test_the_ops_before_products_cast_on_their_way_or_after(name):
    pieces = Counted()
    runs = getattr(Fp8Runs(PLACE, pieces, "e5m2"), name)()
    assert {each: pieces.of(run.both) for each, run in runs.items()} == {
        "bf16": {},
        "bf16, then cast": {"known": 2},
        "fused": {"fused": 1, "known": 2},
        "tensorwise": {"found": 2},
    }


def test_casts_and_weights_run_by_every_recipe():
    pieces = Counted()
    made = Fp8Runs(PLACE, pieces, "e5m2")
    casts = {
        recipe: (pieces.of(run.forward), pieces.of(run.both)) for recipe, run in made.casts([32], [64, 32]).items()
    }
    assert casts == {"delayed": ({"known": 1}, {"known": 3}), "tensorwise": ({"found": 1}, {"found": 3})}
    runs = made.weights([(64, 32), (32, 48)])
    assert [each.dtype for each in runs["bf16"].forward()] == [torch.bfloat16] * 2
    assert [each.rows.values.dtype for each in runs["delayed"].forward()] == [torch.float8_e4m3fn] * 2


def test_every_row_has_its_figures_where_there_are_units(simulated):
    cases, widths, pays = measured()
    for case in cases:
        assert case.copy_bytes_per_second == 1e9
        for each in case.variants:
            if each.name == TORCHAO:
                assert (each.rival, each.forward) == (True, None)
                assert "need a GPU" in each.reason
                continue
            assert each.forward is not None, (case.case, each)
            assert each.verified is (None if each.name == "bf16" else True)
    linear = cases[0]
    assert linear.sizes == "32 tokens, 32 to 64"
    assert (linear.forward_flops, linear.backward_flops) == (2 * 32 * 32 * 64, 4 * 32 * 32 * 64)
    assert linear.figures(linear.variants[0]).tflops_forward > 0
    assert [each.width for each in widths] == [16, 32]
    alone = [row for row in ROWS if row != "delayed"]
    assert [each.name for each in widths[0].times] == alone
    assert [each.recipe for each in pays] == alone[1:]
    casts, weights = (case for case in cases if case.case in (CASTS, WEIGHTS))
    # the attended heads forward, the gradients of qkv and of down backward: 2 bytes read and 2 written of a value
    assert (casts.forward_bytes, casts.backward_bytes) == (4 * 32 * 32, 4 * 32 * (64 + 32))
    assert weights.forward_bytes == 6 * TINY.block_matmul_parameters()


def test_a_variant_that_raises_is_named_and_the_others_are_measured(simulated, monkeypatch):
    def failing(left, right, dtype, *, simulate, fast):
        if left.scale is not None:
            raise RuntimeError("no codes here")
        return product(left, right, dtype, simulate=True, fast=fast)

    monkeypatch.setattr(fp8_runs, "product", failing)
    cases, _, pays = measured()
    assert (pays[-1].recipe, pays[-1].width) == ("tensorwise", None)
    assert pays[-1].reason == "it did not run at the largest width that was measured, 32"
    assert [each.name for each in cases[0].variants if each.forward is not None] == ["bf16"]
    reasons = {each.reason for each in cases[0].variants if each.forward is None and each.name != TORCHAO}
    assert reasons == {"at these sizes it raised RuntimeError: no codes here"}


# ---------------------------------------------------------------- torchao


def test_torchao_is_absent_with_the_reason_and_converted_as_the_baseline_is(monkeypatch):
    assert "need a GPU" in torchao_linear(32, 64, CPU)
    monkeypatch.setitem(sys.modules, "torchao.float8", None)
    assert "pip install torchao" in torchao_linear(32, 64, torch.device("meta"))
    seen = []

    def convert(model, config, module_filter_fn):
        seen.extend(
            (config, name)
            for name, module in model.named_modules()
            if isinstance(module, nn.Linear) and module_filter_fn(module, name)
        )

    module = types.ModuleType("torchao.float8")
    module.convert_to_float8_training = convert
    module.Float8LinearConfig = types.SimpleNamespace(from_recipe_name=lambda name: name)
    monkeypatch.setitem(sys.modules, "torchao", types.ModuleType("torchao"))
    monkeypatch.setitem(sys.modules, "torchao.float8", module)
    monkeypatch.setattr(torch, "compile", lambda layer, dynamic: layer)
    weight, layer = torchao_linear(32, 64, torch.device("meta"))
    assert seen == [("tensorwise", "layers.0")]
    assert (weight.shape, weight.dtype) == ((64, 32), torch.float32)
    assert layer(torch.empty(2, 32, device="meta")).shape == (2, 64)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_on_a_gpu_with_the_units_every_row_has_its_figures(monkeypatch):
    device = torch.device("cuda", 0)
    if (reason := without_units(device)) is not None:
        pytest.skip(reason)
    monkeypatch.setattr(bench, "WIDTHS", (256, 512))
    model = replace(TINY, hidden_size=256, head_dim=64, intermediate_size=512)
    place = Place(device, torch.bfloat16, model.step_shapes(2, 128, documents=False), autocast=True)
    cases, widths, _ = measure_fp8(model, Fp8Config(), place, seconds=0.05, bandwidth=1e12)
    for case in cases:
        for each in case.variants:
            if not each.rival:
                assert each.forward_backward is not None, (case.case, each.name, each.reason)
                assert each.peak_memory_mib is not None
    assert [len(each.times) for each in widths] == [4, 4]
