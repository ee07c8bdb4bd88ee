"""What the casts of a step in fp8 move, against figures worked out by hand and against the casts themselves."""

import pytest
import torch

from litespark.ops.fp8.emission import Emission
from litespark.ops.fp8.formats import E4M3
from litespark.ops.fp8.reference import PIECES
from litespark.ops.fp8.settings import LINEARS, Fp8Config
from litespark.ops.shapes import StepShapes
from litespark.ops.work import cast_bytes, linear_sizes

# the 3 B model: 16 384 tokens in a micro-batch, 28 layers
R3 = StepShapes(4, 4096, 3072, 24, 8, 128, 8192, 32000)
LAYERS = 28
COPIES = 4.3e12


def milliseconds(found) -> float:
    return 1e3 * sum(each.added for each in found) / COPIES


def test_fused_casts_add_less_than_six_milliseconds_to_the_step_of_the_3b_model():
    found = cast_bytes(R3, LAYERS, Fp8Config())
    # the attended heads, the gradient of qkv and that of the update: 3072 + 5120 + 3072 values a token, each read in
    # bf16 and written twice: 28 · 16 384 · 11 264 · 4 bytes = 20.7e9
    assert sum(each.added for each in found) == 28 * 16384 * 11264 * 4
    assert milliseconds(found) == pytest.approx(4.81, abs=0.01)
    assert milliseconds(found) < 6
    by_itself = {each.tensor for each in found if not each.fused}
    assert by_itself == {"output.input", "qkv.gradient", "down.gradient", *(f"{each}.weight" for each in LINEARS)}
    # once a step from fp32, where autocast does it in every micro-batch: as much with one of them
    assert {each.added for each in found if each.tensor.endswith(".weight")} == {0}


def test_casts_by_themselves_with_scales_of_their_own_take_about_33_milliseconds():
    found = cast_bytes(R3, LAYERS, Fp8Config(recipe="tensorwise"))
    # 45 056 values a token, each read twice in bf16 and written twice: 28 · 16 384 · 45 056 · 6 bytes = 124.0e9;
    # weights 2 818 572 288, read twice in fp32 and written twice, less the 6 bytes of autocast: 4 more each
    assert sum(each.added for each in found) == 28 * 16384 * 45056 * 6 + 2818572288 * 4
    assert milliseconds(found) == pytest.approx(33, rel=0.1)
    assert not any(each.fused for each in found)
    # known scales alone spare a third of the reading and writing
    assert 19 < milliseconds(cast_bytes(R3, LAYERS, Fp8Config(), fused=False)) < 20


def test_a_cast_moves_what_goes_in_and_what_comes_out():
    x = torch.randn(32, 48).bfloat16()
    operand = PIECES.cast(x, Emission(E4M3, torch.ones(())))
    moved = sum(each.numel() * each.element_size() for each in (x, operand.rows.values, operand.columns.values))
    shapes = StepShapes(1, 32, 48, 3, 1, 16, 64, 97)
    (found,) = [each for each in cast_bytes(shapes, 1, Fp8Config(), fused=False) if each.tensor == "output.input"]
    assert (found.moved, found.spared) == (moved, 0)


def test_only_what_is_in_fp8_counts():
    whole = cast_bytes(R3, LAYERS, Fp8Config())
    cut = cast_bytes(R3, LAYERS, Fp8Config(linears=("qkv", "down"), bf16_first=2, bf16_last=12))
    assert {each.tensor.split(".")[0] for each in cut} == {"qkv", "down"}
    halves = {each.tensor: each.moved / 2 for each in whole}
    assert all(each.moved == halves[each.tensor] for each in cut)
    assert milliseconds(cast_bytes(R3, 2, Fp8Config(bf16_first=2, bf16_last=12))) == 0


def test_more_micro_batches_cast_their_activations_and_share_the_weights():
    one, four = (cast_bytes(R3, LAYERS, Fp8Config(), accumulate=count) for count in (1, 4))
    for before, after in zip(one, four, strict=True):
        weight = after.tensor.endswith(".weight")
        assert after.moved == (before.moved if weight else 4 * before.moved)
        assert after.spared == 4 * before.spared


def test_the_linear_layers_are_those_of_a_block():
    assert linear_sizes(R3) == {
        "qkv": (3072, 5120),
        "output": (3072, 3072),
        "gate_up": (3072, 16384),
        "down": (8192, 3072),
    }
    assert tuple(linear_sizes(R3)) == LINEARS
