"""The rows of fp8 in `litespark bench ops`: what each of them runs, and that nothing simulated gets a figure."""

from __future__ import annotations

import sys
import types
from collections import Counter
from dataclasses import replace

import pytest
import torch
from torch import nn

from litespark.benchmarks.ops import fp8 as bench
from litespark.benchmarks.ops import fp8_runs
from litespark.benchmarks.ops.fp8 import measure_fp8
from litespark.benchmarks.ops.fp8_runs import (
    CASTS,
    NORM,
    SWIGLU,
    WEIGHTS,
    Linear,
    cast_runs,
    norm_runs,
    swiglu_runs,
    weight_runs,
)
from litespark.benchmarks.ops.rivals import TORCHAO, torchao_linear
from litespark.metrics.records.ops import (
    least_paying,
)
from litespark.models.llama.config import LlamaConfig
from litespark.ops.fp8.limits import without_units
from litespark.ops.fp8.operands import product
from litespark.ops.fp8.reference import Pieces
from litespark.ops.fp8.settings import Fp8Config
from litespark.ops.shapes import Place
from litespark.ops.tolerance import Difference
from litespark.ops.verification import Verification
from litespark.planning.fp8_casts import cast_bytes
from litespark.planning.op_costs import op_cost

CPU = torch.device("cpu")
TINY = LlamaConfig("t", 32, 3, 4, 2, 48, 97, 32)
SHAPES = TINY.step_shapes(2, 16, documents=False)
PLACE = Place(CPU, torch.bfloat16, SHAPES, autocast=True)
LINEARS = ("qkv", "output", "gate_up", "down")
REASON = "a device of type cpu has no fp8 units, and the speed of simulated products says nothing"


class Counted(Pieces):
    """Counts the tensors that are cast by themselves, by whether their scale was known."""

    def __init__(self) -> None:
        self.casts: Counter[str] = Counter()
        self._inside = 0

    def cast(self, x, quantisation):
        if quantisation.format is not None and not self._inside:
            kind = "found" if quantisation.scale is None else "known"
            self.casts[kind] += 1
        return super().cast(x, quantisation)

    def add_rms_norm(self, *arguments, **settings):
        return self._counted("norm", super().add_rms_norm, *arguments, **settings)

    def swiglu(self, *arguments, **settings):
        return self._counted("swiglu", super().swiglu, *arguments, **settings)

    def _counted(self, name, piece, *arguments, **settings):
        self._inside += 1
        quantisation = next(each for each in arguments if type(each).__name__ == "Quantisation")
        self.casts[f"{name} {'fused' if quantisation.fused else 'not fused'}"] += 1
        try:
            return piece(*arguments, **settings)
        finally:
            self._inside -= 1


@pytest.fixture
def simulated(monkeypatch):
    """As on a device with fp8 units, for which the simulation stands in."""

    def multiplied(left, right, dtype, *, simulate, fast):
        assert not simulate
        return product(left, right, dtype, simulate=True, fast=fast)

    monkeypatch.setattr(fp8_runs, "product", multiplied)
    monkeypatch.setattr(bench, "without_units", lambda device: None)
    monkeypatch.setattr(bench, "_fastest_pieces", lambda place: (Pieces(), None, True))
    monkeypatch.setattr(bench, "WIDTHS", (16, 32))


def measured(place=PLACE, **changes):
    return measure_fp8(TINY, Fp8Config(**changes), place, seconds=0.001, bandwidth=1e9)


# ---------------------------------------------------------------- without the units


def test_without_fp8_units_every_figure_is_absent_with_the_reason(monkeypatch):
    monkeypatch.setattr(fp8_runs, "product", lambda *inputs, **settings: pytest.fail("it was simulated"))
    found = measured()
    assert [case.case for case in found.cases] == [
        *(f"linear {name}" for name in LINEARS),
        NORM,
        SWIGLU,
        CASTS,
        WEIGHTS,
    ]
    for case in found.cases:
        assert {each.reason for each in case.variants} == {REASON}
        assert not case.timed()
        assert not case.yardsticks
    assert {each.name for each in found.cases[0].variants} >= {"bf16", "delayed", "tensorwise", TORCHAO}
    assert not found.widths
    assert [(each.width, each.reason) for each in found.pays] == [(None, REASON)] * 3


@pytest.mark.parametrize(
    ("place", "reason"),
    [
        (replace(PLACE, dtype=torch.float32, autocast=False), "set precision=bf16"),
        (replace(PLACE, shapes=replace(SHAPES, intermediate_size=50)), "the feed-forward width F is 50"),
    ],
)
def test_other_precisions_and_sizes_are_refused_with_the_reason(monkeypatch, place, reason):
    monkeypatch.setattr(bench, "without_units", lambda device: None)
    assert reason in bench.why_absent(place)


