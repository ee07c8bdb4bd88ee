"""What is taken to be cast by the ops that make it is what a model casts there."""

from collections import Counter

import pytest
import torch

from litespark.benchmarks.ops.fp8_runs import FUSED_CASTS
from litespark.mesh import Mesh
from litespark.models.llama.config import LlamaConfig
from litespark.models.llama.fp8 import enable_fp8
from litespark.models.llama.model import Llama
from litespark.ops.backend import OpsConfig, resolve
from litespark.ops.fp8.operands import Quantisation
from litespark.ops.fp8.reference import Pieces
from litespark.ops.fp8.settings import LINEARS, Fp8Config


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
    every = {f"{linear}.{tensor}" for linear in LINEARS for tensor in ("input", "gradient")}
    in_ops = set(FUSED_CASTS) if recipe == "delayed" else set()
    for fused, places in noted.items():
        # "blocks.1.mlp.down.input" -> "down.input"
        found = [".".join(state.scaling.names[place].split(".")[-2:]) for place in places]
        assert Counter(found) == Counter(2 * [*(in_ops if fused else every - in_ops)])
