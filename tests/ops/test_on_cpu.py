"""The passes in C++: compiled once, the same for any number of threads, and what holds where there is no compiler.

That each op equals its reference is tested beside the other backends of the op.
"""

import subprocess

import pytest
import torch

from litespark.ops import on_cpu
from litespark.ops.backend import load, why_not
from litespark.ops.linear_cross_entropy.on_cpu import losses
from litespark.ops.linear_cross_entropy.rows import Settings
from litespark.ops.rms_norm.reference import rms_norm

CPU = torch.device("cpu")
needs_compiler = pytest.mark.skipif(on_cpu.why_not(CPU, torch.float32) is not None, reason="no C++ compiler")


@pytest.fixture
def found_anew():
    """The library is looked for again, in the test and after it."""
    on_cpu._library.cache_clear()
    yield
    on_cpu._library.cache_clear()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(64, 96, 32), (64, 32, 96), (70, 33, 31), (2, 5, 9), (31, 40, 8)])
@needs_compiler
def test_a_product_with_a_transposed_factor_is_that_of_pytorch(shape, dtype):
    tokens, left, right = shape
    generator = torch.Generator().manual_seed(0)
    # whole numbers, whose sums are exact
    a, b = (torch.randint(-4, 5, (tokens, n), generator=generator).bfloat16() for n in (left, right))
    apart = torch.full((tokens, left + 8), torch.nan, dtype=a.dtype)
    apart[:, :left], apart[:, left] = a, 0
    for first in (a, apart[:, :left]):
        product = on_cpu.transposed_product(first, b, dtype)
        assert product.dtype == dtype
        assert torch.equal(product.float(), (a.float().t() @ b.float()).to(a.dtype).float())


@needs_compiler
def test_gradients_are_the_same_bits_for_any_number_of_threads():
    generator = torch.Generator().manual_seed(0)
    x, weight = torch.randn(300, 48, generator=generator), torch.randn(48, generator=generator)
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            leaves = [tensor.clone().requires_grad_() for tensor in (x, weight)]
            y = load("rms_norm", "cpu")(*leaves, 1e-5)
            found.append((y.detach(), *torch.autograd.grad(y.sin().sum(), leaves)))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@needs_compiler
def test_what_is_not_finite_is_not_hidden(dtype):
    logits = torch.zeros(4, 40, dtype=dtype)
    logits[0, 3], logits[1, 3], logits[2, 3], logits[3, 3] = torch.nan, torch.inf, -torch.inf, torch.nan
    found = losses(logits, torch.tensor([1, 1, 3, -100]), Settings(), with_gradient=True)
    assert found.loss[0].isnan()
    assert not found.loss[1].isfinite()
    assert found.loss[2] == torch.inf
    assert found.loss[3] == 0
    assert logits[0].isnan().all()
    assert not logits[3].any()


def test_without_a_compiler_pytorch_computes_and_the_reason_says_what_to_install(found_anew, monkeypatch, tmp_path):
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "install g++" in str(why_not("rms_norm", "cpu", CPU, torch.float32))
    x, weight = torch.randn(3, 8), torch.ones(8)
    torch.testing.assert_close(load("rms_norm", "cpu")(x, weight, 1e-5), rms_norm(x, weight, 1e-5))


def test_what_the_compiler_said_is_told(found_anew, monkeypatch, tmp_path):
    compiler = tmp_path / "compiler"
    compiler.write_text("#!/bin/sh\necho unknown processor >&2\nexit 1\n")
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", str(compiler))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert "unknown processor" in str(why_not("swiglu", "cpu", CPU, torch.float32))
    assert not list((tmp_path / "cache").rglob("*.so"))


@needs_compiler
def test_a_second_process_compiles_nothing(found_anew, monkeypatch):
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: pytest.fail("compiled again"))
    assert why_not("swiglu", "cpu", CPU, torch.float32) is None


@needs_compiler
def test_a_damaged_library_is_compiled_again_by_a_compiler_of_several_words(found_anew, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("CXX", "env g++")
    monkeypatch.setattr(on_cpu, "_FLAGS", ("-O0", "-fopenmp", "-shared", "-fPIC"))  # which is quick
    file = on_cpu._compiled()
    file.write_bytes(b"")
    assert not isinstance(on_cpu._library(), str)
    assert file.stat().st_size > 0