@pytest.mark.parametrize("verifications", ["wrong", "none", "wrong products"])
def test_pieces_whose_verification_fails_get_no_figure(monkeypatch, verifications):
    wrong = Verification("fp8", "triton", "cast", "8 x 8", "bf16", False, 0.0, (Difference("codes", 1.0, 1e-3),))
    monkeypatch.setattr(bench, "without_units", lambda device: None)
    monkeypatch.setattr(bench, "reason_against", lambda *arguments: None)
    monkeypatch.setattr(bench, "verify", lambda *arguments, **settings: [wrong] if verifications == "wrong" else [])
    products = [wrong] if verifications == "wrong products" else []
    monkeypatch.setattr(bench, "verify_products", lambda *arguments: products)
    found = measured()
    for case in found.cases:
        ours = [each for each in case.variants if not each.rival]
        assert {each.verified for each in ours} == {False}
        assert all(("it was not verified" if verifications == "none" else "FAILED") in each.reason for each in ours)
        assert not case.timed()
    assert not found.widths


# ---------------------------------------------------------------- what the rows run


@pytest.mark.parametrize(("name", "apart"), [("qkv", 1), ("output", 1), ("gate_up", 0), ("down", 1)])
def test_a_linear_layer_casts_what_its_row_says(simulated, name, apart):
    pieces = Counted()
    outputs, inputs = TINY.linear_shapes()[name]
    runs = Linear(name, 32, inputs, outputs, pieces, "e5m2", CPU).runs()
    assert list(runs) == ["bf16", "fp8 products alone", "delayed", "delayed, casts apart", "tensorwise"]
    expected = {
        "bf16": {},
        "fp8 products alone": {},
        "delayed": {"known": apart} if apart else {},
        "delayed, casts apart": {"known": 2},
        "tensorwise": {"found": 2},
    }
    for each, run in runs.items():
        pieces.casts.clear()
        run.both()
        assert pieces.casts == Counter(expected[each]), each
        pieces.casts.clear()
        run.forward()
        assert pieces.casts.total() == (
            0 if each in ("bf16", "fp8 products alone") or (each == "delayed" and name != "output") else 1
        )


def test_all_rows_of_a_linear_layer_compute_the_same_products(simulated):
    linear = Linear("qkv", 32, 32, 64, Pieces(), "e4m3", CPU)
    runs = linear.runs()
    x, weight, gradient = linear.x.float(), linear.master, linear.gradient.float()
    exact = x @ weight.T, gradient @ weight, gradient.T @ x
    for name, run in runs.items():
        for found, expected in zip(run.both(), exact, strict=True):
            assert found.shape == expected.shape
            distance = (found.float() - expected).norm() / expected.norm()
            assert distance < (0.01 if name == "bf16" else 0.06), name
    products = linear.single_products()
    assert list(products) == [
        f"{kind} {each}" for kind in ("bf16", "fp8") for each in ("y", "gradient of x", "gradient of W")
    ]
    for (_, run), expected in zip(products.items(), [*exact, *exact], strict=True):
        assert run().shape == expected.shape


@pytest.mark.parametrize(("make", "name"), [(norm_runs, "norm"), (swiglu_runs, "swiglu")])
def test_the_ops_before_products_cast_on_their_way_or_after(make, name):
    pieces = Counted()
    runs = make(PLACE, pieces, "e5m2")
    expected = {
        "bf16": {f"{name} not fused": 1},
        "bf16, then cast": {f"{name} not fused": 1, "known": 2},
        "fused": {f"{name} fused": 1, "known": 1},
        "tensorwise": {f"{name} not fused": 1, "found": 1},
    }
    assert list(runs) == list(expected)
    for each, run in runs.items():
        pieces.casts.clear()
        run.both()
        assert pieces.casts == Counter(expected[each]), each


def test_casts_and_weights_run_by_every_recipe():
    pieces = Counted()
    for recipe, run in cast_runs(PLACE, ([32], [64, 32]), pieces, "e5m2").items():
        kind = {"delayed": "known", "tensorwise": "found"}[recipe]
        pieces.casts.clear()
        run.forward()
        assert pieces.casts == Counter({kind: 1})
        run.both()
        assert pieces.casts == Counter({kind: 4})
    runs = weight_runs([(64, 32), (32, 48)], pieces, CPU)
    assert [each.dtype for each in runs["bf16"].forward()] == [torch.bfloat16] * 2
    assert [each.rows.values.dtype for each in runs["delayed"].forward()] == [torch.float8_e4m3fn] * 2


