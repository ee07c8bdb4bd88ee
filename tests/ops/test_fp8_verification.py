"""Verifications of fp8: right pieces pass, and a fault in any piece, recipe, layout or note is caught and named."""

from dataclasses import replace

import pytest
import torch

from litespark.ops.backend import REFERENCE, why_not
from litespark.ops.fp8 import limits, operands
from litespark.ops.fp8.formats import E4M3, E5M2, FORMATS, amax_bits
from litespark.ops.fp8.operands import Matrix
from litespark.ops.fp8.reference import PIECES
from litespark.ops.fp8.settings import AdaptiveConfig, Fp8Config
from litespark.ops.fp8.verification import amax_difference, code_difference, piece_trials, product_trials
from litespark.ops.fp8.verification_pieces import PLAIN, kinds_of
from litespark.ops.shapes import Place, StepShapes
from litespark.ops.verification import verify_products
from tests.ops import planted_pieces as planted

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
SHAPES = StepShapes(
    sequences=2, length=37, hidden_size=72, num_heads=4, num_kv_heads=2, head_dim=16, intermediate_size=88,
    vocab_size=101,
)  # fmt: skip
ONE = torch.tensor(1.0)
NEEDS_UNITS = pytest.mark.skipif(
    DEVICE.type == "cuda" and limits.without_units(DEVICE) is not None,
    reason="PyTorch multiplies fp8 on CPUs, and here not",
)


def _failures(pieces, dtype=torch.bfloat16, autocast=True) -> dict[str, set[str]]:
    """Case -> the tensors that are not within their bounds."""
    found = {
        trial.name: {each.tensor for each in trial.compare() if not each.passed}
        for trial in piece_trials(pieces, Place(DEVICE, dtype, SHAPES, autocast))
    }
    assert len(found) == 2 * 2 + 4 * 3
    return {name: tensors for name, tensors in found.items() if tensors}


# ---------------------------------------------------------------- what is right


@pytest.mark.parametrize(
    ("dtype", "autocast"), [(torch.float32, False), (torch.bfloat16, False), (torch.bfloat16, True)]
)
def test_the_reference_pieces_are_like_themselves(dtype, autocast):
    assert _failures(PIECES, dtype, autocast) == {}


@pytest.mark.parametrize(
    ("config", "kinds"),
    [
        (Fp8Config(), {"delayed", "tensorwise", PLAIN}),
        (Fp8Config(recipe="tensorwise", adaptive=AdaptiveConfig(fallback="none")), {"tensorwise"}),
        (
            Fp8Config(recipe="tensorwise", linears=("down",), adaptive=AdaptiveConfig(fallback="none")),
            {"tensorwise", PLAIN},
        ),
    ],
)
def test_a_run_verifies_what_its_layers_may_become_and_no_more(config, kinds):
    """What another recipe needs may be missing on a device, which is no reason to stop a run without it."""
    trials = [trial.name for trial in piece_trials(PIECES, Place(DEVICE, torch.float32, SHAPES, fp8=config))]
    assert {name.split(", ")[1] for name in trials} == kinds == set(kinds_of(config))
    (products,) = product_trials(SHAPES, DEVICE, torch.bfloat16, config)
    assert products.name == f"products, gradients {config.gradients}"


# ---------------------------------------------------------------- planted faults


