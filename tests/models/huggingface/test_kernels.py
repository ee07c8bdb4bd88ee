"""Our ops as a mapping of the library `kernels`: where its version fits transformers, and by a stand-in where not."""

import importlib.metadata
import inspect
from types import MethodType
from unittest import mock

import pytest
import torch
from torch import nn
from transformers.utils import import_utils

import litespark
from tests.models.huggingface.families import build

_FITS = import_utils.is_kernels_available()


@pytest.fixture
def mapping():
    with mock.patch.object(import_utils, "is_kernels_available", return_value=True):
        return litespark.kernel_mapping()


def _like_kernels(model, mapping):
    """What `kernels.kernelize` does with a model whose layers are marked, and what it refuses."""
    module = inspect.getmodule(type(model))
    marked = {"RMSNorm": [part for part in model.modules() if type(part).__name__.endswith("RMSNorm")]}
    for mark, parts in marked.items():
        repository = mapping[mark]["cpu"]
        layer = repository.load()
        assert hash(repository) == hash(mapping[mark]["cpu"])
        assert issubclass(layer, nn.Module)
        assert layer.__init__ is nn.Module.__init__
        assert set(dir(layer)) - set(dir(nn.Module)) <= {"can_torch_compile", "has_backward"}
        for part in parts:
            theirs, ours = (inspect.signature(each.forward).parameters.values() for each in (type(part), layer))
            assert [it.kind for it in theirs] == [it.kind for it in ours]
            part.forward = MethodType(layer.forward, part)
    rotary = MethodType(mapping["rotary_pos_emb"]["cpu"].load().forward, nn.Module())
    assert list(inspect.signature(rotary).parameters) == list(inspect.signature(module.apply_rotary_pos_emb).parameters)
    return mock.patch.object(module, "apply_rotary_pos_emb", side_effect=rotary)


def _step(model):
    tokens = torch.arange(3, 23).view(2, 10)
    loss = model(tokens, labels=tokens, use_cache=False).loss
    loss.backward()
    return [loss.detach(), *(part.grad for part in model.parameters())]


@pytest.mark.skipif(_FITS, reason="the library itself is tried")
@pytest.mark.parametrize("family", ["llama", "qwen3"])
def test_a_model_with_the_mapping_computes_the_same(family, mapping):
    ours, theirs = build(family, num_hidden_layers=2).train(), build(family, num_hidden_layers=2).train()
    with _like_kernels(ours, mapping) as rotary:
        got = _step(ours)
        assert rotary.call_count == 2
    for one, other in zip(got, _step(theirs), strict=True):
        assert float((one - other).norm()) <= 1e-5 * float(other.norm())


@pytest.mark.skipif(not _FITS, reason="the version of kernels here is none for which transformers marks layers")
def test_the_library_itself_takes_the_mapping():
    import kernels

    ours, theirs = build("llama").train(), build("llama").train()
    with kernels.use_kernel_mapping(litespark.kernel_mapping(), inherit_mapping=False):
        kernels.kernelize(ours, mode=kernels.Mode.TRAINING, device="cpu")
    replaced = [part for part in ours.modules() if "forward" in vars(part)]
    rotary = [part for it in ours.modules() for part in getattr(it, "_kernel_funcs", {}).values()]
    by_us = [part for part in (*replaced, *rotary) if part.forward.__func__.__module__.startswith("litespark")]
    assert len(by_us) == 7 + 3  # norms, and layers that rotate
    for one, other in zip(_step(ours), _step(theirs), strict=True):
        assert float((one - other).norm()) <= 1e-5 * float(other.norm())


def test_norms_of_weights_about_zero_get_their_one(mapping):
    norm = build("gemma3_text", num_hidden_layers=1).model.norm
    x = torch.randn(4, 48)
    layer = mapping["RMSNormZeroCentered"]["cpu"].load()
    torch.testing.assert_close(layer.forward(norm, x), norm(x), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("version", [None, "0.17.2"])
def test_another_version_is_refused_with_those_that_fit(version, monkeypatch):
    found = mock.Mock(return_value=version)
    if version is None:
        found.side_effect = importlib.metadata.PackageNotFoundError
    monkeypatch.setattr(import_utils, "is_kernels_available", lambda: False)
    with (
        mock.patch.object(importlib.metadata, "version", found),
        pytest.raises(ValueError, match=rf"got {'kernels 0.17.2' if version else 'no kernels'}, expected kernels >= 0"),
    ):
        litespark.kernel_mapping()


def test_tables_of_another_width_are_refused(mapping):
    layer = mapping["rotary_pos_emb"]["cpu"].load()
    heads, half = torch.zeros(1, 2, 3, 8), torch.zeros(1, 3, 4)
    with pytest.raises(ValueError, match=r"got tables \(1, 3, 4\) for queries \(1, 2, 3, 8\), expected each angle"):
        layer.forward(nn.Module(), heads, heads, half, half)
