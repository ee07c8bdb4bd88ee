"""The training state in memory, and the memory that there is."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from litespark.models.llama.config import LlamaConfig
from litespark.models.llama.model import Llama
from litespark.ops.backend import OpsConfig, resolve
from litespark.ops.fp8.settings import Fp8Config
from litespark.ops.linear.kept import KeptLinear
from litespark.planning.memory import layers_that_fit, training_state_bytes
from litespark.training.optim import AdamWConfig, MuonConfig, build_optimizer

CPU = torch.device("cpu")


def config(**changes):
    sizes = {"name": "small", "hidden_size": 16, "num_layers": 2, "num_heads": 2, "num_kv_heads": 1,
             "intermediate_size": 24, "vocab_size": 31, "max_seq_len": 8}  # fmt: skip
    return LlamaConfig(**(sizes | changes))


@pytest.mark.parametrize("tie_embeddings", [False, True])
@pytest.mark.parametrize("settings", [AdamWConfig(), MuonConfig()], ids=["adamw", "muon"])
def test_the_state_is_what_a_step_of_training_holds(tie_embeddings, settings):
    sizes = config(tie_embeddings=tie_embeddings, attention_bias=tie_embeddings, mlp_bias=tie_embeddings)
    model = Llama(sizes, resolve(OpsConfig()))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.02)
    optimizer = build_optimizer(model, settings)
    tokens = torch.zeros(1, 4, dtype=torch.long)
    model(tokens, tokens).backward()
    optimizer.step()
    held = sum(p.nbytes + p.grad.nbytes for p in model.parameters())
    # less the step counters, one number a parameter
    held += sum(value.nbytes for state in optimizer.state.values() for value in state.values() if value.ndim)
    assert training_state_bytes(sizes, optimizer=settings) == held


class OneMatrix(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 6)

    def matrices(self):
        return {self.linear.weight: (6,)}


def test_of_any_model_muon_keeps_one_moment_of_what_it_optimizes():
    other = SimpleNamespace(parameter_count=lambda: 30, build=lambda ops, recompute: OneMatrix())
    assert training_state_bytes(other, optimizer=AdamWConfig()) == 16 * 30
    assert training_state_bytes(other, optimizer=MuonConfig()) == 16 * 30 - 4 * 24


@pytest.mark.parametrize(
    "settings, weights",
    [
        # of hidden size 16 with 2 heads and one for keys (16 + 16 rows of qkv), intermediate size 24
        (Fp8Config(), 3 * (32 * 16 + 16 * 16 + 48 * 16 + 16 * 24)),
        # the others of a block are kept in bf16
        (Fp8Config(linears=("output",), bf16_first=1, bf16_last=1), 32 * 16 + 16 * 16 + 48 * 16 + 16 * 24),
    ],
)
def test_weights_of_blocks_in_fp8_are_kept_beside_their_masters_as_they_are_multiplied(settings, weights):
    three = config(num_layers=3)
    assert training_state_bytes(three, fp8=settings) - training_state_bytes(three) == 2 * weights


def test_shards_divide_it_rounded_up():
    whole = training_state_bytes(config())
    assert training_state_bytes(config(), 2) == whole // 2
    assert training_state_bytes(config(), 7) * 7 >= whole > (training_state_bytes(config(), 7) - 1) * 7


def test_as_many_layers_fit_as_their_state_has_room_for():
    whole = config(num_layers=40)
    ten = training_state_bytes(config(num_layers=10))
    assert layers_that_fit(whole, ten, share=1.0) == 10
    assert layers_that_fit(whole, ten - 1, share=1.0) == 9
    assert layers_that_fit(whole, 2 * ten, share=0.5) == 10
    assert layers_that_fit(whole, 1) == 1
    assert layers_that_fit(whole, 100 * ten) == 40


def test_weights_that_are_kept_in_bf16_are_counted():
    model = Llama(config(), resolve(OpsConfig()))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.02)
    build_optimizer(model, AdamWConfig())
    tokens = torch.zeros(1, 4, dtype=torch.long)
    with torch.autocast("cpu", torch.bfloat16):
        model(tokens, tokens)
    kept = sum(module._cast.nbytes for module in model.modules() if isinstance(module, KeptLinear))
    assert training_state_bytes(config(), keeps_casts=True) - training_state_bytes(config()) == kept > 0
    both = training_state_bytes(config(), fp8=Fp8Config(bf16_first=1, bf16_last=0), keeps_casts=True)
    assert both - training_state_bytes(config()) == kept, "in fp8 a weight is held twice, in half as many bytes"
