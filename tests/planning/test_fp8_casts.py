"""What the casts of a step in fp8 move, against figures worked out by hand and against the casts themselves."""

from collections import Counter
from dataclasses import replace

import pytest
import torch

from litespark.mesh import Mesh
from litespark.models.llama.config import LlamaConfig
from litespark.models.llama.fp8 import enable_fp8
from litespark.models.llama.model import Llama
from litespark.ops.backend import OpsConfig, resolve
from litespark.ops.fp8.operands import Quantisation
from litespark.ops.fp8.reference import Pieces
from litespark.ops.fp8.settings import LINEARS, Fp8Config
from litespark.planning.fp8_casts import cast_bytes
from tests.models.small import R3

# 16 384 tokens in a micro-batch
SHAPES = R3.step_shapes(4, 4096, documents=False)
COPIES = 4.3e12


def milliseconds(found) -> float:
    return 1e3 * sum(each.added for each in found) / COPIES


def test_fused_casts_add_less_than_six_milliseconds_to_the_step_of_the_3b_model():
    found = cast_bytes(R3, SHAPES, Fp8Config())
    # the attended heads, the gradient of qkv and that of the update: 3072 + 5120 + 3072 values a token, each read in
    # bf16 and written twice: 28 · 16 384 · 11 264 · 4 bytes = 20.7e9; and one byte of three norms of 3072: 4.2e9
    assert sum(each.added for each in found) == 28 * 16384 * (11264 * 4 + 9216)
    assert milliseconds(found) == pytest.approx(5.79, abs=0.01)
    assert milliseconds(found) < 6
    by_itself = {each.tensor for each in found if not each.fused}
    assert by_itself == {"output.input", "qkv.gradient", "down.gradient", *(f"{each}.weight" for each in LINEARS)}
    # once a step from fp32, where autocast does it in every micro-batch: as much with one of them
    assert {each.added for each in found if each.tensor.endswith(".weight")} == {0}


def test_casts_by_themselves_with_scales_of_their_own_take_about_33_milliseconds():
    found = cast_bytes(R3, SHAPES, Fp8Config(recipe="tensorwise"))
    # 45 056 values a token, each read twice in bf16 and written twice: 28 · 16 384 · 45 056 · 6 bytes = 124.0e9;
    # weights 2 818 572 288, read twice in fp32 and written twice, less the 6 bytes of autocast: 4 more each
    assert sum(each.added for each in found) == 28 * 16384 * 45056 * 6 + 2818572288 * 4
    assert milliseconds(found) == pytest.approx(33, rel=0.1)
    assert not any(each.fused for each in found)
    # known scales alone spare a third of the reading and writing
    assert 19 < milliseconds(cast_bytes(R3, SHAPES, Fp8Config(), fused=False)) < 20


def test_only_what_is_in_fp8_counts():
    whole = cast_bytes(R3, SHAPES, Fp8Config())
    cut = cast_bytes(R3, SHAPES, Fp8Config(linears=("qkv", "down"), bf16_first=2, bf16_last=12))
    assert {each.tensor.split(".")[0] for each in cut} == {"qkv", "down"}
    halves = {each.tensor: each.moved / 2 for each in whole}
    assert all(each.moved == halves[each.tensor] for each in cut)
    assert milliseconds(cast_bytes(replace(R3, num_layers=2), SHAPES, Fp8Config(bf16_first=2, bf16_last=12))) == 0


def test_more_micro_batches_cast_their_activations_and_share_the_weights():
    one, four = (cast_bytes(R3, SHAPES, Fp8Config(), accumulate=count) for count in (1, 4))
    for before, after in zip(one, four, strict=True):
        weight = after.tensor.endswith(".weight")
        assert after.moved == (before.moved if weight else 4 * before.moved)
        assert after.spared == 4 * before.spared


def _noting(name):
    """The piece of that name, which tells whether what it casts is cast on its way."""

    def piece(self, *arguments, **options):
        self.fusing = any(isinstance(each, Quantisation) and each.fused for each in arguments)
        found = getattr(Pieces, name)(self, *arguments, **options)
        self.fusing = False
        return found

    return piece


class Noted(Pieces):
    """Which tensors are cast by themselves, and which by the ops that make them, by their place among the scales."""

    def __init__(self) -> None:
        self.casts: dict[bool, list[int]] = {True: [], False: []}
        self.fusing = False

    def cast(self, x, quantisation):
        if quantisation.amax is not None:
            self.casts[self.fusing].append(quantisation.amax.storage_offset())
        return super().cast(x, quantisation)

    add_rms_norm, add_rms_norm_backward = _noting("add_rms_norm"), _noting("add_rms_norm_backward")
    swiglu, swiglu_backward = _noting("swiglu"), _noting("swiglu_backward")


@pytest.mark.parametrize("recipe", ["delayed", "tensorwise"])
def test_what_is_said_to_be_fused_is_what_a_model_casts_in_its_ops(recipe):
    config = Fp8Config(recipe=recipe, simulate=True)
    small = LlamaConfig("t", 32, 2, 4, 2, 48, 61, 16)
    model, pieces = Llama(small, resolve(OpsConfig())), Noted()
    state = enable_fp8(model, config, pieces)
    tokens = torch.randint(61, (2, 16))
    for _ in range(2):  # of the first step no scale is known
        pieces.casts = {True: [], False: []}
        model(tokens, tokens).backward()
        noted = {fused: [*places] for fused, places in pieces.casts.items()}
        state.finish_step(Mesh())
    casts = cast_bytes(small, small.step_shapes(2, 16, documents=False), config)
    for fused, places in noted.items():
        # "blocks.1.mlp.down.input" -> "down.input"
        found = [".".join(state.scaling.names[place].split(".")[-2:]) for place in places]
        expected = {each.tensor for each in casts if each.fused is fused and not each.tensor.endswith(".weight")}
        assert Counter(found) == Counter(2 * list(expected))
