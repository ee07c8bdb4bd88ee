"""With the patches kept, a kernel computes what it does without, and the language is as it was before."""

import pytest
import torch
import triton
from triton import language as tl
from triton.runtime import interpreter

from tests import kept_patches

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="kernels run natively on a GPU")


@triton.jit
def _scaled(x, by):
    return tl.sum(x, axis=0) + tl.cumsum(x, axis=0) * by


@triton.jit
def _kernel(x, out, SIZE: tl.constexpr, FAIL: tl.constexpr):
    here = tl.arange(0, SIZE)
    for times in tl.range(1, 4):
        tl.store(out + times * SIZE + here, _scaled(tl.load(x + here), times))
    if FAIL:
        tl.store(out + here, tl.zeros((SIZE + 1,), tl.float32))  # no power of two


def _run(fail=False):
    x, out = torch.arange(8.0), torch.zeros(4, 8)
    _kernel[(2,)](x, out, SIZE=8, FAIL=fail)
    return out


def _language():
    return [name for part in (tl, tl.tensor, tl.math) for name, it in vars(part).items() if tl.core.is_builtin(it)]


def test_a_kernel_computes_the_same_and_the_language_is_as_it_was(monkeypatch):
    before = _language()
    kept = _run()
    with pytest.raises(interpreter.InterpreterError):
        _run(fail=True)
    assert _language() == before
    assert _run().equal(kept)
    monkeypatch.setattr(interpreter, "_patch_lang", kept_patches._patch)
    assert _run().equal(kept)
    assert kept[1:].unique().numel() > 8


def test_it_is_done_once_a_launch_for_each_module(monkeypatch):
    patched, patch = [], kept_patches._patch
    monkeypatch.setattr(kept_patches, "_patch", lambda fn: patched.append(fn.__module__) or patch(fn))
    for launch in (1, 2):
        _run()
        assert sorted(patched) == sorted(launch * [__name__, "triton.language.standard"])
