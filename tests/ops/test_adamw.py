"""AdamW in Triton beside PyTorch's fused AdamW on the CPU, bit for bit; and what the compiler makes of it."""

import os
import re
import subprocess
import sys

import pytest
import torch

from litespark.ops.adamw import verification
from litespark.ops.adamw.function import adamw_step
from litespark.ops.adamw.kernels import BLOCK, Tables, Update
from litespark.ops.verification import failures, verify_adamw

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
# PyTorch computes the last values of a tensor, fewer than a vector has, one by one and in double precision
SIZES = [(48, 16), (2 * BLOCK,), (BLOCK + 64,)]
SETTINGS = {
    "usual": {"lr": 3e-4, "betas": (0.9, 0.95), "eps": 1e-8, "weight_decay": 0.1},
    "no decay": {"lr": 0.01, "betas": (0.3, 0.999), "eps": 1e-3, "weight_decay": 0.0},
    "short averages": {"lr": 0.01, "betas": (0.7, 0.4), "eps": 1e-6, "weight_decay": 0.3},
}


class Both:
    """The same parameters in Triton's step and in PyTorch's."""

    def __init__(self, settings, sizes=SIZES, gradient_dtype=torch.float32):
        self.generator = torch.Generator().manual_seed(0)
        self.theirs = [torch.nn.Parameter(self.draw(size)) for size in sizes]
        self.reference = torch.optim.AdamW(self.theirs, fused=True, **settings)
        self.weights = [weight.detach().to(DEVICE, copy=True) for weight in self.theirs]
        self.moments = [[torch.zeros_like(weight) for weight in self.weights] for _ in range(2)]
        self.copies = [torch.zeros_like(weight, dtype=torch.bfloat16) for weight in self.weights]
        self.steps = [torch.zeros((), device=DEVICE) for _ in self.weights]
        self.settings, self.tables, self.gradient_dtype = settings, Tables(), gradient_dtype

    def draw(self, size):
        return torch.randn(size, generator=self.generator)

    def step(self, scale=1.7, skipped=False):
        scalars = {"grad_scale": torch.tensor(scale), "found_inf": torch.tensor(float(skipped))}
        gradients = [(self.draw(weight.shape) / 100).to(self.gradient_dtype) for weight in self.theirs]
        for weight, gradient in zip(self.theirs, gradients, strict=True):
            weight.grad = gradient.float().clone()
        self.reference.grad_scale, self.reference.found_inf = scalars.values()
        self.reference.step()
        given = [gradient.to(DEVICE, copy=True) for gradient in gradients]
        updates = list(map(Update, self.weights, given, *self.moments, self.copies))
        on_device = {name: scalar.to(DEVICE) for name, scalar in scalars.items()}
        adamw_step(updates, self.steps, self.tables, **self.settings, **on_device)
        assert all(map(torch.equal, given, [gradient.to(DEVICE) for gradient in gradients])), "gradients are as before"

    def ours(self):
        return [x.cpu() for tensors in (self.weights, *self.moments, self.steps) for x in tensors]

    def expected(self):
        states = [self.reference.state[weight] for weight in self.theirs]
        return [w.detach() for w in self.theirs] + [s[k] for k in ("exp_avg", "exp_avg_sq", "step") for s in states]


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS.keys())
def test_steps_are_those_of_pytorch_on_a_cpu_bit_for_bit(settings):
    both = Both(settings)
    for number in range(4):
        both.step(scale=0.3 + number, skipped=number == 2)
        assert all(map(torch.equal, both.ours(), both.expected()))
    assert all(torch.equal(copy, weight.bfloat16()) for copy, weight in zip(both.copies, both.weights, strict=True))


@pytest.mark.parametrize("skipped", [False, True])
def test_gradients_in_bf16_and_tensors_that_are_not_aligned(skipped):
    both = Both(SETTINGS["usual"], [(BLOCK + 5,), (64,), (3,), (0,)], torch.bfloat16)
    both.step()
    both.step(skipped=skipped)
    for ours, expected in zip(both.ours(), both.expected(), strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-6, atol=0)
    assert both.steps[0] == (1 if skipped else 2)


def test_a_rate_that_is_a_tensor_is_read_where_it_lies_and_tensors_that_move_are_found_again():
    number, tensor = (Both(SETTINGS["usual"] | {"lr": 0.01}) for _ in range(2))
    tensor.settings = tensor.settings | {"lr": torch.tensor(0.01, dtype=torch.float64, device=DEVICE)}
    for both in (number, tensor):
        both.step()
    number.settings = number.settings | {"lr": 0.02}
    tensor.settings["lr"].fill_(0.02)
    tensor.weights = [weight.clone() for weight in tensor.weights]
    for both in (number, tensor):
        both.step()
    assert all(map(torch.equal, number.ours(), tensor.ours()))


def test_a_wrong_kernel_fails_its_verification(monkeypatch):
    assert failures(verify_adamw(DEVICE)) == []

    def without_correction(*arguments, **settings):
        adamw_step(*arguments, **settings | {"betas": (0.9, 0.96)})

    monkeypatch.setattr(verification, "adamw_step", without_correction)
    wrong = failures(verify_adamw(DEVICE))
    assert len(wrong) == 2
    assert {d.tensor.split()[0] for d in wrong[0].differences if not d.passed} == {"weight", "second"}


INSTRUCTIONS = """
import re, sys
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from litespark.ops.compilation import compilations
from litespark.ops.triton_support import TARGETS
made, _ = next(compilations(["litespark.ops.adamw.kernels"], [TARGETS["sm_90"]], every=False))
places = {name: (index,) for index, name in enumerate(made.types)}
attributes = {places[name]: kinds for name, kinds in made.attributes.items()}
source = ASTSource(made.kernel, made.types, constexprs=made.constants, attrs=attributes)
print(triton.compile(source, target=GPUTarget("cuda", 90, 32), options=dict(made.options)).asm["ptx"])
"""


def test_on_hopper_each_operation_rounds_as_on_the_cpu_and_memory_is_read_in_16_bytes():
    """What the interpreter shows of the arithmetic holds for the compiled kernel: the same IEEE operations, two of them
    fused multiply-adds, nothing flushed to zero or approximated."""
    pytest.importorskip("triton")
    environment = {**os.environ, "TRITON_INTERPRET": "0"}
    command = [sys.executable, "-c", INSTRUCTIONS]
    finished = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    names = re.findall(r"^\s*(?:@\S+ )?([a-z0-9]+(?:\.\w+(?:::\w+)?)*\.f32)\b", finished.stdout, re.MULTILINE)
    counts = {name: names.count(name) for name in names if not name.startswith(("cvt", "setp"))}
    values = counts["sqrt.rn.f32"]  # of a thread
    assert counts == {
        "sqrt.rn.f32": values, "sub.rn.f32": values, "div.rn.f32": 3 * values, "fma.rn.f32": 2 * values,
        "add.rn.f32": 2 * values, "mul.rn.f32": 4 * values,
    }  # fmt: skip
    wide = re.findall(r"(ld|st)\.global\.v4\.b32", finished.stdout)
    assert (wide.count("ld"), wide.count("st")) == (4 * values // 4, 3 * values // 4 + values // 8)