@pytest.mark.parametrize(
    ("fault", "cases", "tensors"),
    [
        (planted.two_codes_further, ["cast of weights, delayed", "swiglu, tensorwise"], {"rows of operand"}),
        (planted.columns_one_too_late, ["cast of weights, tensorwise", "swiglu_backward, delayed"],
         {"columns of operand"}),
        (planted.cut_off, ["cast of weights, delayed", "cast of activations, tensorwise"], {"rows of operand"}),
        (planted.last_row_unwritten, ["cast of weights, delayed", "add_rms_norm, tensorwise"],
         {"rows of operand"}),
        (planted.infinity_is_large, ["cast of weights, delayed", "swiglu, delayed"],
         {"not finite: rows of operand"}),
        (planted.scale_twice, ["cast of weights, delayed", "swiglu, tensorwise"], {"rows of operand"}),
        (planted.no_columns, ["cast of activations, tensorwise", "swiglu_backward, tensorwise"],
         {"columns of operand"}),
        (planted.not_noted, ["cast of weights, delayed", "swiglu_backward, tensorwise"], {"amax"}),
        (planted.nan_forgotten, ["cast of weights, delayed", "add_rms_norm_backward, tensorwise"],
         {"not finite: amax"}),
        (planted.not_counted, ["cast of weights, delayed", "cast of activations, tensorwise"],
         {"counted: counts"}),
        (planted.RoundedBefore, ["add_rms_norm, delayed"],
         {"rows of operand", "without update: rows of operand"}),
        (planted.UpdateForgotten, ["add_rms_norm, delayed", "add_rms_norm, not in fp8"], {"stream"}),
        (planted.StreamInAnotherDtype, ["add_rms_norm, delayed", "add_rms_norm, not in fp8"], {"stream"}),
        (planted.StreamGradientForgotten, ["add_rms_norm_backward, delayed", "add_rms_norm_backward, not in fp8"],
         {"rows of operand"}),
        (planted.PartOfTheWeightGradient, ["add_rms_norm_backward, delayed", "add_rms_norm_backward, not in fp8"],
         {"gradient of weight"}),
        (planted.GateForUp, ["swiglu, delayed", "swiglu, tensorwise", "swiglu, not in fp8"],
         {"rows of operand"}),
        (planted.GradientsSwapped, ["swiglu_backward, delayed", "swiglu_backward, tensorwise"],
         {"columns of operand"}),
        (planted.AnotherProductAgain, ["swiglu_backward, delayed"],
         {"columns of product", "e4m3: columns of product"}),
        (planted.ProductAlways, ["swiglu_backward, delayed"], {"rows only: product, which nobody asked for"}),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)  # fmt: skip
def test_a_fault_in_a_piece_is_caught_and_named(fault, cases, tensors):
    failures = _failures(fault() if isinstance(fault, type) else planted.Cast(fault))
    assert set(cases) <= failures.keys(), failures
    for case in cases:
        assert tensors <= failures[case], failures
    if isinstance(fault, type):  # a fault of a piece that does more than cast is no other piece's
        assert len({case.split(",")[0] for case in failures}) == 1, failures


# ---------------------------------------------------------------- products


@NEEDS_UNITS
@pytest.mark.parametrize(
    ("wrong", "tensor"),
    [
        (lambda made, fast, to: made * 1.03, "output"),
        (lambda made, fast, to: made * (1.0 if fast else 1.01), "gradient of the input"),
        (
            lambda made, fast, to: made.bfloat16().to(to) * 1.01 if to == torch.float32 else made,
            "gradient of the weight",
        ),
        (lambda made, fast, to: made.float() if fast else made, "output"),
    ],
    ids=["all", "slow", "wide", "dtype"],
)
def test_wrong_products_are_caught(monkeypatch, wrong, tensor):
    units = torch._scaled_mm

    def planted(*arguments, out_dtype, use_fast_accum):
        return wrong(units(*arguments, out_dtype=out_dtype, use_fast_accum=use_fast_accum), use_fast_accum, out_dtype)

    monkeypatch.setattr(operands.torch, "_scaled_mm", planted)
    for trial in product_trials(SHAPES, DEVICE, torch.bfloat16):
        assert trial.sizes == "64 x 64 x 80"
        assert tensor in {each.tensor for each in trial.compare() if not each.passed}


def test_products_are_verified_where_there_are_units_only(monkeypatch):
    place = Place(DEVICE, torch.bfloat16, SHAPES)
    assert bool(verify_products(place)) is (limits.without_units(DEVICE) is None)
    if DEVICE.type == "cuda":
        return
    monkeypatch.setattr("litespark.ops.verification.without_units", lambda device: None)
    (verification,) = verify_products(replace(place, fp8=Fp8Config(gradients="e4m3")))
    assert (verification.backend, verification.passed) == ("units", True), str(verification)
    assert [each.tensor for each in verification.differences] == [
        "output",
        "gradient of the input",
        "gradient of the weight",
    ]
    assert verify_products(replace(place, fp8=Fp8Config(simulate=True))) == []


# ---------------------------------------------------------------- comparing


def _compared(actual: Matrix, expected: Matrix) -> float:
    return code_difference("codes", actual, expected, 0.5).distance


@pytest.mark.parametrize("format", FORMATS.values(), ids=FORMATS)
def test_all_codes_are_in_the_order_of_their_values(format):
    codes = torch.arange(256, dtype=torch.uint8).view(format.dtype)
    values = codes.float()
    order = values[values.isfinite()].unique()
    expected = torch.stack([order[:-1], order[1:]]).to(format.dtype)
    assert _compared(Matrix(expected[:1], ONE), Matrix(expected[1:], ONE)) == 1.0  # all are one apart
    further = torch.stack([order[:-2], order[2:]]).to(format.dtype)
    for one, other in further.T[:: len(order) // 40]:
        assert _compared(Matrix(one.view(1, 1), ONE), Matrix(other.view(1, 1), ONE)) == float("inf")


@pytest.mark.parametrize(
    ("actual", "expected", "distance"),
    [
        ([1.0, 2.0, 3.0, 4.0], [1.0, 2.0, 3.0, 4.0], 0.0),
        ([1.125, 2.0, 3.0, 4.0], [1.0, 2.0, 3.0, 4.0], 0.25),
        ([1.25, 2.0, 3.0, 4.0], [1.0, 2.0, 3.0, 4.0], float("inf")),
        ([-1.0, 2.0, 3.0, 4.0], [1.0, 2.0, 3.0, 4.0], float("inf")),
        ([-0.0, 2.0, 3.0, 4.0], [0.0, 2.0, 3.0, 4.0], 0.0),
        ([float("nan"), 2.0, 3.0, 4.0], [float("nan"), 2.0, 3.0, 4.0], 0.0),
        ([float("nan"), 2.0, 3.0, 4.0], [448.0, 2.0, 3.0, 4.0], float("inf")),
        ([1.0, 2.0, 3.0], [1.0, 2.0, 3.0, 4.0], float("inf")),
        # what cancelled may be many codes apart in a row of large ones
        ([448.0, 2.0**-9], [448.0, 2.0**-7], float("inf")),
        ([57344.0, 2.0**-10], [57344.0, 2.0**-6], 0.5),
    ],
    ids=str,
)
def test_codes_that_differ_by_one_are_a_share_and_all_else_is_a_fault(actual, expected, distance):
    format = E5M2 if max(expected) > E4M3.largest else E4M3
    found, wanted = (Matrix(torch.tensor([each]).to(format.dtype), ONE) for each in (actual, expected))
    assert _compared(found, wanted) == distance


def test_another_scale_is_a_fault_also_of_equal_values():
    codes = torch.tensor([[2.0, 4.0]]).to(E4M3.dtype)
    unknown = Matrix(codes, torch.tensor(float("nan")))
    assert _compared(Matrix((codes.float() / 2).to(E4M3.dtype), 2 * ONE), Matrix(codes, ONE)) == float("inf")
    assert _compared(unknown, Matrix(codes, ONE)) == float("inf")
    assert _compared(unknown, unknown) == 0.0


@pytest.mark.parametrize(
    ("actual", "expected", "distance"),
    [
        (2.5, 2.0, 0.25),
        (2.0, 0.0, float("inf")),
        (float("nan"), float("nan"), 0.0),
        (float("inf"), float("inf"), 0.0),
        (float("inf"), float("nan"), float("inf")),
        (2.0, float("inf"), float("inf")),
        (float("nan"), 2.0, float("inf")),
    ],
)
def test_largest_values_are_compared_with_what_is_not_finite(actual, expected, distance):
    found = amax_difference(*(amax_bits(torch.tensor([each])) for each in (actual, expected)), 0.1)
    assert found.distance == distance


# ---------------------------------------------------------------- where it runs


@pytest.mark.parametrize(
    ("name", "capability", "hip", "reason"),
    [
        ("NVIDIA A100-SXM4-80GB", (8, 0), None,
         "NVIDIA A100-SXM4-80GB has compute capability 8.0, and fp8 units came with 8.9 (Ada)"),
        ("AMD Instinct MI300X", (9, 4), "6.4",
         "AMD Instinct MI300X is not supported: products of fp8 are made for NVIDIA devices, and fp8 on AMD is not "
         "tried"),
        ("NVIDIA L40S", (8, 9), None, None),
        ("NVIDIA B200", (10, 0), None, None),
    ],
)  # fmt: skip
def test_devices_without_fp8_units_are_named_with_what_they_have(monkeypatch, name, capability, hip, reason):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: name)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(torch.version, "hip", hip)
    place = torch.device("cuda", 0)
    assert limits.without_units(place) == reason
    assert why_not("fp8", "triton", place, torch.bfloat16, SHAPES) == reason
    assert why_not("fp8", REFERENCE, place, torch.bfloat16, SHAPES) is None


def test_the_pieces_run_interpreted_where_there_are_no_units(monkeypatch):
    cpu = torch.device("cpu")
    assert limits.without_units(cpu) == "a device of type cpu has no fp8 units"
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert limits.why_not(cpu, torch.bfloat16) is None
    monkeypatch.delenv("TRITON_INTERPRET")
    assert "Triton has no kernels for CPUs" in (limits.why_not(cpu, torch.bfloat16) or "")