def test_the_fused_pieces_run_every_row(simulated):
    """In Triton's interpreter; that they are right is verified elsewhere."""
    from litespark.ops.fp8.fused import PIECES

    linear = Linear("qkv", 32, 32, 64, PIECES, "e5m2", CPU).runs()
    others = [make(PLACE, PIECES, "e5m2") for make in (norm_runs, swiglu_runs)]
    casts = cast_runs(PLACE, ([32], [64, 32]), PIECES, "e5m2"), weight_runs([(64, 32)], PIECES, CPU)
    for runs in (linear, *others, *casts):
        for run in runs.values():
            run.both()


def test_every_row_has_its_figures_where_there_are_units(simulated):
    found = measured()
    for case in found.cases:
        assert case.copy_bytes_per_second == 1e9
        for each in case.variants:
            if each.name == TORCHAO:
                assert (each.rival, each.forward) == (True, None)
                assert "need a GPU" in each.reason
                continue
            assert each.forward is not None, (case.case, each)
            assert each.verified is (None if each.name == "bf16" else True)
    linear = found.cases[0]
    assert linear.sizes == "32 tokens, 32 to 64"
    assert (linear.forward_flops, linear.backward_flops) == (2 * 32 * 32 * 64, 4 * 32 * 32 * 64)
    assert linear.figures(linear.variants[0]).tflops_forward > 0
    assert len(linear.yardsticks) == 6
    assert [each.width for each in found.widths] == [16, 32]
    names = [each.name for each in found.widths[0].times]
    assert names == ["bf16", "fp8 products alone", "delayed, casts apart", "tensorwise"]
    assert [each.recipe for each in found.pays] == names[1:]
    for each in found.pays:
        assert each.width == least_paying(found.widths, each.recipe)


def test_a_variant_that_raises_is_named_and_the_others_are_measured(simulated, monkeypatch):
    def failing(left, right, dtype, *, simulate, fast):
        if left.scale is not None:
            raise RuntimeError("no codes here")
        return product(left, right, dtype, simulate=True, fast=fast)

    monkeypatch.setattr(fp8_runs, "product", failing)
    found = measured()
    assert (found.pays[-1].recipe, found.pays[-1].width) == ("tensorwise", None)
    assert found.pays[-1].reason == "it did not run at the largest width that was measured, 32"
    case = found.cases[0]
    failed = [each for each in case.variants if each.forward is None]
    assert [each.name for each in case.variants if each.forward is not None] == ["bf16"]
    assert {each.reason for each in failed if each.name != TORCHAO} == {
        "at these sizes it raised RuntimeError: no codes here"
    }


def test_least_bytes_are_those_of_the_op_in_bf16_and_of_the_casts():
    cases = {case.case: case for case in measured().cases}
    norm, weight = op_cost("add_rms_norm", PLACE), 4 * TINY.hidden_size
    assert cases[NORM].forward_bytes == norm.forward_bytes - weight
    assert cases[NORM].backward_bytes == norm.backward_bytes - 2 * weight
    swiglu = op_cost("swiglu", PLACE)
    assert (cases[SWIGLU].forward_bytes, cases[SWIGLU].backward_bytes) == (swiglu.forward_bytes, swiglu.backward_bytes)
    every = cast_bytes(TINY, SHAPES, Fp8Config())
    casts = sum(each.moved for each in every if not each.fused and not each.tensor.endswith(".weight"))
    assert TINY.num_layers * (cases[CASTS].forward_bytes + cases[CASTS].backward_bytes) == casts
    weights = sum(each.moved for each in every if each.tensor.endswith(".weight"))
    assert TINY.num_layers * cases[WEIGHTS].forward_bytes == weights


# ---------------------------------------------------------------- torchao


def test_torchao_is_absent_with_the_reason_and_converted_as_the_baseline_is(monkeypatch):
    assert "need a GPU" in torchao_linear(32, 64, CPU)
    monkeypatch.setitem(sys.modules, "torchao.float8", None)
    assert "pip install torchao" in torchao_linear(32, 64, torch.device("cuda"))
    seen = []

    def convert(model, config, module_filter_fn):
        seen.extend((config, name) for name, module in model.named_modules()
                    if isinstance(module, nn.Linear) and module_filter_fn(module, name))  # fmt: skip

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
    found = measure_fp8(model, Fp8Config(), place, seconds=0.05, bandwidth=1e12)
    for case in found.cases:
        for each in case.variants:
            if not each.rival:
                assert each.forward_backward is not None, (case.case, each.name, each.reason)
                assert each.peak_memory_mib is not None
    assert [len(each.times) for each in found.widths] == [5, 5]
